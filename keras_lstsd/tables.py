"""What is remembered of each sample: the one room where rows are gathered and scattered."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd.losses import LOG_FLOOR, SMALLEST, log_softmax

# A log-probability is never positive, but for rounding: an entry of 1 marks a row nobody wrote.
UNWRITTEN = 1.0


class SampleTable(keras.layers.Layer):
    """One row of log-probabilities per training sample, kept as a non-trainable weight.

    Rows `log softmax(z / T)` are written by scatter and read by gather: softened once, when they
    are written, and not in each step that asks them. A row never written is unknown and teaches
    nothing, as does one of NaN, which is what the softmax of anything not finite is. Below the N
    rows stands one more that belongs to nobody, and of which nothing is known: what has an index
    outside `[0, N)` is sent there, so no sample's row is ever touched by another's.

    Args:
        num_samples: N, rows of the table.
        num_classes: C, entries of a row.
        dtype: `"float32"` or `"float16"`; what is read is float32 always.
        temperature: T > 0, of the rows.

    Raises:
        ValueError: for another dtype.

    Example:
        >>> table = keras_lstsd.tables.SampleTable(num_samples=900, num_classes=10)
        >>> table.write([3], keras.ops.log([[0.1] * 10]))
        >>> log_probs, known = table.read([3, 4])       # known[:, 0]: [True, False]
    """

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        dtype: str = "float32",
        temperature: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(dtype="float32", trainable=False, name=name)
        if dtype not in ("float32", "float16"):
            raise ValueError(
                "`table_dtype` is how teacher rows are stored. "
                f"Received: {dtype!r}. Expected: 'float32' or 'float16' (half the memory)."
            )
        self.num_samples = num_samples
        self.temperature = temperature
        self.rows = self.add_weight(
            shape=(num_samples + 1, num_classes),
            initializer=keras.initializers.Constant(UNWRITTEN),
            dtype=dtype,
            trainable=False,
            autocast=False,
            name="rows",
        )
        self.built = True

    @property
    def mebibytes(self) -> float:
        """Memory of the table in MiB."""
        entries = self.rows.shape[0] * self.rows.shape[1]
        return entries * (2 if self.rows.dtype == "float16" else 4) / 2**20

    def read(self, index: Any, checked: bool = False) -> tuple[Any, Any]:
        """Gathers rows: int `[batch]` -> (float32 `[batch, classes]`, bool known, as large).

        All entries of a row are known, or none. For `checked` see `write`.
        """
        return read(index, self, checked)

    def write(self, index: Any, log_probs: Any, checked: bool = False) -> None:
        """Scatters rows `[batch, classes]` to int `[batch]`; of equal indices the last one counts.

        They are as `losses.log_softmax(logits, T)` gives them, with the table's T.

        On several replicas each writes the rows of all, so that every copy of the table is whole.

        Args:
            index: which samples, any integers.
            log_probs: their rows.
            checked: whether it is certain that the index is an int32 vector in which none comes
                twice or lies outside the table: nothing of this is looked for then.

        Raises:
            ValueError: for rows of another width, or an index that is not a vector.
        """
        if not checked:
            index, _ = _own_or_nobodys(index, self.num_samples)
        rows, count = tuple(log_probs.shape), index.shape[0]
        expected = (rows[0] if count is None else count, self.rows.shape[-1])
        if rows != expected and rows != (None, expected[1]):
            raise ValueError(
                f"A row of the table holds {expected[1]} classes. Received: rows of shape {rows} "
                f"for {count} indices. Expected: a row of shape ({expected[1]},) for each index."
            )
        index, log_probs = _from_all_replicas(index, ops.stop_gradient(log_probs))
        if not checked:
            # Sorted by row, as what it takes does not grow with the table: of equal indices the
            # one that came last stands last. Fewer indices than rows are an error of `top_k`.
            index, order = ops.top_k(index, ops.shape(log_probs)[0])
            log_probs = _gather(log_probs, order)
            is_last = index != ops.pad(index[1:], ((0, 1),), constant_values=-1)
            index = ops.where(is_last, index, self.num_samples)
        _scatter(self.rows, index, ops.cast(log_probs, self.rows.dtype))

    def clear(self) -> None:
        """Forgets all rows."""
        self.rows.assign(ops.full(self.rows.shape, UNWRITTEN, self.rows.dtype))

    def copy_from(self, other: "SampleTable") -> None:
        """Takes over the rows of another table that are known."""
        ours, theirs = (ops.convert_to_tensor(table.rows) for table in (self, other))
        self.rows.assign(ops.where(written(theirs[:, :1]), theirs, ours))

    def numpy(self) -> tuple[Any, Any]:
        """On the host: log-probabilities, float32 `[num_samples, classes]`, and which are known.

        They are those of temperature 1, whatever T the rows have.
        """
        rows = ops.convert_to_numpy(self.rows)[: self.num_samples].astype("float32")
        known, rows = written(rows[:, 0]), rows * self.temperature
        rows -= rows.max(axis=-1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
        return np.maximum(rows, LOG_FLOOR), known


def read(
    index: Any, tables: SampleTable | list[SampleTable], checked: bool = False
) -> tuple[Any, Any]:
    """Gathers the rows of a table, or of a list of tables alike, stacked in this order.

    int `[batch]` -> (float32 `[..., batch, classes]`, bool known, as large). For `checked` see
    `SampleTable.write`.
    """
    first = tables[0] if isinstance(tables, list) else tables
    if not checked:
        index, own = _own_or_nobodys(index, first.num_samples)
    if isinstance(tables, list):
        rows = ops.stack([_gather(table.rows, index) for table in tables])
    else:
        rows = _gather(tables.rows, index)
    rows = ops.stop_gradient(ops.cast(rows, "float32"))
    known = written(rows)
    if not checked:
        known = known & own[:, None]
    if first.rows.dtype == "float16":
        # What was rounded no longer sums to 1, and a divergence would tell of that alone.
        rows = ops.where(known, log_softmax(rows), rows)
    return rows, known


def written(rows: Any) -> Any:
    """Where rows, of a table or gathered from it, are known: all entries of a row, or none."""
    # NaN is below nothing. One entry of each row tells, but in a step to cut it out takes as long.
    return rows < UNWRITTEN


def _own_or_nobodys(index: Any, num_samples: int) -> tuple[Any, Any]:
    """Whose row each index is, int32, and where it is somebody's."""
    index = row_numbers(index, num_samples)
    own = inside(index, num_samples)
    return ops.where(own, index, num_samples), own


class ClassTable(keras.layers.Layer):
    """One row of log-probabilities per class, averaged over samples of that class.

    `collect` adds a batch to sums; `rotate` turns the sums into rows and
    begins anew. A class of which nothing was collected keeps its row; one that never had any is
    unknown and teaches nothing.

    Args:
        num_classes: C, rows and entries of a row.
        peers: at most that many samples of a class count between two rotations, the first ones
            that are met (a random choice, as the order is random); None for all.

    Example:
        >>> table = keras_lstsd.tables.ClassTable(num_classes=10, peers=5)
        >>> table.collect(y_train, student.predict(x_train))
        >>> table.rotate()
        >>> log_probs, known = table.read(y_train)
    """

    def __init__(self, num_classes: int, peers: int | None = None, name: str | None = None):
        super().__init__(dtype="float32", trainable=False, name=name)
        self.num_classes = num_classes
        self.peers = peers
        self.rows, self.sums = (
            self.add_weight(
                shape=(num_classes, width),
                initializer=keras.initializers.Constant(value),
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
                name=weight,
            )
            # The last column of the sums counts samples.
            for weight, width, value in (
                ("rows", num_classes, UNWRITTEN),
                ("sums", num_classes + 1, 0.0),
            )
        )
        self.built = True

    def read(self, labels: Any, checked: bool = False) -> tuple[Any, Any]:
        """Rows of classes: (float32 `[batch, classes]`, bool known, as large).

        Labels are int `[batch]`, or shares of the classes, float `[batch, classes]`, with which
        rows are mixed. With `checked` it is certain that none lies outside.
        """
        if len(labels.shape) == 1:
            if not checked:
                # On JAX a loss may take labels outside, such as -1, for none.
                labels = row_numbers(labels, self.num_classes)
                exist = inside(labels, self.num_classes)
                labels = ops.where(exist, labels, 0)
            rows = ops.stop_gradient(_gather(self.rows, labels))
            known = written(rows)
            return rows, known if checked else known & exist[:, None]
        rows = ops.stop_gradient(ops.convert_to_tensor(self.rows))
        return mixed(labels, rows, written(rows))

    def collect(self, labels: Any, probabilities: Any) -> None:
        """Collects probabilities `[batch, classes]` of samples with such labels as `read` takes."""
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
        """Makes the mean of what was collected the row of each class that was met."""
        sums, counts = self.sums[:, :-1], self.sums[:, -1:]
        means = ops.log(ops.maximum(ops.divide_no_nan(sums, counts), SMALLEST))
        rows = ops.convert_to_tensor(self.rows)
        self.rows.assign(ops.where(counts > 0, means, rows))
        self.drop()

    def drop(self) -> None:
        """Forgets what was collected since the last rotation."""
        self.sums.assign(ops.zeros(self.sums.shape))


def mixed(shares: Any, log_probs: Any, known: Any) -> tuple[Any, Any]:
    """Rows mixed as probabilities: log-probabilities, and which are of known rows alone.

    Args:
        shares: of each row in each mixture, float32 `[mixtures, rows]`.
        log_probs: rows `[..., rows, classes]`; what stands in an unknown one does not matter.
        known: bool `[..., rows, classes]`.
    """
    probabilities = ops.matmul(shares, ops.exp(ops.where(known, log_probs, 0.0)))
    whole = ops.matmul(shares, ops.cast(~known, "float32")) == 0
    return ops.log(ops.maximum(probabilities, SMALLEST)), whole


def row_numbers(index: Any, num_samples: int) -> Any:
    """An index of any integer type as int32; what lies outside `[0, num_samples)` stays outside."""
    index = ops.convert_to_tensor(index)
    if len(index.shape) != 1 or not keras.backend.is_int_dtype(index.dtype):
        raise ValueError(
            "An index numbers the rows of a batch. "
            f"Received: shape={tuple(index.shape)}, dtype={index.dtype}. Expected: integers of "
            "shape=(batch,)."
        )
    dtype = keras.backend.standardize_dtype(index.dtype)
    if dtype in ("int64", "uint64", "uint32"):
        index = ops.clip(index, -1 if dtype == "int64" else 0, num_samples)
    return ops.cast(index, "int32")


def inside(index: Any, num_samples: int) -> Any:
    """Which indices, int32, are rows of a table of that size."""
    # A negative one, taken for unsigned, lies beyond any table.
    return ops.cast(index, "uint32") < num_samples


def add(variable: keras.Variable, amounts: Any) -> None:
    """`variable += amounts`, in place."""
    if keras.backend.backend() == "tensorflow":
        # One operation; Keras reads, adds and assigns.
        variable.value.assign_add(amounts, read_value=False)
    else:
        variable.assign_add(amounts)


def _gather(rows: Any, index: Any) -> Any:
    """`rows[index]` of a variable or tensor, for an index inside it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # `ops.take` would look for negative indices, in five operations more.
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
