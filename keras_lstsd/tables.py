"""Memory per sample: one row of numbers for each."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd import processes
from keras_lstsd.checks import count
from keras_lstsd.losses import LOG_FLOOR, SMALLEST, log_softmax
from keras_lstsd.top_k import spread, with_labels
from keras_lstsd.variables import from_all_replicas, gather, scatter

# A log-probability is never positive, except by rounding: an entry of 1 marks an unwritten row.
UNWRITTEN = 1.0
# Entries of rows of `top_k` that are decoded at a time outside a step.
DECODED = 2**24
# Any usual number of devices divides it, so `keras.distribution.ModelParallel` can shard rows.
ROWS_MULTIPLE = 128


class Table(keras.layers.Layer):
    """One row of numbers per training sample, stored as a non-trainable weight.

    Behind the N rows stands at least one spare row. An out-of-range index goes there, so no
    sample's row is ever changed by another sample.
    """

    def __init__(self, name: str | None = None):
        super().__init__(dtype="float32", trainable=False, name=name)

    def _make_rows(self, num_samples: int, width: int, initializer: Any, dtype: str) -> None:
        self.num_samples = num_samples
        self.rows = self.add_weight(
            shape=(padded(num_samples), width),
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
            name="rows",
        )

    @property
    def parts(self) -> list[keras.Variable]:
        """What is stored of each row, in one variable or more."""
        return [self.rows]

    def encoded(self, rows: Any, labels: Any = None) -> tuple[Any, ...]:
        """Rows as they are stored, in the order of `parts`."""
        return (rows,)

    @property
    def mebibytes(self) -> float:
        """Memory of the table in MiB."""
        parts = self.parts
        return sum(np.prod(part.shape) * np.dtype(part.dtype).itemsize for part in parts) / 2**20

    def described(self, positions: int) -> str:
        """Its rows and their size, for samples with that many positions."""
        places = f"{positions} positions x " if positions > 1 else ""
        return f"{self.num_samples // positions} samples x {places}{self.rows.shape[1]} values"

    def write(
        self, index: Any, rows: Any, index_validated: bool = False, labels: Any = None
    ) -> None:
        """Scatters rows `[batch, width]` to int `[batch]`; the last of equal indices is kept.

        Under `tf.distribute` each replica writes the rows of all, so every copy of the table is
        whole.

        Args:
            index: which samples, of any integer dtype.
            rows: their rows.
            index_validated: whether the index is known to be an int32 vector without repeated and
                out-of-range values. Then the checks for these are left out.
            labels: None, or classes `[batch]` that a table of `top_k` stores too; -1 for none.

        Raises:
            ValueError: for rows of another width, or an index that is not a vector.
        """
        if not index_validated:
            index, _ = clamp_index(index, self.num_samples)
        shape, size = tuple(rows.shape), index.shape[0]
        expected = (shape[0] if size is None else size, self.width)
        if shape != expected and shape != (None, expected[1]):
            raise ValueError(
                f"Rows do not fit the table, whose rows have {expected[1]} entries. Received: rows "
                f"of shape {shape} for {size} indices. Expected: a row of shape ({expected[1]},) "
                "for each index."
            )
        index, *rows = from_all_replicas(index, *self.encoded(ops.stop_gradient(rows), labels))
        if not index_validated:
            # Sorting by index costs the same for any table size, and keeps the order of equal
            # indices. `top_k` raises where there are fewer indices than rows.
            index, order = ops.top_k(index, ops.shape(rows[0])[0])
            rows = [gather(part, order) for part in rows]
            is_last = index != ops.pad(index[1:], ((0, 1),), constant_values=-1)
            index = ops.where(is_last, index, self.num_samples)
        for stored, part in zip(self.parts, rows, strict=True):
            scatter(stored, index, ops.cast(part, stored.dtype))


class SampleTable(Table):
    """One row of log-probabilities per training sample, stored as a non-trainable weight.

    `build((num_samples, num_classes))` makes the rows; a model does so at its first use. Rows
    `log softmax(z / T)` are written by scatter and read by gather. They are softened once, when
    they are written: what `losses.log_softmax(logits, T)` returns. An unwritten row is
    unknown and teaches nothing. So is a row of NaN, the softmax of logits that are not finite, and
    the row of an out-of-range index.

    Args:
        dtype: `"float32"` or `"float16"`; `read` always returns float32.
        temperature: T > 0, of the rows.
        top_k: k, how many of the largest entries of a row are stored, as float16 and with their
            classes: 6 bytes each. In a training the label's class is one of them. `read` spreads
            the rest of the mass: see `top_k.spread`. None for all.

    Raises:
        ValueError: for another dtype, and for a `top_k` below 1.

    Example:
        >>> table = keras_lstsd.tables.SampleTable()
        >>> table.build((900, 10))
        >>> table.write([3], keras.ops.log([[0.1] * 10]))
        >>> log_probs, known = table.read([3, 4])       # known[:, 0]: [True, False]
    """

    def __init__(
        self,
        dtype: str = "float32",
        temperature: float = 1.0,
        top_k: int | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if dtype not in ("float32", "float16"):
            raise ValueError(
                "`table_dtype` must be a dtype that tables support. "
                f"Received: {dtype!r}. Expected: 'float32' or 'float16' (half the memory)."
            )
        self.rows_dtype = dtype if top_k is None else "float16"
        self.temperature = temperature
        self.top_k = None if top_k is None else count("top_k", top_k)

    def build(self, input_shape: tuple[int, int]) -> None:
        num_samples, self.width = input_shape
        stored = self.width if self.top_k is None else min(self.top_k, self.width)
        unwritten = keras.initializers.Constant(UNWRITTEN)
        self._make_rows(num_samples, stored, unwritten, self.rows_dtype)
        if self.top_k is not None:
            shape = self.rows.shape
            self.classes = self.add_weight(
                shape, "zeros", dtype="int32", trainable=False, name="row_classes"
            )

    def bytes_for(self, model: Any) -> int:
        """Memory of the rows for a model's samples and classes."""
        stored = min(self.top_k or model.num_classes, model.num_classes)
        entry = np.dtype(self.rows_dtype).itemsize + 4 * (self.top_k is not None)
        return padded(model.num_rows) * stored * entry

    @property
    def parts(self) -> list[keras.Variable]:
        return [self.rows] if self.top_k is None else [self.rows, self.classes]

    def encoded(self, rows: Any, labels: Any = None) -> tuple[Any, ...]:
        if self.top_k is None:
            return (rows,)
        kept = ops.top_k(rows, self.rows.shape[1])
        return tuple(kept) if labels is None else with_labels(rows, *kept, labels)

    def decoded(self, rows: Any, classes: Any = None, like: Any = None) -> tuple[Any, Any]:
        """Stored parts `[..., stored]` as rows, float32 `[..., classes]`, and which are known."""
        known = written(rows)
        if classes is not None:
            known = known[..., :1]
            return spread(ops.where(known, rows, 0), classes, self.width, like), known
        rows = ops.cast(rows, "float32")
        if self.rows.dtype == "float16":
            # Rounded rows do not sum to 1, which would add to a divergence.
            rows = ops.where(known, log_softmax(rows), rows)
        return rows, known

    def attach(self, model: Any) -> None:
        """Makes the rows for a model's samples and classes."""
        self.build((model.num_rows, model.num_classes))

    def read(self, index: Any, index_validated: bool = False, like: Any = None) -> tuple[Any, Any]:
        """Gathers rows: int `[batch]` -> (float32 `[batch, classes]`, bool known).

        All entries of a row are known, or none: `known` has the shape of the rows, or `[batch, 1]`
        with `top_k`. For `index_validated` see `write`, for `like` `top_k.spread`.
        """
        return read(index, self, index_validated, like)

    def fill(self, batches: Iterable[tuple[Any, Any]]) -> None:
        """Writes rows outside a step, from pairs of int `[batch]` and log-probabilities."""
        stored = [np.array(processes.numpy(part)) for part in self.parts]
        for index, log_probs in batches:
            rows = ops.maximum(ops.cast(log_probs, "float32"), LOG_FLOOR)
            for array, part in zip(stored, self.encoded(rows), strict=True):
                array[index] = ops.convert_to_numpy(part)
        for part, array in zip(self.parts, stored, strict=True):
            part.assign(array)

    def clear(self) -> None:
        """Marks all rows as unwritten."""
        self.rows.assign(ops.full(self.rows.shape, UNWRITTEN, self.rows.dtype))

    def copy_from(self, other: "SampleTable") -> None:
        """Copies the known rows of another table."""
        known = written(other.rows[:, :1])
        for own, part in zip(self.parts, other.parts, strict=True):
            own.assign(ops.where(known, *map(ops.convert_to_tensor, (part, own))))

    def slices(self) -> list[slice]:
        """All rows; with `top_k` in parts that have few entries where they are decoded."""
        rows = self.rows.shape[0]
        size = rows if self.top_k is None else max(1, DECODED // self.width)
        return [slice(first, first + size) for first in range(0, rows, size)]

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """On the host: log-probabilities, float32 `[num_samples, classes]`, and which are known.

        They are those of temperature 1, whatever the table's T.
        """
        parts = [*map(processes.numpy, self.parts)]
        known = written(parts[0][: self.num_samples, 0])
        decoded = [self.decoded(*(part[rows] for part in parts))[0] for rows in self.slices()]
        rows = np.concatenate([*map(ops.convert_to_numpy, decoded)])[: self.num_samples]
        rows = rows * self.temperature
        rows -= rows.max(axis=-1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
        return np.maximum(rows, LOG_FLOOR), known


def read(
    index: Any,
    tables: SampleTable | list[SampleTable],
    index_validated: bool = False,
    like: Any = None,
) -> tuple[Any, Any]:
    """Gathers rows of a table, or of a list of tables of one kind, stacked in this order.

    int `[batch]` -> (float32 `[..., batch, classes]`, bool known). For `known` see
    `SampleTable.read`, for `index_validated` `SampleTable.write`, for `like` `top_k.spread`.
    """
    first = tables[0] if isinstance(tables, list) else tables
    if not index_validated:
        index, valid = clamp_index(index, first.num_samples)
    if isinstance(tables, list):
        parts = zip(*(table.parts for table in tables), strict=True)
        stored = [ops.stack([gather(part, index) for part in each]) for each in parts]
    else:
        stored = [gather(part, index) for part in tables.parts]
    rows, known = first.decoded(*stored, like=like)
    return ops.stop_gradient(rows), known if index_validated else known & valid[:, None]


def written(rows: Any) -> Any:
    """Which entries of rows are known: all entries of a row, or none."""
    # NaN compares as False. One entry per row would do, but slicing it costs as much in a step.
    return rows < UNWRITTEN


def mix_rows(shares: Any, log_probs: Any, known: Any) -> tuple[Any, Any]:
    """Mixes rows as probabilities: log-probabilities, and which mix known rows only.

    Args:
        shares: of each row in each mixture, float32 `[mixtures, rows]`.
        log_probs: rows `[..., rows, classes]`; the content of unknown rows does not matter.
        known: bool `[..., rows, classes]`.
    """
    probabilities = ops.matmul(shares, ops.exp(ops.where(known, log_probs, 0.0)))
    whole = ops.matmul(shares, ops.cast(~known, "float32")) == 0
    return ops.log(ops.maximum(probabilities, SMALLEST)), whole


def row_numbers(index: Any, num_samples: int) -> Any:
    """An index of any integer dtype as int32; out-of-range values stay out of range."""
    index = ops.convert_to_tensor(index)
    if len(index.shape) != 1 or not keras.backend.is_int_dtype(index.dtype):
        raise ValueError(
            "An index must be a vector of row numbers. "
            f"Received: shape={tuple(index.shape)}, dtype={index.dtype}. Expected: integers of "
            "shape=(batch,)."
        )
    dtype = keras.backend.standardize_dtype(index.dtype)
    if dtype in ("int64", "uint64", "uint32"):
        index = ops.clip(index, -1 if dtype == "int64" else 0, num_samples)
    return ops.cast(index, "int32")


def in_range(index: Any, num_samples: int) -> Any:
    """Which indices, int32, are rows of a table of that size."""
    # A negative index, read as unsigned, is larger than any table.
    return ops.cast(index, "uint32") < num_samples


def counts(rows: Any, num_rows: int) -> Any:
    """How often each row occurs: int32 `[batch, draws]` -> float32 `[batch, num_rows]`."""
    batch = ops.shape(rows)[0]
    places = ops.reshape(rows + num_rows * ops.arange(batch)[:, None], (-1, 1))
    # Sums of ones are exact in any order.
    found = ops.scatter(places, ops.ones_like(places[:, 0], dtype="float32"), (batch * num_rows,))
    return ops.reshape(found, (batch, num_rows))


def padded(num_samples: int) -> int:
    """Rows of a table for that many samples, spare rows included."""
    return -(-(num_samples + 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE


def clamp_index(index: Any, num_samples: int) -> tuple[Any, Any]:
    """An index as int32 with the spare row for out-of-range values, and which are in range."""
    index = row_numbers(index, num_samples)
    valid = in_range(index, num_samples)
    return ops.where(valid, index, num_samples), valid
