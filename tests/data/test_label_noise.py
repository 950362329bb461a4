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


def chi_squared(counts, expected):
    """Pearson's statistic per degree of freedom, about 1 where the counts are as expected."""
    seen = expected > 0
    assert (counts[~seen] == 0).all()
    return ((counts - expected)[seen] ** 2 / expected[seen]).sum() / seen.sum()


def test_noise_by_class_follows_the_row_of_each_label():
    # Class 2 is confused twice as often as class 0, and class 1 never.
    confusion = np.array([[9.0, 0.25, 0.75], [0, 9, 0], [2, 0, 9]])
    y = np.arange(30_000) % 3
    labels, is_wrong = label_noise.with_wrong_labels(y, 0.1, 3, seed=0, confusion=confusion)
    assert labels.dtype == y.dtype
    assert is_wrong.sum() == 3000
    np.testing.assert_array_equal(labels != y, is_wrong)
    counts = np.zeros((3, 3))
    np.add.at(counts, (y[is_wrong], labels[is_wrong]), 1)
    # Few of 20,000 samples are drawn: drawing without replacement hardly changes the shares.
    expected = np.array([[0, 250, 750], [0, 0, 0], [2000, 0, 0]])
    assert np.abs(counts - expected).max() < 120
    assert chi_squared(counts[0], counts[0].sum() * np.array([0, 0.25, 0.75])) < 3


def test_noise_by_sample_follows_the_row_of_each_sample():
    y = np.arange(20_000) % 2
    # Odd rows are sure of the label; of the others, half lean to class 2 and half to class 3.
    confusion = np.zeros((len(y), 4))
    confusion[np.arange(len(y)), y] = 0.5
    doubtful = np.arange(len(y)) % 4 < 2
    confusion[doubtful, 2] = 0.1
    confusion[doubtful, 3] = 0.4
    labels, is_wrong = label_noise.with_wrong_labels(y, 0.25, 4, seed=1, confusion=confusion)
    assert is_wrong.sum() == 5000
    assert not (is_wrong & ~doubtful).any()
    np.testing.assert_array_equal(labels != y, is_wrong)
    assert chi_squared(np.bincount(labels[is_wrong], minlength=4), np.array([0, 0, 1e3, 4e3])) < 5
    again, _ = label_noise.with_wrong_labels(y, 0.25, 4, seed=1, confusion=confusion)
    np.testing.assert_array_equal(labels, again)


@pytest.mark.parametrize(
    ("confusion", "received"),
    [
        (np.ones((3, 4)), r"shape \(3, 4\)"),
        (-np.ones((3, 3)), "negative, missing or infinite entries"),
        (np.full((9, 3), np.nan), "negative, missing or infinite entries"),
        (np.eye(3), "0 samples that are confused, of which 4 shall be wrong"),
    ],
)
def test_a_confusion_that_does_not_fit_is_rejected(confusion, received):
    with pytest.raises(ValueError, match=f"Received: {received}. Expected: numbers of at least 0"):
        label_noise.with_wrong_labels(np.arange(9) % 3, 0.5, 3, 0, confusion=confusion)


def test_each_class_keeps_some_labels_and_the_seed_decides_which():
    y = np.array([0] * 30 + [1] * 20 + [2] * 3)
    hidden = label_noise.hidden_labels(y, 5, seed=1)
    assert np.bincount(y[~hidden]).tolist() == [5, 5, 3]
    np.testing.assert_array_equal(hidden, label_noise.hidden_labels(y, 5, seed=1))
    assert (hidden != label_noise.hidden_labels(y, 5, seed=2)).any()
    # More labels include the fewer ones.
    assert not (label_noise.hidden_labels(y, 8, seed=1) & ~hidden).any()
