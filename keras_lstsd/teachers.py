"""Teachers that are other networks than the student: given ones, and ones trained beside it.

Each has `predict(step) -> logits`, float32 `[batch, classes]`, and `predict_with_features`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd import outputs, positions
from keras_lstsd.checks import check_teacher_keeps_no_states
from keras_lstsd.data.arrays import checksum
from keras_lstsd.snapshot import Snapshot, float_values
from keras_lstsd.step import Step
from keras_lstsd.taps import split, tapped


def _classes(places: positions.Positions, classes: int) -> str:
    """Number of classes, and of positions where there are several."""
    axes = " x ".join(map(str, places.axes))
    kind = "labels" if places.multi_label else "positions"
    return f"{classes} classes" + (f" for {axes} {kind}" if axes else "")


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
        check_teacher_keeps_no_states(network, "`teacher`")
        if from_logits is None:
            from_logits = getattr(network, "from_logits", None)
        self.from_logits = outputs.ends_in_logits(network) if from_logits is None else from_logits
        self.inputs = inputs
        # Names of the layers whose outputs `predict_with_features` returns.
        self.taps = ()
        # A function, as Keras would track the model as a part of the teacher.
        self.tapped = functools.cache(lambda: tapped(network, self.taps))
        return network

    def _runs(self) -> keras.Model:
        return self.tapped() if self.taps else self.network

    def predict(self, step: Step) -> Any:
        """The teacher's logits for the inputs of a step, float32 `[batch, classes]`."""
        return self.predict_with_features(step)[0]

    def check_classes(self, model: Any) -> None:
        """Rejects a network for other classes than the student's."""
        self.positions, units = positions.of(self.network, model.positions.multi_label)
        classes = max(units, 2)
        if (self.positions, classes) != (model.positions, model.num_classes):
            raise ValueError(
                "The teacher's classes do not match the student's. Received: a teacher of "
                f"{_classes(self.positions, classes)} for a student of "
                f"{_classes(model.positions, model.num_classes)}. "
                "Expected: the same classes in the same order."
            )

    def logits_of(self, y_pred: Any) -> Any:
        """The network's outputs as float32 logits `[rows, classes]`."""
        many = self.positions.multi_label
        logits = outputs.logits_of(self.network, y_pred, self.from_logits, many)
        return self.positions.rows(logits)

    def _without_gradient(self, y_pred: Any) -> tuple[Any, dict[str, Any]]:
        y_pred, features = split(y_pred)
        return keras.tree.map_structure(ops.stop_gradient, (self.logits_of(y_pred), features))

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
        ValueError: for what is not a built Keras model, for layers that keep states between
            batches, and for other classes than the student's.

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
        self.check_classes(model)
        self.fingerprint()
        self._runs()
        if self.runs_in_step:
            super().attach(model)
        self.built = True

    def predict_with_features(self, step: Step) -> tuple[Any, dict[str, Any]]:
        """The teacher's logits, and the outputs of its layers `taps` by name, of one pass."""
        return self._without_gradient(self(self.inputs_of(step.inputs)))

    def ask(self, x: Any) -> Any:
        """The teacher's logits for inputs of the student, outside a step."""
        # `predict_on_batch` would run the whole batch on each replica.
        return self.logits_of(self.network(self.inputs_of(x), training=False))

    def use(self, number: int) -> None:
        """Makes the anchor of that number the teacher."""
        weights = (self._anchors() or [self.network.get_weights()])[number]
        for copy, weight in zip(self.copies, float_values(self.network, weights), strict=True):
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
        ValueError: for what is not a built Keras model, for layers that keep states between
            batches, and for other classes than the student's.

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
        self.check_classes(model)
        if self.optimizer is not None:
            self.optimizer.build(self.network.trainable_variables)
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of the network, and of its optimizer: state of each step."""
        return super().variables + ([] if self.optimizer is None else self.optimizer.variables)

    @property
    def metrics(self) -> list[keras.Metric]:
        """None: a network that was compiled has metrics of another training."""
        return []

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.network(self.inputs_of(inputs), training=training)

    def predict_with_features(self, step: Step) -> tuple[Any, dict[str, Any]]:
        """Logits and features of a step as in training, without side effects."""
        with without_side_effects(self.network):
            y_pred = self._runs()(self.inputs_of(step.inputs), training=True)
        return self._without_gradient(y_pred)


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
