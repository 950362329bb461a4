"""The largest log-probabilities of rows, for tables of many classes."""

import math
from typing import Any

from keras import ops

from keras_lstsd.losses import LOG_FLOOR, SMALLEST, log_softmax


def spread(values: Any, classes: Any, num_classes: int, like: Any = None) -> Any:
    """Rows of all classes from k of their entries; the other classes share the rest of the mass.

    With S the k classes that were kept and `r = 1 - sum_S p` the mass of the others, a row is
    `ln p_c` for c in S. The others share r evenly, or in the proportions of `like`, the student's
    prediction q at the same temperature: `ln(r q_c / sum_(not S) q)`. A divergence from such a row
    is that of the k classes and of all others as one more class: it leaves to the student how the
    others share their mass.

    The row differs from the whole one by at most 2 r in the sum of absolute differences. That is
    the most by which the gradient of `KL[row || softmax(z / T)]` in z / T changes.

    Args:
        values: log-probabilities `[..., batch, k]`.
        classes: their classes, int32 `[..., batch, k]`.
        num_classes: C.
        like: log-probabilities `[batch, C]`; None for even shares.

    Returns:
        log-probabilities, float32 `[..., batch, C]`, whose exponentials sum to 1.

    Example:
        >>> kept = ops.top_k(ops.log([[0.5, 0.15, 0.3, 0.05]]), 2)
        >>> ops.exp(keras_lstsd.top_k.spread(*kept, 4))     # [[0.5, 0.1, 0.3, 0.1]]
        >>> like = ops.log([[0.2, 0.6, 0.1, 0.1]])
        >>> ops.exp(keras_lstsd.top_k.spread(*kept, 4, like))
        # [[0.5, 0.171, 0.3, 0.029]]
    """
    k = values.shape[-1]
    shape = (*ops.shape(values)[:-1], num_classes)
    if like is not None:
        like = ops.reshape(ops.broadcast_to(like, shape), (-1, num_classes))
    values, classes = ops.reshape(values, (-1, k)), ops.reshape(classes, (-1, k))
    values = ops.maximum(ops.cast(values, "float32"), LOG_FLOOR)
    kept = ops.sum(ops.exp(values), axis=-1, keepdims=True)
    mass = ops.maximum(1 - kept, 0.0)
    # 0, unless rounding has made the kept entries larger.
    total = ops.log(kept + mass * (num_classes > k))
    rows = ops.shape(values)[0]
    places = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], ops.shape(classes))
    places = ops.reshape(ops.stack([places, classes], axis=-1), (-1, 2))

    def with_kept(others, entries):
        return ops.scatter_update(others, places, ops.reshape(entries, (-1,)))

    if like is None:
        shares = ops.full((rows, num_classes), -math.log(max(num_classes - k, 1)))
    else:
        shares = log_softmax(with_kept(like, ops.full_like(values, LOG_FLOOR)))
    rest = ops.log(ops.maximum(mass, SMALLEST)) - total
    whole = with_kept(ops.maximum(shares + rest, LOG_FLOOR), values - total)
    return ops.reshape(whole, shape)


def with_labels(rows: Any, values: Any, classes: Any, labels: Any) -> tuple[Any, Any]:
    """The k largest entries of rows with the label's class in the last place.

    Unless it is one of the k, it replaces the smallest of them. Rankings of labels then know the
    label's probability. A label of -1 and a k of 1 change nothing.

    Args:
        rows: log-probabilities `[batch, C]`.
        values: their k largest entries `[batch, k]`.
        classes: the classes of these, int32 `[batch, k]`.
        labels: classes, int `[batch]`; -1 for none.
    """
    k = values.shape[-1]
    if k == 1:
        return values, classes
    labels = ops.cast(labels, "int32")[:, None]
    of_labels = ops.take_along_axis(rows, ops.maximum(labels, 0), axis=-1)
    is_last, is_label = ops.arange(k) == k - 1, classes == labels

    def moved(kept, of_label):
        # No slices of what `top_k` returned: XLA would sort whole rows, 20 ms instead of 1.
        last = ops.sum(ops.where(is_last, kept, 0), axis=-1, keepdims=True)
        entries = ops.where(is_last, of_label, ops.where(is_label, last, kept))
        return ops.where(labels < 0, kept, entries)

    return moved(values, of_labels), moved(classes, labels)
