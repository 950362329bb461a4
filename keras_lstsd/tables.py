"""Memory per sample: the only module that gathers and scatters rows."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd.losses import LOG_FLOOR, SMALLEST, log_softmax

# A log-probability is never positive, except by rounding: an entry of 1 marks an unwritten row.
UNWRITTEN = 1.0
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
    def mebibytes(self) -> float:
        """Memory of the table in MiB."""
        entries = self.rows.shape[0] * self.rows.shape[1]
        return entries * (2 if self.rows.dtype == "float16" else 4) / 2**20

    def described(self, positions: int) -> str:
        """Its rows and their size, for samples with that many positions."""
        places = f"{positions} positions x " if positions > 1 else ""
        return f"{self.num_samples // positions} samples x {places}{self.rows.shape[1]} values"

    def write(self, index: Any, rows: Any, index_validated: bool = False) -> None:
        """Scatters rows `[batch, width]` to int `[batch]`; the last of equal indices is kept.

        Under `tf.distribute` each replica writes the rows of all, so every copy of the table is
        whole.

        Args:
            index: which samples, of any integer dtype.
            rows: their rows.
            index_validated: whether the index is known to be an int32 vector without repeated and
                out-of-range values. Then the checks for these are left out.

        Raises:
            ValueError: for rows of another width, or an index that is not a vector.
        """
        if not index_validated:
            index, _ = clamp_index(index, self.num_samples)
        shape, count = tuple(rows.shape), index.shape[0]
        expected = (shape[0] if count is None else count, self.rows.shape[-1])
        if shape != expected and shape != (None, expected[1]):
            raise ValueError(
                f"Rows do not fit the table, whose rows have {expected[1]} entries. Received: rows "
                f"of shape {shape} for {count} indices. Expected: a row of shape ({expected[1]},) "
                "for each index."
            )
        index, rows = from_all_replicas(index, ops.stop_gradient(rows))
        if not index_validated:
            # Sorting by index costs the same for any table size, and keeps the order of equal
            # indices. `top_k` raises where there are fewer indices than rows.
            index, order = ops.top_k(index, ops.shape(rows)[0])
            rows = gather(rows, order)
            is_last = index != ops.pad(index[1:], ((0, 1),), constant_values=-1)
            index = ops.where(is_last, index, self.num_samples)
        scatter(self.rows, index, ops.cast(rows, self.rows.dtype))


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

    Raises:
        ValueError: for another dtype.

    Example:
        >>> table = keras_lstsd.tables.SampleTable()
        >>> table.build((900, 10))
        >>> table.write([3], keras.ops.log([[0.1] * 10]))
        >>> log_probs, known = table.read([3, 4])       # known[:, 0]: [True, False]
    """

    def __init__(self, dtype: str = "float32", temperature: float = 1.0, name: str | None = None):
        super().__init__(name=name)
        if dtype not in ("float32", "float16"):
            raise ValueError(
                "`table_dtype` must be a dtype that tables support. "
                f"Received: {dtype!r}. Expected: 'float32' or 'float16' (half the memory)."
            )
        self.rows_dtype = dtype
        self.temperature = temperature

    def build(self, input_shape: tuple[int, int]) -> None:
        self._make_rows(*input_shape, keras.initializers.Constant(UNWRITTEN), self.rows_dtype)

    def attach(self, model: Any) -> None:
        """Makes the rows for a model's samples and classes."""
        self.build((model.num_rows, model.num_classes))

    def read(self, index: Any, index_validated: bool = False) -> tuple[Any, Any]:
        """Gathers rows: int `[batch]` -> (float32 `[batch, classes]`, bool known, same shape).

        All entries of a row are known, or none. For `index_validated` see `write`.
        """
        return read(index, self, index_validated)

    def fill(self, batches: Iterable[tuple[Any, Any]]) -> None:
        """Writes rows outside a step, from pairs of int `[batch]` and log-probabilities."""
        rows = np.array(ops.convert_to_numpy(self.rows))
        for index, log_probs in batches:
            rows[index] = np.maximum(ops.convert_to_numpy(log_probs), LOG_FLOOR)
        self.rows.assign(rows)

    def clear(self) -> None:
        """Marks all rows as unwritten."""
        self.rows.assign(ops.full(self.rows.shape, UNWRITTEN, self.rows.dtype))

    def copy_from(self, other: "SampleTable") -> None:
        """Copies the known rows of another table."""
        ours, theirs = (ops.convert_to_tensor(table.rows) for table in (self, other))
        self.rows.assign(ops.where(written(theirs[:, :1]), theirs, ours))

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """On the host: log-probabilities, float32 `[num_samples, classes]`, and which are known.

        They are those of temperature 1, whatever the table's T.
        """
        rows = ops.convert_to_numpy(self.rows)[: self.num_samples].astype("float32")
        known, rows = written(rows[:, 0]), rows * self.temperature
        rows -= rows.max(axis=-1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
        return np.maximum(rows, LOG_FLOOR), known


def read(
    index: Any,
    tables: SampleTable | list[SampleTable],
    index_validated: bool = False,
    normalized: bool = True,
) -> tuple[Any, Any]:
    """Gathers rows of a table, or of a list of tables of one shape, stacked in this order.

    int `[batch]` -> (float32 `[..., batch, classes]`, bool known, same shape). For
    `index_validated` see `SampleTable.write`. With `normalized` float16 rows sum to 1 again.
    """
    first = tables[0] if isinstance(tables, list) else tables
    if not index_validated:
        index, valid = clamp_index(index, first.num_samples)
    if isinstance(tables, list):
        rows = ops.stack([gather(table.rows, index) for table in tables])
    else:
        rows = gather(tables.rows, index)
    rows = ops.stop_gradient(ops.cast(rows, "float32"))
    known = written(rows)
    if not index_validated:
        known = known & valid[:, None]
    if normalized and first.rows.dtype == "float16":
        # Rounded rows do not sum to 1, which would add to a divergence.
        rows = ops.where(known, log_softmax(rows), rows)
    return rows, known


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


def add_state(
    layer: keras.layers.Layer, shape: tuple, initializer: Any, dtype: str, name: str
) -> keras.Variable:
    """A weight that is not trained, with one value on all replicas of `tf.distribute`."""
    return layer.add_weight(
        shape=shape,
        initializer=initializer,
        dtype=dtype,
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )


def add(variable: keras.Variable, amounts: Any) -> None:
    """`variable += amounts`, in place."""
    if keras.backend.backend() == "tensorflow":
        # One operation; Keras reads, adds and assigns.
        variable.value.assign_add(amounts, read_value=False)
    else:
        variable.assign_add(amounts)


def padded(num_samples: int) -> int:
    """Rows of a table for that many samples, spare rows included."""
    return -(-(num_samples + 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE


def clamp_index(index: Any, num_samples: int) -> tuple[Any, Any]:
    """An index as int32 with the spare row for out-of-range values, and which are in range."""
    index = row_numbers(index, num_samples)
    valid = in_range(index, num_samples)
    return ops.where(valid, index, num_samples), valid


def gather(rows: Any, index: Any) -> Any:
    """`rows[index]` of a variable or tensor, for an index in range."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # `ops.take` would look for negative indices, in five more operations.
        return tf.gather(getattr(rows, "value", rows), index)
    return ops.take(rows, index, axis=0)


def scatter(variable: keras.Variable, index: Any, rows: Any) -> None:
    """`variable[index] = rows`, in place."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # Inside a replica the handle is that replica's own copy; `scatter_update` would not be.
        tf.raw_ops.ResourceScatterUpdate(
            resource=variable.value.handle, indices=index, updates=rows
        )
    elif backend == "jax":
        variable.assign(variable.value.at[index].set(rows))
    else:
        variable.assign(ops.scatter_update(variable, index[:, None], rows))


def add_rows(variable: keras.Variable, index: Any, rows: Any, chosen: Any) -> None:
    """`variable[index] += rows` in place, for int32 `[batch]` in range and chosen rows.

    Rows of equal indices are summed before, in their order: a scatter adds them in any order.
    """
    batch = ops.shape(index)[0]
    ordered = ops.sort(index)
    place = ops.cast(ops.searchsorted(ordered, index), "int32")
    place = ops.where(chosen, place, batch)
    # The sum of equal indices stands at the first of them; behind all, what is not chosen.
    rows = ops.segment_sum(rows, place, num_segments=batch + 1)[:batch]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.raw_ops.ResourceScatterAdd(resource=variable.value.handle, indices=ordered, updates=rows)
    elif backend == "jax":
        variable.assign(variable.value.at[ordered].add(rows))
    else:
        variable.assign_add(ops.scatter(ordered[:, None], rows, variable.shape))


def only_if(condition: Any, update: Callable[[], None]) -> None:
    """Updates variables where a scalar condition holds; other backends than TensorFlow always do.

    For updates that are not needed where it does not hold, and whose result is then dropped.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.cond(condition, update, lambda: None)
    else:
        update()


def from_all_replicas(*tensors: Any) -> tuple[Any, ...]:
    """Each tensor concatenated over the replicas of `tf.distribute`, in replica order."""
    if keras.backend.backend() != "tensorflow":
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    return tuple(context.all_gather(tensor, axis=0) for tensor in tensors)
