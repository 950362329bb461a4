import sys

import numpy as np
import pytest

from keras_lstsd.data import digits


def test_digits_are_cut_in_two():
    (x_train, y_train), (x_test, y_test) = digits.load(900)
    assert x_train.shape == (900, 8, 8, 1)
    assert len(x_test) == len(y_test) == 897
    assert (x_train.min(), x_train.max(), x_train.dtype) == (0, 1, np.float32)
    assert np.bincount(y_train, minlength=10).min() > 80


def test_the_asked_share_of_labels_is_wrong_and_evenly_so():
    y = np.arange(10_000) % 10
    labels, is_wrong = digits.with_wrong_labels(y, 0.4, 10, seed=3)
    assert is_wrong.sum() == 4000
    np.testing.assert_array_equal(labels != y, is_wrong)
    shifts = np.bincount((labels - y)[is_wrong] % 10, minlength=10)
    assert shifts[0] == 0
    assert np.abs(shifts[1:] - 4000 / 9).max() < 5 * np.sqrt(4000 / 9)


def test_the_seed_decides_which_labels_are_wrong():
    y = np.zeros(100, int)
    first, second, third = (digits.with_wrong_labels(y, 0.5, 10, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


def test_nonsense_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="Received: 1797"):
        digits.load(1797)
    with pytest.raises(ValueError, match="Received: 1.5"):
        digits.with_wrong_labels(np.zeros(3), 1.5, 10, 0)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-lstsd\[demo\]'"):
        digits.load()
