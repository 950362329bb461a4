"""Handwritten digits, 8x8: 1,797 real images that ship inside scikit-learn."""

import numpy as np

NUM_CLASSES = 10


def load(num_train: int = 900) -> tuple[tuple, tuple]:
    """The digits, cut into training and test samples in the data set's own order.

    Args:
        num_train: how many of the 1,797 samples are for training.

    Returns:
        `((x_train, y_train), (x_test, y_test))`: float32 `[n, 8, 8, 1]` in [0, 1], int32 `[n]`.

    Raises:
        ImportError: without scikit-learn.
        ValueError: when `num_train` leaves no sample on one side.

    Example:
        >>> (x_train, y_train), (x_test, y_test) = keras_lstsd.data.digits.load()

    Source: the UCI test set of Optical Recognition of Handwritten Digits, as in scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits ship inside scikit-learn, which is not installed. "
            "Write: pip install 'keras-lstsd[demo]'"
        ) from error
    data = load_digits()
    if not 0 < num_train < len(data.target):
        raise ValueError(
            "`num_train` samples are for training, the rest for testing. "
            f"Received: {num_train}. Expected: 1 to {len(data.target) - 1}."
        )
    x = (data.images / 16).astype("float32")[..., None]
    y = data.target.astype("int32")
    return (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])


def with_wrong_labels(
    y: np.ndarray, share: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the labels of a random share of the samples by another class.

    Args:
        y: integer labels `[samples]`.
        share: in [0, 1]; `round(share * samples)` labels become wrong, each another class with
            equal chances.
        num_classes: C.
        seed: integer that decides which, and into what.

    Returns:
        `(labels, is_wrong)`: the labels with the wrong ones among them, and bool `[samples]`.

    Raises:
        ValueError: when `share` lies outside [0, 1].

    Example:
        >>> digits = keras_lstsd.data.digits
        >>> y_noisy, is_wrong = digits.with_wrong_labels(y_train, 0.4, num_classes=10, seed=0)
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"`share` is the part of the labels to spoil. Received: {share}. Expected: 0 to 1."
        )
    draw = np.random.default_rng(seed)
    is_wrong = np.zeros(len(y), bool)
    is_wrong[draw.permutation(len(y))[: round(share * len(y))]] = True
    shift = draw.integers(1, num_classes, len(y))
    return np.where(is_wrong, (y + shift) % num_classes, y).astype(y.dtype), is_wrong
