"""Teachers that are networks: snapshots and averages of the student, given and trained ones.

Each has `predict(step) -> logits`, float32 `[batch, classes]`.
"""

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd import outputs
from keras_lstsd.data.arrays import checksum
from keras_lstsd.step import Step
from keras_lstsd.taps import split, tapped


class Snapshot(keras.layers.Layer):
    """A second set of the student's weights, BatchNorm's statistics included.

    A model makes the copies at its first use (`attach`). Until `take` or `average` is called they
    are the weights at that time, and `known` is False. Seeds and other integer states are not
    copied; they belong to the student.

    Example:
        >>> snapshot = keras_lstsd.teachers.Snapshot()
        >>> snapshot.attach(model)           # a method of keras_lstsd; `fit` does this
        >>> snapshot.take()
        >>> outputs = snapshot(x_test)       # with the weights as they were
    """

    def __init__(self, name: str | None = None):
        super().__init__(trainable=False, dtype="float32", autocast=False, name=name)
        self.supports_masking = True

    def attach(self, model: Any) -> None:
        """Copies the weights of a model's network."""
        # No reference of its own: Keras would track the student as a part of its teacher.
        self._model = weakref.ref(model)
        self.updates = self._add("updates", "zeros", (), "int32")
        self.copies = [
            self._add(
                f"copy_{number}",
                lambda shape, dtype, weight=weight: ops.copy(weight),
                weight.shape,
                weight.dtype,
            )
            for number, weight in enumerate(_floats(self.network))
        ]
        self.built = True

    def _add(self, name: str, initializer: Any, shape: tuple, dtype: str) -> keras.Variable:
        # Equal on all replicas, so the first one's value is taken.
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def network(self) -> keras.Model:
        """The network whose weights are copied."""
        return self._model().student

    def _runs(self) -> keras.Model:
        """What a call runs: the network, or a model of its layers."""
        return self.network

    @property
    def known(self) -> Any:
        """Whether the copies are a teacher yet, a boolean scalar."""
        return ops.convert_to_tensor(self.updates) > 0

    def take(self) -> None:
        """Copies the student's present weights."""
        for copy, weight in self._pairs():
            copy.assign(ops.copy(weight))
        self.updates.assign_add(1)

    def average(self, momentum: float) -> None:
        """`w' <- a w' + (1 - a) w` with `a = min(1 - 1/(t+1), momentum)` in call t = 0, 1, ..."""
        step = ops.cast(self.updates, "float32")
        momentum = ops.minimum(1 - 1 / (step + 1), momentum)
        for copy, weight in self._pairs():
            share = ops.cast(momentum, copy.dtype)
            copy.assign(share * copy + (1 - share) * ops.convert_to_tensor(weight))
        self.updates.assign_add(1)

    def call(self, inputs: Any) -> Any:
        """The student's outputs with these weights, in inference mode.

        As a layer's call it leaves alone the losses that the student added in its own pass.
        """
        copies = {id(weight): copy for copy, weight in self._pairs()}
        mapping = [
            (variable, ops.convert_to_tensor(copies.get(id(variable), variable)))
            for variable in self.network.variables
        ]
        with keras.StatelessScope(state_mapping=mapping):
            return self._runs()(inputs, training=False)

    def predict(self, step: Step) -> Any:
        """The teacher's logits for the inputs of a step, float32 `[batch, classes]`."""
        return ops.stop_gradient(self._model().logits_of(self(step.inputs)))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Puts these weights into the student for the duration of a context."""
        weights = _floats(self.network)
        own = [ops.copy(weight) for weight in weights]
        try:
            for copy, weight in self._pairs():
                weight.assign(ops.copy(copy))
            yield
        finally:
            for weight, value in zip(weights, own, strict=True):
                weight.assign(value)

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Each copy with its weight of the student."""
        weights = _floats(self.network)
        shapes = [tuple(weight.shape) for weight in weights]
        copied = [tuple(copy.shape) for copy in self.copies]
        if shapes != copied:
            raise ValueError(
                "The student's weights changed after its teacher was made, as `enable_lora` and "
                f"`quantize` do. Received: {len(shapes)} weights of shapes {shapes}. Expected: "
                f"{len(copied)}, of shapes {copied}; change the student before the first `fit`, or "
                "wrap it again."
            )
        return list(zip(self.copies, weights, strict=True))


def without_side_effects(network: keras.Model) -> keras.StatelessScope:
    """A scope in which calls of a network change none of its variables."""
    variables = network.variables
    return keras.StatelessScope([(it, ops.convert_to_tensor(it)) for it in variables])


class _Other:
    """A teacher with a network of its own: its inputs, and the meaning of its outputs."""

    def _set_network(
        self, network: keras.Model, inputs: Callable | None, from_logits: bool | None
    ) -> keras.Model:
        """Checks a network and what belongs to it; returns the network itself."""
        # A wrapped classifier stands for the student inside.
        network = getattr(network, "student", network)
        if not isinstance(network, keras.Model) or not network.built:
            raise ValueError(
                "`teacher` must be a classifier that is built. "
                f"Received: {network!r}. Expected: a Keras model with an output [batch, classes]; "
                "write `teacher(x[:1])` to build it."
            )
        if from_logits is None:
            from_logits = getattr(network, "from_logits", None)
        self.from_logits = outputs.ends_in_logits(network) if from_logits is None else from_logits
        self.inputs = inputs
        return network

    def check_classes(self, num_classes: int) -> None:
        """Rejects a network for other classes than the student's."""
        classes = max(outputs.units(self.network), 2)
        if classes != num_classes:
            raise ValueError(
                "The teacher's classes do not match the student's. "
                f"Received: a teacher of {classes} classes for a student of {num_classes}. "
                "Expected: the same classes in the same order."
            )

    def logits_of(self, y_pred: Any) -> Any:
        """The network's outputs as float32 logits `[batch, classes]`."""
        return outputs.logits_of(self.network, y_pred, self.from_logits)

    def inputs_of(self, x: Any) -> Any:
        """The network's inputs for the student's inputs."""
        return x if self.inputs is None else self.inputs(x)

    def get_config(self) -> dict:
        return {
            "network": keras.saving.serialize_keras_object(self.network),
            "inputs": keras.saving.serialize_keras_object(self.inputs),
            "from_logits": self.from_logits,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict) -> Any:
        values = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("network", "inputs")
        }
        return cls(**(config | values))


@keras.saving.register_keras_serializable("keras_lstsd")
class Given(_Other, Snapshot):
    """A given network. It runs in inference mode, and is never trained.

    A model makes a copy of its weights at its first use, so a later training of the network does
    not change the teacher. The copy is not part of weight files and backups, where its checksum
    stands for it. A `.keras` file contains it.

    Args:
        network: a built Keras classifier, or a method of keras_lstsd around one. It may end in
            softmax, in logits or in one sigmoid unit.
        inputs: None, or a function from the student's inputs to those of this network.
        from_logits: whether the outputs are logits. None: decided by the last layer.
        anchors: None, or the weights of the network at several times, as `get_weights` returns
            them; `use(number)` chooses one.

    Raises:
        ValueError: for what is not a built Keras model, and for other classes than the student's.

    Example:
        >>> teacher = keras_lstsd.teachers.Given(big_classifier)
        >>> model = keras_lstsd.KnowledgeDistillation(student, teacher)
    """

    def __init__(
        self,
        network: keras.Model,
        inputs: Callable | None = None,
        from_logits: bool | None = None,
        anchors: Sequence[Sequence[np.ndarray]] | None = None,
        name: str = "teacher",
    ):
        super().__init__(name=name)
        network = self._set_network(network, inputs, from_logits)
        # Functions, as Keras would track the network as a part of the model.
        self._network = lambda: network
        self._anchors = lambda: anchors
        self._checksum = None
        # Names of the layers whose outputs `predict_with_features` returns.
        self.taps = ()
        self.tapped = functools.cache(lambda: tapped(network, self.taps))
        # Whether the model's step runs it; `.keras` files store its weights.
        self.runs_in_step, self.is_stored = True, False

    @property
    def network(self) -> keras.Model:
        """The given network."""
        return self._network()

    @property
    def num_anchors(self) -> int:
        """How many networks there are to choose from."""
        return len(self._anchors() or [None])

    def attach(self, model: Any) -> None:
        """Copies the weights of the network.

        Raises:
            ValueError: for other classes than the student's.
        """
        self.check_classes(model.num_classes)
        self.fingerprint()
        self._runs()
        if self.runs_in_step:
            super().attach(model)
        self.built = True

    def _runs(self) -> keras.Model:
        return self.tapped() if self.taps else self.network

    def predict(self, step: Step) -> Any:
        """The teacher's logits for the inputs of a step, float32 `[batch, classes]`."""
        return self.predict_with_features(step)[0]

    def predict_with_features(self, step: Step) -> tuple[Any, dict[str, Any]]:
        """The teacher's logits, and the outputs of its layers `taps` by name, of one pass."""
        y_pred, features = split(self(self.inputs_of(step.inputs)))
        return keras.tree.map_structure(ops.stop_gradient, (self.logits_of(y_pred), features))

    def ask(self, x: Any) -> Any:
        """The teacher's logits for inputs of the student, outside a step."""
        # `predict_on_batch` would run the whole batch on each replica.
        return self.logits_of(self.network(self.inputs_of(x), training=False))

    def use(self, number: int) -> None:
        """Makes the anchor of that number the teacher."""
        weights = (self._anchors() or [self.network.get_weights()])[number]
        for copy, weight in zip(self.copies, _floats_of(self.network, weights), strict=True):
            copy.assign(weight)

    def fingerprint(self) -> int:
        """A checksum of the weights at the first use, for the run fingerprint."""
        if self._checksum is None:
            self._checksum = checksum(self._anchors() or self.network.get_weights())
        return self._checksum

    def save_own_variables(self, store) -> None:
        if not self.is_stored:
            return
        for anchor, weights in enumerate(self._anchors() or [self.network.get_weights()]):
            for number, weight in enumerate(weights):
                store[f"{anchor}_{number}"] = weight

    def load_own_variables(self, store) -> None:
        keys = [tuple(map(int, key.split("_"))) for key in store.keys()]  # noqa: SIM118
        if not keys:
            return
        anchors = [[] for _ in range(max(keys)[0] + 1)]
        for anchor, number in sorted(keys):
            anchors[anchor].append(np.array(store[f"{anchor}_{number}"]))
        if len(anchors) > 1:
            self._anchors = lambda: anchors
        self.network.set_weights(anchors[-1])
        for copy, weight in self._pairs() if self.runs_in_step else ():
            copy.assign(ops.copy(weight))


@keras.saving.register_keras_serializable("keras_lstsd")
class Trained(_Other, keras.layers.Layer):
    """A network that is trained beside the student, with an optimizer of its own.

    Args:
        network: a built Keras classifier.
        inputs: None, or a function from the student's inputs to those of this network.
        from_logits: whether the outputs are logits. None: decided by the last layer.

    Raises:
        ValueError: for what is not a built Keras model, and for other classes than the student's.

    Example:
        >>> model = keras_lstsd.ProKT(student, keras_lstsd.teachers.Trained(big_classifier))
    """

    def __init__(
        self,
        network: keras.Model,
        inputs: Callable | None = None,
        from_logits: bool | None = None,
        name: str = "teacher",
    ):
        super().__init__(dtype="float32", autocast=False, name=name)
        self.network = self._set_network(network, inputs, from_logits)
        self.optimizer = None

    def attach(self, model: Any) -> None:
        """Makes the variables of the optimizer.

        Raises:
            ValueError: for other classes than the student's.
        """
        self.check_classes(model.num_classes)
        if self.optimizer is not None:
            self.optimizer.build(self.network.trainable_variables)
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of the network, and of its optimizer: state of each step."""
        return super().variables + ([] if self.optimizer is None else self.optimizer.variables)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.network(self.inputs_of(inputs), training=training)

    def predict(self, step: Step) -> Any:
        """The teacher's logits for the inputs of a step, as in training, without side effects."""
        with without_side_effects(self.network):
            y_pred = self(step.inputs, training=True)
        return ops.stop_gradient(self.logits_of(y_pred))


def set_teacher(
    model: Any, kind: type, teacher: Any, inputs: Callable | None, from_logits: bool | None
) -> None:
    """Sets `teacher`, `teacher_inputs` and `teacher_from_logits` of a method.

    A network gets these inputs and outputs; a teacher of the `kind` has its own.
    """
    if not isinstance(teacher, kind):
        teacher = kind(teacher, inputs, from_logits)
    model.teacher = teacher
    model.teacher_inputs = teacher.inputs
    model.teacher_from_logits = teacher.from_logits


def _floats(network: keras.Model) -> list[keras.Variable]:
    return [weight for weight in network.weights if keras.backend.is_float_dtype(weight.dtype)]


def _floats_of(network: keras.Model, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of one value per weight, those of float weights."""
    pairs = zip(network.weights, values, strict=True)
    return [value for weight, value in pairs if keras.backend.is_float_dtype(weight.dtype)]
