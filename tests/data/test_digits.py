import sys

import numpy as np
import pytest

from keras_lstsd.data import digits


def test_digits_are_split_into_training_and_test_samples():
    (x_train, y_train), (x_test, y_test) = digits.load(900)
    assert x_train.shape == (900, 8, 8, 1)
    assert len(x_test) == len(y_test) == 897
    assert (x_train.min(), x_train.max(), x_train.dtype) == (0, 1, np.float32)
    assert np.bincount(y_train, minlength=10).min() > 80


@pytest.mark.parametrize("num_train", [0, 1797])
def test_an_empty_part_is_rejected(num_train):
    with pytest.raises(ValueError, match=f"Received: {num_train}. Expected: 1 to 1796"):
        digits.load(num_train)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-lstsd\[demo\]'"):
        digits.load()
