import numpy as np
import pytest

from keras_lstsd.data import label_noise


def test_the_given_share_of_labels_is_wrong_and_evenly_distributed():
    y = np.arange(10_000) % 10
    labels, is_wrong = label_noise.with_wrong_labels(y, 0.4, 10, seed=3)
    assert is_wrong.sum() == 4000
    np.testing.assert_array_equal(labels != y, is_wrong)
    shifts = np.bincount((labels - y)[is_wrong] % 10, minlength=10)
    assert shifts[0] == 0
    assert np.abs(shifts[1:] - 4000 / 9).max() < 5 * np.sqrt(4000 / 9)


def test_the_seed_determines_the_wrong_labels():
    y = np.zeros(100, int)
    first, second, third = (
        label_noise.with_wrong_labels(y, 0.5, 10, seed)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


def test_the_wrong_labels_are_pinned():
    """Results of recipes depend on them."""
    y = np.arange(8, dtype="int32") % 3
    labels, is_wrong = label_noise.with_wrong_labels(y, 0.5, 3, seed=0)
    assert labels.dtype == np.int32
    assert labels.tolist() == PINNED
    assert np.flatnonzero(is_wrong).tolist() == np.flatnonzero(labels != y).tolist()


PINNED = [0, 1, 1, 2, 0, 2, 2, 1]


@pytest.mark.parametrize("share", [1.5, -0.1, float("nan")])
def test_a_share_outside_0_and_1_is_rejected(share):
    with pytest.raises(ValueError, match=f"Received: share={share}. Expected: 0 to 1"):
        label_noise.with_wrong_labels(np.zeros(3), share, 10, 0)


def test_each_class_keeps_some_labels_and_the_seed_decides_which():
    y = np.array([0] * 30 + [1] * 20 + [2] * 3)
    hidden = label_noise.hidden_labels(y, 5, seed=1)
    assert np.bincount(y[~hidden]).tolist() == [5, 5, 3]
    np.testing.assert_array_equal(hidden, label_noise.hidden_labels(y, 5, seed=1))
    assert (hidden != label_noise.hidden_labels(y, 5, seed=2)).any()
    # More labels include the fewer ones.
    assert not (label_noise.hidden_labels(y, 8, seed=1) & ~hidden).any()
