"""Wrong and missing labels, for experiments."""

import numpy as np


def with_wrong_labels(
    y: np.ndarray, share: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the labels of a random share of the samples by another class.

    `round(share * samples)` labels become wrong; every other class has the same probability.

    Args:
        y: integer labels `[samples]`.
        share: the share of wrong labels, in [0, 1].
        num_classes: the number of classes.
        seed: integer that determines the samples and their new labels.

    Returns:
        `(labels, is_wrong)`: labels with noise, of the type of `y`, and bool `[samples]`.

    Raises:
        ValueError: when `share` lies outside [0, 1].

    Example:
        >>> y_noisy, is_wrong = keras_lstsd.data.label_noise.with_wrong_labels(
        ...     y_train, 0.4, num_classes=10, seed=0
        ... )
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"`share` is not a share of the labels. Received: share={share}. Expected: 0 to 1."
        )
    draw = np.random.default_rng(seed)
    is_wrong = np.zeros(len(y), bool)
    is_wrong[draw.permutation(len(y))[: round(share * len(y))]] = True
    shift = draw.integers(1, num_classes, len(y))
    return np.where(is_wrong, (y + shift) % num_classes, y).astype(y.dtype), is_wrong


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
