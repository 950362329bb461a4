"""Memory of classes: a row per class, the class of each sample, the samples of each class."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd.losses import SMALLEST
from keras_lstsd.tables import (
    UNWRITTEN,
    clamp_index,
    in_range,
    mix_rows,
    padded,
    row_numbers,
    written,
)
from keras_lstsd.variables import add, add_rows, add_state, from_all_replicas, gather, scatter


class LabelTable(keras.layers.Layer):
    """The class with which each sample index was last seen, int32; -1 for none.

    It detects sample indices that stop meaning the same sample, such as those given after a
    shuffle. The class of a sample does not change, so a changed one shows another sample.
    """

    def __init__(self, name: str | None = None):
        super().__init__(dtype="float32", trainable=False, name=name)

    def build(self, input_shape: tuple[int]) -> None:
        (self.num_samples,) = input_shape
        self.rows = self.add_weight(
            shape=(padded(self.num_samples),),
            initializer=keras.initializers.Constant(-1),
            dtype="int32",
            trainable=False,
            name="labels",
        )

    def attach(self, model: Any) -> None:
        """Makes the entries for a model's samples."""
        self.build((model.num_rows,))

    def update(self, index: Any, classes: Any) -> Any:
        """Stores classes int32 `[batch]`, -1 for unknown; returns which differ from those before.

        An unknown class is not stored. The result is bool `[batch]`.
        """
        index, valid = clamp_index(index, self.num_samples)
        before = gather(self.rows, index)
        certain = valid & (classes >= 0)
        changed = certain & (before >= 0) & (before != classes)
        index = ops.where(certain, index, self.num_samples)
        scatter(self.rows, *from_all_replicas(index, classes))
        return changed


class ClassTable(keras.layers.Layer):
    """One row of log-probabilities per class, averaged over samples of that class.

    `build((num_classes,))` makes the rows; a model does so at its first use. A multi-label one has
    a row for each value of each label. `collect` adds a
    batch to sums; `rotate` turns the sums into rows and resets them. A class without collected
    samples keeps its row; one that never had any is unknown and teaches nothing.

    Args:
        peers: at most that many samples of a class count between two rotations, the first in the
            order of training (a random choice where the data is shuffled); None for all.

    Example:
        >>> table = keras_lstsd.class_tables.ClassTable(peers=5)
        >>> table.build((10,))
        >>> table.collect(y_train, student.predict(x_train))
        >>> table.rotate()
        >>> log_probs, known = table.read(y_train)
    """

    def __init__(self, peers: int | None = None, name: str | None = None):
        super().__init__(dtype="float32", trainable=False, name=name)
        self.peers = peers

    def build(self, input_shape: tuple[int]) -> None:
        self.num_classes, classes = input_shape if len(input_shape) > 1 else input_shape * 2
        self.rows, self.sums, self.counts = (
            add_state(self, shape, keras.initializers.Constant(value), "float32", weight)
            for weight, shape, value in (
                ("means", (self.num_classes, classes), UNWRITTEN),
                ("sums", (self.num_classes, classes), 0.0),
                ("counts", (self.num_classes,), 0.0),
            )
        )

    def attach(self, model: Any) -> None:
        """Makes the rows for a model's classes."""
        self.build((model.num_classes * model.positions.labels, model.num_classes))

    def bytes_for(self, model: Any) -> int:
        """Memory of rows and sums for a model's classes."""
        return 2 * 4 * model.positions.labels * model.num_classes**2

    @property
    def mebibytes(self) -> float:
        """Memory of rows and sums in MiB."""
        return sum(np.prod(weight.shape) for weight in self.weights) * 4 / 2**20

    def described(self, positions: int) -> str:
        """Its rows and their size."""
        return f"{self.num_classes} classes x {self.rows.shape[1]} values"

    def read(self, labels: Any, labels_validated: bool = False) -> tuple[Any, Any]:
        """Rows of classes: float32 `[batch, classes]`, and which are known, bool `[batch, 1]`.

        Labels are int `[batch]`, or shares of the classes, float `[batch, classes]`, with which
        rows are mixed. With `labels_validated` no label is out of range.
        """
        if len(labels.shape) == 1:
            if not labels_validated:
                # A loss may give labels such as -1 the meaning "no label".
                labels = row_numbers(labels, self.num_classes)
                exist = in_range(labels, self.num_classes)
                labels = ops.where(exist, labels, 0)
            rows = ops.stop_gradient(gather(self.rows, labels))
            known = written(rows[:, :1])
            return rows, known if labels_validated else known & exist[:, None]
        rows = ops.stop_gradient(ops.convert_to_tensor(self.rows))
        return mix_rows(labels, rows, written(rows[:, :1]))

    def collect(self, labels: Any, probabilities: Any) -> None:
        """Adds probabilities `[batch, classes]` of samples; labels as in `read`.

        Under `tf.distribute` they are those of all replicas; see `variables.from_all_replicas`.
        """
        probabilities = ops.stop_gradient(probabilities)
        finite = ops.isfinite(ops.sum(probabilities, axis=-1))
        if len(labels.shape) == 1:
            labels = row_numbers(labels, self.num_classes)
            chosen = in_range(labels, self.num_classes) & finite
            labels = ops.where(chosen, labels, 0)
            if self.peers is not None:
                chosen = chosen & (self._met(labels, chosen) < self.peers)
            ones = ops.ones_like(probabilities[:, 0])
            add_rows(labels, chosen, (self.sums, probabilities), (self.counts, ones))
            return
        shares = ops.where(finite[:, None], labels, 0.0)
        if self.peers is not None:
            met = self.counts + ops.cumsum(shares, axis=0)
            shares = ops.where(met <= self.peers, shares, 0.0)
        probabilities = ops.where(finite[:, None], probabilities, 0.0)
        add(self.sums, ops.matmul(ops.transpose(shares), probabilities))
        add(self.counts, ops.sum(shares, axis=0))

    def _met(self, labels: Any, chosen: Any) -> Any:
        """How many samples of its class were collected before each one, float32 `[batch]`."""
        # Samples that are not chosen are sorted behind all others.
        ordered = ops.where(chosen, labels, self.num_classes)
        place = ops.argsort(ops.argsort(ordered))
        first = ops.searchsorted(ops.sort(ordered), ordered)
        rank = ops.cast(place, "float32") - ops.cast(first, "float32")
        return gather(self.counts, labels) + rank

    def rotate(self) -> None:
        """Replaces the row of each class that was collected by the mean."""
        counts = ops.convert_to_tensor(self.counts)[:, None]
        means = ops.log(ops.maximum(ops.divide_no_nan(self.sums, counts), SMALLEST))
        rows = ops.convert_to_tensor(self.rows)
        self.rows.assign(ops.where(counts > 0, means, rows))
        self.drop()

    def drop(self) -> None:
        """Resets what was collected since the last rotation."""
        for sums in (self.sums, self.counts):
            sums.assign(ops.zeros(sums.shape))


class SamplesByClass(keras.layers.Layer):
    """The samples of each class, from which samples of other classes are drawn.

    `build((num_samples, num_classes))` makes the memory, `fill` the lists, once. A sample whose
    class is not known is in none of them.
    """

    def __init__(self, name: str | None = None):
        super().__init__(dtype="float32", trainable=False, name=name)

    def build(self, input_shape: tuple[int, int]) -> None:
        self.num_samples, self.num_classes = input_shape
        # The class of each sample; all samples, ordered by class; where each class begins.
        self.classes, self.ordered, self.starts = (
            self.add_weight((size,), "zeros", dtype="int32", trainable=False, name=name)
            for name, size in (
                ("classes", padded(self.num_samples)),
                ("ordered", self.num_samples),
                ("starts", self.num_classes + 1),
            )
        )

    def fill(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Stores pairs of int `[batch]` and classes int `[batch]`; others than these are unknown.

        Raises:
            ValueError: for less than two classes.
        """
        classes = np.full(padded(self.num_samples), -1, "int32")
        for index, found in batches:
            classes[index] = np.where((found >= 0) & (found < self.num_classes), found, -1)
        counts = np.bincount(classes[classes >= 0], minlength=self.num_classes)
        if (counts > 0).sum() < 2:
            raise ValueError(
                "Samples of other classes need labels of at least two classes. "
                f"Received: {counts.sum()} samples with one class each, of "
                f"{(counts > 0).sum()} classes. Expected: hard labels; otherwise write "
                "`other_classes=False`."
            )
        ordered = np.argsort(classes[: self.num_samples], kind="stable")
        unknown = self.num_samples - counts.sum()
        self.classes.assign(classes)
        self.ordered.assign(np.roll(ordered, -unknown))
        self.starts.assign(np.append(0, np.cumsum(counts)))

    def of_other_classes(self, index: Any, drawn: Any) -> Any:
        """Samples int32 `[batch, draws]` for samples int32 `[batch]` and random uint32 numbers.

        For a sample of unknown class they are of any class.
        """
        classes = gather(self.classes, index)
        known, classes = classes >= 0, ops.maximum(classes, 0)
        start, end = (gather(self.starts, classes + step) for step in (0, 1))
        count = ops.where(known, end - start, 0)[:, None]
        others = ops.cast(self.starts[-1] - count, "uint32")
        place = ops.cast(drawn % others, "int32")
        place = ops.where(place < start[:, None], place, place + count)
        return gather(self.ordered, place)
