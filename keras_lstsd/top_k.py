"""The largest log-probabilities of rows, for tables of many classes."""

from typing import Any

from keras import ops

from keras_lstsd.losses import LOG_FLOOR, SMALLEST


def spread(values: Any, classes: Any, num_classes: int) -> Any:
    """Rows of all classes from their k largest entries: the rest of the mass is spread evenly.

    With S the k classes that were kept, a row is `ln p_c` for c in S, and
    `ln((1 - sum_S p) / (C - k))` for the C - k others. With r the mass of these others, the row
    differs from the whole one by at most 2 r in the sum of absolute differences. That is the most
    by which the gradient of `KL[row || softmax(z / T)]` in z / T changes.

    Args:
        values: log-probabilities `[..., k]`.
        classes: their classes, int32 `[..., k]`.
        num_classes: C.

    Returns:
        log-probabilities, float32 `[..., C]`, whose exponentials sum to 1.

    Example:
        >>> kept = ops.top_k(ops.log([[0.5, 0.15, 0.3, 0.05]]), 2)
        >>> ops.exp(keras_lstsd.top_k.spread(*kept, 4))     # [[0.5, 0.1, 0.3, 0.1]]
    """
    k = values.shape[-1]
    shape = (*ops.shape(values)[:-1], num_classes)
    values, classes = ops.reshape(values, (-1, k)), ops.reshape(classes, (-1, k))
    values = ops.maximum(ops.cast(values, "float32"), LOG_FLOOR)
    kept = ops.sum(ops.exp(values), axis=-1, keepdims=True)
    mass = ops.maximum(1 - kept, 0.0)
    # 0, unless rounding has made the kept entries larger.
    total = ops.log(kept + mass * (num_classes > k))
    rest = ops.log(ops.maximum(mass / max(num_classes - k, 1), SMALLEST))
    rows = ops.shape(values)[0]
    places = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], ops.shape(classes))
    places = ops.reshape(ops.stack([places, classes], axis=-1), (-1, 2))
    spread_rest = ops.broadcast_to(rest - total, (rows, num_classes))
    whole = ops.scatter_update(spread_rest, places, ops.reshape(values - total, (-1,)))
    return ops.reshape(whole, shape)
