"""Reads and updates of variables in a step: the only module that gathers and scatters rows."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


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


def add_rows(index: Any, chosen: Any, *amounts: tuple[keras.Variable, Any]) -> None:
    """`variable[index] += rows` in place for pairs of both, where bool `[batch]` chooses the row.

    The index is int32 `[batch]`, in range. Rows of equal indices are summed before, in their
    order: a scatter adds them in any order.
    """
    batch = ops.shape(index)[0]
    ordered = ops.sort(index)
    place = ops.cast(ops.searchsorted(ordered, index), "int32")
    place = ops.where(chosen, place, batch)
    for variable, rows in amounts:
        # The sum of equal indices stands at the first of them; behind all, what is not chosen.
        sums = ops.segment_sum(rows, place, num_segments=batch + 1)[:batch]
        scatter_add(variable, ordered, sums)


def scatter_add(variable: keras.Variable, index: Any, rows: Any) -> None:
    """`variable[index] += rows`, in place; rows of equal indices in any order."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.raw_ops.ResourceScatterAdd(resource=variable.value.handle, indices=index, updates=rows)
    elif backend == "jax":
        variable.assign(variable.value.at[index].add(rows))
    else:
        variable.assign_add(ops.scatter(index[:, None], rows, variable.shape))


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
