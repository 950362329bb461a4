"""Per-sample and per-class memory: the only module that gathers and scatters rows."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd.losses import LOG_FLOOR, SMALLEST, log_softmax

# A log-probability is never positive, except by rounding: an entry of 1 marks an unwritten row.
UNWRITTEN = 1.0
# Any usual number of devices divides it, so `keras.distribution.ModelParallel` can shard rows.
ROWS_MULTIPLE = 128


class SampleTable(keras.layers.Layer):
    """One row of log-probabilities per training sample, stored as a non-trainable weight.

    `build((num_samples, num_classes))` makes the rows; a model does so at its first use. Rows
    `log softmax(z / T)` are written by scatter and read by gather. They are softened once, when
    they are written. An unwritten row is unknown and teaches nothing. So is a row of NaN, the
    softmax of logits that are not finite.

    Behind the N rows stands at least one spare row, always read as unknown. An out-of-range index
    goes there, so no sample's row is ever changed by another sample.

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
        super().__init__(dtype="float32", trainable=False, name=name)
        if dtype not in ("float32", "float16"):
            raise ValueError(
                "`table_dtype` must be a dtype that tables support. "
                f"Received: {dtype!r}. Expected: 'float32' or 'float16' (half the memory)."
            )
        self.rows_dtype = dtype
        self.temperature = temperature

    def build(self, input_shape: tuple[int, int]) -> None:
        self.num_samples, num_classes = input_shape
        self.rows = self.add_weight(
            shape=(_padded(self.num_samples), num_classes),
            initializer=keras.initializers.Constant(UNWRITTEN),
            dtype=self.rows_dtype,
            trainable=False,
            autocast=False,
            name="rows",
        )

    def attach(self, model: Any) -> None:
        """Makes the rows for a model's samples and classes."""
        self.build((model.num_samples, model.num_classes))

    @property
    def mebibytes(self) -> float:
        """Memory of the table in MiB."""
        entries = self.rows.shape[0] * self.rows.shape[1]
        return entries * (2 if self.rows.dtype == "float16" else 4) / 2**20

    def read(self, index: Any, index_validated: bool = False) -> tuple[Any, Any]:
        """Gathers rows: int `[batch]` -> (float32 `[batch, classes]`, bool known, same shape).

        All entries of a row are known, or none. For `index_validated` see `write`.
        """
        return read(index, self, index_validated)

    def write(self, index: Any, log_probs: Any, index_validated: bool = False) -> None:
        """Scatters rows `[batch, classes]` to int `[batch]`; the last of equal indices is kept.

        Rows are what `losses.log_softmax(logits, T)` returns, with the table's T. Under
        `tf.distribute` each replica writes the rows of all, so every copy of the table is whole.

        Args:
            index: which samples, of any integer dtype.
            log_probs: their rows.
            index_validated: whether the index is known to be an int32 vector without repeated and
                out-of-range values. Then the checks for these are left out.

        Raises:
            ValueError: for rows of another width, or an index that is not a vector.
        """
        if not index_validated:
            index, _ = _clamp_index(index, self.num_samples)
        rows, count = tuple(log_probs.shape), index.shape[0]
        expected = (rows[0] if count is None else count, self.rows.shape[-1])
        if rows != expected and rows != (None, expected[1]):
            raise ValueError(
                f"Rows do not fit the table, which holds {expected[1]} classes. Received: rows of "
                f"shape {rows} for {count} indices. Expected: a row of shape ({expected[1]},) for "
                "each index."
            )
        index, log_probs = _from_all_replicas(index, ops.stop_gradient(log_probs))
        if not index_validated:
            # Sorting by index costs the same for any table size, and keeps the order of equal
            # indices. `top_k` raises where there are fewer indices than rows.
            index, order = ops.top_k(index, ops.shape(log_probs)[0])
            log_probs = _gather(log_probs, order)
            is_last = index != ops.pad(index[1:], ((0, 1),), constant_values=-1)
            index = ops.where(is_last, index, self.num_samples)
        _scatter(self.rows, index, ops.cast(log_probs, self.rows.dtype))

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
        index, valid = _clamp_index(index, first.num_samples)
    if isinstance(tables, list):
        rows = ops.stack([_gather(table.rows, index) for table in tables])
    else:
        rows = _gather(tables.rows, index)
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
            shape=(_padded(self.num_samples),),
            initializer=keras.initializers.Constant(-1),
            dtype="int32",
            trainable=False,
            name="rows",
        )

    def attach(self, model: Any) -> None:
        """Makes the entries for a model's samples."""
        self.build((model.num_samples,))

    def update(self, index: Any, classes: Any) -> Any:
        """Stores classes int32 `[batch]`, -1 for unknown; returns which differ from those before.

        An unknown class is not stored. The result is bool `[batch]`.
        """
        index, valid = _clamp_index(index, self.num_samples)
        before = _gather(self.rows, index)
        certain = valid & (classes >= 0)
        changed = certain & (before >= 0) & (before != classes)
        index = ops.where(certain, index, self.num_samples)
        _scatter(self.rows, *_from_all_replicas(index, classes))
        return changed


class ClassTable(keras.layers.Layer):
    """One row of log-probabilities per class, averaged over samples of that class.

    `build((num_classes,))` makes the rows; a model does so at its first use. `collect` adds a
    batch to sums; `rotate` turns the sums into rows and resets them. A class without collected
    samples keeps its row; one that never had any is unknown and teaches nothing.

    Args:
        peers: at most that many samples of a class count between two rotations, the first in the
            order of training (a random choice where the data is shuffled); None for all.

    Example:
        >>> table = keras_lstsd.tables.ClassTable(peers=5)
        >>> table.build((10,))
        >>> table.collect(y_train, student.predict(x_train))
        >>> table.rotate()
        >>> log_probs, known = table.read(y_train)
    """

    def __init__(self, peers: int | None = None, name: str | None = None):
        super().__init__(dtype="float32", trainable=False, name=name)
        self.peers = peers

    def build(self, input_shape: tuple[int]) -> None:
        (self.num_classes,) = input_shape
        self.rows, self.sums = (
            self.add_weight(
                shape=(self.num_classes, width),
                initializer=keras.initializers.Constant(value),
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
                name=weight,
            )
            # The last column of the sums counts samples.
            for weight, width, value in (
                ("rows", self.num_classes, UNWRITTEN),
                ("sums", self.num_classes + 1, 0.0),
            )
        )

    def attach(self, model: Any) -> None:
        """Makes the rows for a model's classes."""
        self.build((model.num_classes,))

    def read(self, labels: Any, labels_validated: bool = False) -> tuple[Any, Any]:
        """Rows of classes: (float32 `[batch, classes]`, bool known, same shape).

        Labels are int `[batch]`, or shares of the classes, float `[batch, classes]`, with which
        rows are mixed. With `labels_validated` no label is out of range.
        """
        if len(labels.shape) == 1:
            if not labels_validated:
                # A loss may give labels such as -1 the meaning "no label".
                labels = row_numbers(labels, self.num_classes)
                exist = in_range(labels, self.num_classes)
                labels = ops.where(exist, labels, 0)
            rows = ops.stop_gradient(_gather(self.rows, labels))
            known = written(rows)
            return rows, known if labels_validated else known & exist[:, None]
        rows = ops.stop_gradient(ops.convert_to_tensor(self.rows))
        return mix_rows(labels, rows, written(rows))

    def collect(self, labels: Any, probabilities: Any) -> None:
        """Adds probabilities `[batch, classes]` of samples; labels as in `read`."""
        probabilities = ops.stop_gradient(probabilities)
        labels, probabilities = _from_all_replicas(labels, probabilities)
        chosen = labels
        if len(labels.shape) == 1:
            chosen = ops.one_hot(labels, self.num_classes, dtype="float32")
        counted = ops.pad(probabilities, ((0, 0), (0, 1)), constant_values=1.0)
        finite = ops.all(ops.isfinite(counted), axis=-1, keepdims=True)
        counted = ops.where(finite, counted, 0.0)
        if self.peers is not None:
            met = self.sums[:, -1] + ops.cumsum(chosen * counted[:, -1:], axis=0)
            chosen = ops.where(met <= self.peers, chosen, 0.0)
        add(self.sums, ops.matmul(ops.transpose(chosen), counted))

    def rotate(self) -> None:
        """Replaces the row of each class that was collected by the mean."""
        sums, counts = self.sums[:, :-1], self.sums[:, -1:]
        means = ops.log(ops.maximum(ops.divide_no_nan(sums, counts), SMALLEST))
        rows = ops.convert_to_tensor(self.rows)
        self.rows.assign(ops.where(counts > 0, means, rows))
        self.drop()

    def drop(self) -> None:
        """Resets what was collected since the last rotation."""
        self.sums.assign(ops.zeros(self.sums.shape))


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


def add(variable: keras.Variable, amounts: Any) -> None:
    """`variable += amounts`, in place."""
    if keras.backend.backend() == "tensorflow":
        # One operation; Keras reads, adds and assigns.
        variable.value.assign_add(amounts, read_value=False)
    else:
        variable.assign_add(amounts)


def _padded(num_samples: int) -> int:
    """Rows of a table for that many samples, spare rows included."""
    return -(-(num_samples + 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE


def _clamp_index(index: Any, num_samples: int) -> tuple[Any, Any]:
    """An index as int32 with the spare row for out-of-range values, and which are in range."""
    index = row_numbers(index, num_samples)
    valid = in_range(index, num_samples)
    return ops.where(valid, index, num_samples), valid


def _gather(rows: Any, index: Any) -> Any:
    """`rows[index]` of a variable or tensor, for an index in range."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # `ops.take` would look for negative indices, in five more operations.
        return tf.gather(getattr(rows, "value", rows), index)
    return ops.take(rows, index, axis=0)


def _scatter(variable: keras.Variable, index: Any, rows: Any) -> None:
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


def _from_all_replicas(*tensors: Any) -> tuple[Any, ...]:
    """Each tensor concatenated over the replicas of `tf.distribute`, in replica order."""
    if keras.backend.backend() != "tensorflow":
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    return tuple(context.all_gather(tensor, axis=0) for tensor in tensors)
