"""Copies of a student's weights, that can be asked for predictions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops


class Snapshot(keras.layers.Layer):
    """One more set of the student's weights, BatchNorm's statistics included.

    Until `take` or `average` was called it holds the weights it was made with, and `known` is
    false. Seeds and other integer states are not copied: they belong to the student.

    Args:
        student: the model whose weights are copied; it must be built.

    Example:
        >>> snapshot = keras_lstsd.snapshots.Snapshot(student)
        >>> snapshot.take(student)
        >>> outputs = snapshot.outputs(student, x_test)      # of the weights as they were
    """

    def __init__(self, student: keras.Model, name: str | None = None):
        super().__init__(trainable=False, dtype="float32", name=name)
        self.updates = self._add("updates", "zeros", (), "int32")
        self.copies = [
            self._add(
                f"copy_{number}",
                lambda shape, dtype, weight=weight: ops.copy(weight),
                weight.shape,
                weight.dtype,
            )
            for number, weight in enumerate(_floats(student))
        ]
        self.built = True

    def _add(self, name: str, initializer: Any, shape: tuple, dtype: str) -> keras.Variable:
        # Equal on all replicas, so the first one speaks for all.
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
    def known(self) -> Any:
        """Whether there is anything to ask, a boolean scalar."""
        return ops.convert_to_tensor(self.updates) > 0

    def take(self, student: keras.Model) -> None:
        """Copies the weights as they are."""
        for copy, weight in zip(self.copies, _floats(student), strict=True):
            copy.assign(ops.copy(weight))
        self.updates.assign_add(1)

    def average(self, student: keras.Model, momentum: float) -> None:
        """`w' <- a w' + (1 - a) w` with `a = min(1 - 1/(t+1), momentum)` in call t = 0, 1, ..."""
        step = ops.cast(self.updates, "float32")
        momentum = ops.minimum(1 - 1 / (step + 1), momentum)
        for copy, weight in zip(self.copies, _floats(student), strict=True):
            share = ops.cast(momentum, copy.dtype)
            copy.assign(share * copy + (1 - share) * ops.convert_to_tensor(weight))
        self.updates.assign_add(1)

    def outputs(self, student: keras.Model, inputs: Any) -> Any:
        """What the student put out with these weights, in inference mode; no gradient."""
        copies = {
            id(weight): copy for weight, copy in zip(_floats(student), self.copies, strict=True)
        }
        mapping = [
            (variable, ops.convert_to_tensor(copies.get(id(variable), variable)))
            for variable in student.variables
        ]
        with keras.StatelessScope(state_mapping=mapping):
            return student(inputs, training=False)

    def logits(self, model: Any, inputs: Any) -> Any:
        """What the copies say of the inputs of a method's student: logits `[batch, classes]`."""
        return ops.stop_gradient(model.logits_of(self.outputs(model.student, inputs)))

    @contextmanager
    def lent_to(self, student: keras.Model) -> Iterator[None]:
        """Puts these weights into the student for as long as the context lasts."""
        weights = _floats(student)
        own = [ops.copy(weight) for weight in weights]
        try:
            for weight, copy in zip(weights, self.copies, strict=True):
                weight.assign(ops.copy(copy))
            yield
        finally:
            for weight, value in zip(weights, own, strict=True):
                weight.assign(value)


def _floats(student: keras.Model) -> list[keras.Variable]:
    return [weight for weight in student.weights if keras.backend.is_float_dtype(weight.dtype)]
