"""Rows of which only the largest log-probabilities are stored, for many classes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_lstsd.checks import count
from keras_lstsd.losses import LOG_FLOOR, SMALLEST
from keras_lstsd.tables import SampleTable, read


class TopKTable(SampleTable):
    """A `SampleTable` of the k largest log-probabilities of a row, 6 bytes each.

    With S the k classes of largest probability, a row is read as `ln p_c` for c in S, and as
    `ln((1 - sum_S p) / (C - k))` for the others: the remaining mass is spread evenly.

    Args:
        top_k: k, at least 1; all classes where it is larger than their number.
        temperature: T > 0, of the rows.

    Raises:
        ValueError: for a `top_k` below 1.

    Example:
        >>> table = keras_lstsd.top_k.TopKTable(2)
        >>> table.build((900, 4))
        >>> table.fill([([3], np.log([[0.5, 0.3, 0.15, 0.05]]))])
        >>> ops.exp(table.read([3])[0])       # [[0.5, 0.3, 0.1, 0.1]]
    """

    def __init__(self, top_k: int, temperature: float = 1.0, name: str | None = None):
        super().__init__("float16", temperature, name=name)
        self.top_k = count("top_k", top_k)

    def build(self, input_shape: tuple[int, int]) -> None:
        num_samples, self.num_classes = input_shape
        super().build((num_samples, min(self.top_k, self.num_classes)))
        self.classes = self.add_weight(
            shape=self.rows.shape,
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="classes",
        )

    @property
    def mebibytes(self) -> float:
        return 3 * super().mebibytes

    def fill(self, batches: Iterable[tuple[Any, Any]]) -> None:
        """Writes rows outside a step, from pairs of int `[batch]` and log-probabilities."""
        k = self.rows.shape[1]
        classes = np.array(ops.convert_to_numpy(self.classes))

        def largest():
            for index, log_probs in batches:
                log_probs = ops.convert_to_numpy(log_probs)
                # Of equal values the class of the lowest number.
                chosen = np.argsort(-log_probs, axis=-1, kind="stable")[:, :k]
                classes[index] = chosen
                yield index, np.take_along_axis(log_probs, chosen, axis=-1)

        super().fill(largest())
        self.classes.assign(classes)

    def read(self, index: Any, index_validated: bool = False) -> tuple[Any, Any]:
        """Rows of all classes, as `SampleTable.read`."""
        index = ops.convert_to_tensor(index)
        stored, known = read(index, self, index_validated, normalized=False)
        # An index out of range reads a spare row, which is unknown.
        classes = ops.take(self.classes, ops.clip(index, 0, self.num_samples), axis=0)
        probabilities = ops.exp(ops.where(known, stored, LOG_FLOOR))
        others = max(self.num_classes - stored.shape[-1], 1)
        rest = ops.maximum(1 - ops.sum(probabilities, axis=-1, keepdims=True), 0.0) / others
        # Differences to the rest, as a scatter.
        places = ops.one_hot(classes, self.num_classes)
        rows = rest + ops.sum(places * ops.expand_dims(probabilities - rest, -1), axis=-2)
        rows = ops.log(ops.maximum(rows, SMALLEST))
        rows = rows - ops.logsumexp(rows, axis=-1, keepdims=True)
        return rows, ops.broadcast_to(known[:, :1], ops.shape(rows))

    def write(self, index: Any, log_probs: Any, index_validated: bool = False) -> None:
        raise NotImplementedError("A top-k table is filled before training; write `table.fill`.")

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """On the host: log-probabilities of temperature T, and which rows are known."""
        rows, known = (
            ops.convert_to_numpy(part) for part in self.read(np.arange(self.num_samples))
        )
        return rows, known[:, 0]
