"""Handwritten digits, 8x8: 1,797 real images that scikit-learn includes."""

NUM_CLASSES = 10


def load(num_train: int = 900) -> tuple[tuple, tuple]:
    """The digits, split into training and test samples in the order of the dataset.

    Args:
        num_train: number of training samples, of 1,797.

    Returns:
        `((x_train, y_train), (x_test, y_test))`: float32 `[n, 8, 8, 1]` in [0, 1], int32 `[n]`.

    Raises:
        ImportError: without scikit-learn.
        ValueError: when one of the two parts would be empty.

    Example:
        >>> (x_train, y_train), (x_test, y_test) = keras_lstsd.data.digits.load()

    Source: the UCI test set of Optical Recognition of Handwritten Digits, as in scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits are a dataset of scikit-learn, which is not installed. "
            "Write: pip install 'keras-lstsd[demo]'"
        ) from error
    data = load_digits()
    if not 0 < num_train < len(data.target):
        raise ValueError(
            "`num_train` leaves no sample for training or for testing. "
            f"Received: {num_train}. Expected: 1 to {len(data.target) - 1}."
        )
    x = (data.images / 16).astype("float32")[..., None]
    y = data.target.astype("int32")
    return (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])
