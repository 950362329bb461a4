"""A copy of the student's weights, which is a teacher."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd.checks import check_teacher_keeps_no_states
from keras_lstsd.step import Step
from keras_lstsd.variables import add_state


class Snapshot(keras.layers.Layer):
    """A second set of the student's weights, BatchNorm's statistics included.

    A model makes the copies at its first use (`attach`). Until `take` or `average` is called they
    are the weights at that time, and `known` is False. Seeds and other integer states are not
    copied; they belong to the student.

    Example:
        >>> snapshot = keras_lstsd.snapshot.Snapshot()
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
        check_teacher_keeps_no_states(self.network, "A copy of the student")
        self.updates = add_state(self, (), "zeros", "int32", "updates")
        self.copies = [
            add_state(
                self,
                weight.shape,
                lambda shape, dtype, weight=weight: ops.copy(weight),
                weight.dtype,
                f"copy_{number}",
            )
            for number, weight in enumerate(float_weights(self.network))
        ]
        self.built = True

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
        weights = float_weights(self.network)
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
        weights = float_weights(self.network)
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


def float_weights(network: keras.Model) -> list[keras.Variable]:
    return [weight for weight in network.weights if keras.backend.is_float_dtype(weight.dtype)]


def float_values(network: keras.Model, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of one value per weight, those of float weights."""
    pairs = zip(network.weights, values, strict=True)
    return [value for weight, value in pairs if keras.backend.is_float_dtype(weight.dtype)]
