"""Wrong and missing labels, for experiments."""

import numpy as np


def with_wrong_labels(
    y: np.ndarray, share: float, num_classes: int, seed: int, confusion: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the labels of a random share of the samples by another class.

    `round(share * samples)` labels become wrong. `q_i(c)` is the confusion of sample i's label
    with class c. The probability to draw sample i is proportional to `sum_(c != y_i) q_i(c)`. The
    probability that its label becomes class c is proportional to `q_i(c)`.

    Args:
        y: integer labels `[samples]`.
        share: the share of wrong labels, in [0, 1].
        num_classes: the number of classes.
        seed: integer that determines the samples and their new labels.
        confusion: how often each class is taken for another. None: q is the same for all.
            `[classes, classes]`, a row for each label, for noise that depends on the class.
            `[samples, classes]`, such as the predictions of a weak network, for noise that depends
            on the sample. The entry of the label itself does not count.

    Returns:
        `(labels, is_wrong)`: labels with noise, of the type of `y`, and bool `[samples]`.

    Raises:
        ValueError: when `share` lies outside [0, 1], and for a confusion of another shape, with
            negative or missing entries, or of fewer samples than shall be wrong.

    Example:
        >>> y_noisy, is_wrong = keras_lstsd.data.label_noise.with_wrong_labels(
        ...     y_train, 0.4, num_classes=10, seed=0
        ... )

        Each class is taken for the next one:

        >>> next_class = np.roll(np.eye(10), 1, axis=1)
        >>> y_noisy, is_wrong = keras_lstsd.data.label_noise.with_wrong_labels(
        ...     y_train, 0.4, num_classes=10, seed=0, confusion=next_class
        ... )
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"`share` is not a share of the labels. Received: share={share}. Expected: 0 to 1."
        )
    y = np.asarray(y)
    draw, wrong = np.random.default_rng(seed), round(share * len(y))
    is_wrong = np.zeros(len(y), bool)
    if not wrong:
        return y.copy(), is_wrong
    if confusion is None:
        is_wrong[draw.permutation(len(y))[:wrong]] = True
        shift = draw.integers(1, num_classes, len(y))
        return np.where(is_wrong, (y + shift) % num_classes, y).astype(y.dtype), is_wrong
    others = _of_other_classes(np.asarray(confusion, "float64"), y, num_classes, wrong)
    weights = others.sum(-1)
    is_wrong[draw.choice(len(y), wrong, replace=False, p=weights / weights.sum())] = True
    sums = others.cumsum(-1)
    # The first class whose sum exceeds a number below the sum of all.
    new = (sums <= draw.random(len(y))[:, None] * sums[:, -1:]).sum(-1)
    return np.where(is_wrong, new, y).astype(y.dtype), is_wrong


def _of_other_classes(
    confusion: np.ndarray, y: np.ndarray, num_classes: int, wrong: int
) -> np.ndarray:
    """The confusion of each sample, `[samples, classes]`, with 0 for its own label."""
    expected = {"labels": (num_classes, num_classes), "samples": (len(y), num_classes)}
    fault = None
    if confusion.shape not in expected.values():
        fault = f"shape {confusion.shape}"
    elif not ((confusion >= 0) & np.isfinite(confusion)).all():
        fault = "negative, missing or infinite entries"
    else:
        rows = confusion if confusion.shape == expected["samples"] else confusion[y]
        others = np.where(np.arange(num_classes) == y[:, None], 0, rows)
        possible = np.count_nonzero(others.sum(-1))
        if possible >= wrong:
            return others
        fault = f"{possible} samples that are confused, of which {wrong} shall be wrong"
    raise ValueError(
        f"`confusion` does not fit the labels. Received: {fault}. Expected: numbers of at least 0, "
        f"of shape {expected['labels']}, a row per label, or {expected['samples']}, a row per "
        "sample, not only at the labels themselves."
    )


def hidden_labels(y: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Which labels to leave out, so that each class keeps `per_class` of them.

    Args:
        y: integer labels `[samples]`.
        per_class: the labels that each class keeps, at random; all where it has fewer.
        seed: integer that determines which.

    Returns:
        bool `[samples]`.

    Example:
        >>> hidden = keras_lstsd.data.label_noise.hidden_labels(y_train, 10, seed=0)
        >>> y = np.where(hidden, -1, y_train)
    """
    order = np.random.default_rng(seed).permutation(len(y))
    hidden = np.ones(len(y), bool)
    for label in np.unique(y):
        hidden[order[y[order] == label][:per_class]] = False
    return hidden
