"""Where a student's outputs have classes: once per sample, or at several positions of it."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_lstsd import compat, compiled_loss, outputs
from keras_lstsd.tables import in_range


class Positions(NamedTuple):
    """The axes of a student's outputs between the batch and the classes.

    Tokens and pixels are positions with the student's classes. The labels of a multi-label student
    are positions with two classes each, absent and present. A method sees one row of classes per
    position, `[batch * positions, classes]`, so a position is to it what a sample is elsewhere:
    tables have a row for each, and labels, masks and weights are laid out in the same way.

    Args:
        axes: sizes of these axes, `()` for outputs `[batch, classes]`; None where a size varies.
        multi_label: whether the last of them are labels.
    """

    axes: tuple[int | None, ...] = ()
    multi_label: bool = False

    @property
    def count(self) -> int | None:
        """Positions of a sample; None where they vary."""
        return None if None in self.axes else math.prod(self.axes)

    @property
    def labels(self) -> int:
        """Labels of a multi-label student, otherwise 1."""
        return self.axes[-1] if self.multi_label else 1

    def rows(self, tensor: Any) -> Any:
        """`[batch, *axes, classes]` as `[rows, classes]`, a row per position."""
        return ops.reshape(tensor, (-1, tensor.shape[-1])) if self.axes else tensor

    def values(self, values: Any, shape: Any) -> Any:
        """Values per sample or position as `[rows]`, for `shape` = `(batch, *axes)`."""
        return ops.reshape(self.broadcast(values, shape), (-1,))

    def broadcast(self, values: Any, shape: Any) -> Any:
        """Values per sample or position as `[batch, *axes]`."""
        if not self.axes:
            return ops.reshape(values, (-1,))
        values = ops.convert_to_tensor(values)
        if len(values.shape) > len(shape) and values.shape[-1] == 1:
            values = ops.squeeze(values, -1)
        for _ in range(len(shape) - len(values.shape)):
            values = ops.expand_dims(values, -1)
        return ops.broadcast_to(values, shape)

    def index(self, index: Any, num_samples: int) -> Any:
        """The row of each position of int32 samples `[batch]`; out of range stays so."""
        if not self.axes:
            return index
        # A product could overflow into the range of the rows.
        index = ops.where((index >= 0) & (index < num_samples), index, -1)
        places = ops.arange(self.count, dtype="int32")
        return ops.reshape(index[:, None] * self.count + places, (-1,))

    def label_rows(self, y: Any, classes: int, mask: Any = None) -> Any:
        """Labels as `[rows]` or, where they are shares of the classes, `[rows, classes]`.

        Positions outside `mask`, bool `[rows]`, have no label.
        """
        if not self.axes or y is None:
            return y
        y = ops.convert_to_tensor(y)
        shares = len(y.shape) == len(self.axes) + 2 and y.shape[-1] == classes > 1
        y = ops.reshape(y, (-1, classes) if shares else (-1,))
        if mask is None:
            return y
        if shares:
            return y * ops.cast(mask[:, None], y.dtype)
        dtype = keras.backend.standardize_dtype(y.dtype)
        y = ops.cast(y, dtype if keras.backend.is_float_dtype(dtype) else "int32")
        return ops.where(mask, y, ops.cast(-1, y.dtype))

    def any_missing(self, y: Any) -> bool:
        """On the host: whether samples have no label: -1, NaN, or an all-zero one-hot row.

        Raises:
            ValueError: for samples of which only some labels are missing.
        """
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            return False
        gone = np.isnan(y) | (y < 0)
        if self.multi_label:
            some = gone.reshape(len(y), -1)
            if (some.any(-1) & ~some.all(-1)).any():
                raise ValueError(
                    "A sample has either all of its labels or none. Received: samples of which "
                    f"some of the {self.labels} labels are -1 or NaN. Expected: -1 for all of them."
                )
        elif y.ndim == len(self.axes) + 2 and y.shape[-1] > 1:
            return bool(gone.any() or (y == 0).all(-1).any())
        return bool(gone.any())

    def as_loss(self, values: Any, shape: Any) -> Any:
        """Values `[rows]` in the form of the compiled loss: a mean over labels, as its own."""
        if not self.axes:
            return values
        values = ops.reshape(values, shape)
        return ops.mean(values, axis=-1) if self.multi_label else values


def of(network: keras.Model, multi_label: bool = False) -> tuple[Positions, int]:
    """The positions of a network's outputs, and the units at each: 1 for two classes.

    Several sigmoid units are labels; of logits only the caller knows that they are.

    Raises:
        ValueError: for outputs that are no classes.
    """
    *axes, units = outputs.shape(network)
    multi_label = multi_label or outputs.last_activation(network) == "sigmoid"
    if multi_label and units > 1:
        return Positions((*axes, units), True), 1
    return Positions(tuple(axes)), units


class Positioned:
    """What the outputs of a `Distillation` mean, and where they have classes; mixed into it."""

    def student_is_built(self) -> None:
        """Finds the classes of the student's output, and whether it is logits, once."""
        if hasattr(self, "student_units"):
            return
        self.find_positions()
        if self.from_logits is None:
            self.from_logits = outputs.ends_in_logits(self.head())
        self.built = True

    def find_positions(self) -> None:
        """Finds where the outputs have classes, until there is memory for them.

        The last layer shows it, or the compiled loss, which is not known at first.
        """
        if self.has_memory:
            return
        activation = outputs.last_activation(self.head())
        binary = activation != "softmax" and compiled_loss.name_of(self).startswith("binary")
        self.positions, self.student_units = of(self.head(), self.is_multi_label or binary)
        self.is_multi_label = self.positions.multi_label
        self.num_classes = max(self.student_units, 2)

    @property
    def num_rows(self) -> int:
        """Rows of a table: one for each position of a training sample."""
        return self.num_samples * self.positions.count

    def rows_of(self, index: Any) -> np.ndarray:
        """On the host: the rows of samples int `[batch]`."""
        return ops.convert_to_numpy(self.positions.index(index, self.num_samples))

    def logits_of(self, y_pred: Any) -> Any:
        """Outputs of the student, or of a copy of it, as float32 logits `[rows, classes]`."""
        return self.positions.rows(self.shaped_logits_of(y_pred))

    def shaped_logits_of(self, y_pred: Any) -> Any:
        """Outputs of the student as float32 logits `[batch, ..., classes]`."""
        many, y_pred = self.positions.multi_label, self.of_guided(y_pred)
        return outputs.logits_of(self.head(), y_pred, self.from_logits, many)

    def _shape_of(self, y_pred: Any) -> tuple:
        """Batch and positions of outputs."""
        return ops.shape(y_pred)[: 1 + len(self.positions.axes)]

    def _loss_weights(self, y_pred: Any, sample_weight: Any) -> Any:
        """Sample weights in the form of the compiled loss, float32."""
        shape = self._shape_of(y_pred)
        # The compiled loss of a multi-label student is a mean over its labels.
        shape = shape[:-1] if self.positions.multi_label else shape
        return self.positions.broadcast(ops.cast(sample_weight, "float32"), shape)

    def labelled(self, y: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Labels and weights with which samples without a label add nothing to a loss.

        Returns:
            `(y, share, weights)`: labels with 0 in place of missing ones; 1.0 for the samples
            that have one, in the form of the compiled loss; these times the sample weights.
        """
        if self.guided_output is not None:
            raise ValueError(
                "Samples without a label need a student with one output. "
                f"Received: such samples, and guided_output={self.guided_output!r}. Expected: a "
                "label for each sample, or a student without the other outputs."
            )
        y = ops.convert_to_tensor(y)
        classes = outputs.classes_of(
            self.positions.label_rows(y, self.student_units), self.num_classes
        )
        known = in_range(classes, self.num_classes)
        share = self.positions.as_loss(ops.cast(known, "float32"), self._shape_of(y_pred))
        gone = ops.isnan(y) | (y < 0) if keras.backend.is_float_dtype(y.dtype) else y < 0
        y = ops.where(gone, ops.zeros_like(y), y)
        if sample_weight is None:
            return y, share, share
        return y, share, share * self._loss_weights(y_pred, sample_weight)

    def reduced(self, values: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Losses `[rows]`, reduced as the compiled loss is: same mask, weights, divisor, factor."""
        values = self.positions.as_loss(values, self._shape_of(y_pred))
        if sample_weight is not None:
            sample_weight = self._loss_weights(y_pred, sample_weight)
        mask, reduction = compat.mask_of(y_pred), compiled_loss.reduction(self)
        loss = compat.reduce_loss(values, sample_weight, mask, reduction)
        weight = compiled_loss.weight(self)
        return loss if weight == 1 else weight * loss
