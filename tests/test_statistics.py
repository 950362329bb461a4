import pytest

from keras_lstsd.statistics import paired_difference, spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Deviations -2, 0, 2: variance (4 + 0 + 4) / 2 = 4.
        ([3.0, 5.0, 7.0], "5.00 +- 2.00"),
        # Deviations -0.5, 0.5: variance 0.5 / 1, and its root 0.707.
        ([1.0, 2.0], "1.50 +- 0.71"),
        # Deviations -3, -1, 1, 3: variance 20 / 3, and its root 2.582.
        ([70, 72, 74, 76], "73.00 +- 2.58"),
        ([4.0, 4.0], "4.00 +- 0.00"),
    ],
)
def test_spread_is_mean_and_sample_standard_deviation(values, expected):
    assert spread(values) == expected


def test_spread_of_one_score_is_the_score():
    assert spread([71.234]) == "71.23"


def test_spread_of_no_scores_is_a_dash():
    assert spread([]) == "-"


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        # Deviations -2, 0, 2: standard deviation 2, and 2 / sqrt(3) = 1.155.
        ([4.0, 6.0, 8.0], "+6.00 +- 1.15"),
        # Deviations -3, -1, 1, 3: standard deviation 2.582, and 2.582 / sqrt(4) = 1.291.
        ([-4.0, -2.0, 0.0, 2.0], "-1.00 +- 1.29"),
        ([0.5, 0.5], "+0.50 +- 0.00"),
    ],
)
def test_paired_difference_is_mean_and_standard_error(differences, expected):
    baseline = dict(enumerate([70.0, 60.0, 50.0, 40.0]))
    scores = {seed: baseline[seed] + value for seed, value in enumerate(differences)}
    assert paired_difference(scores, baseline) == expected


def test_paired_difference_uses_only_common_seeds():
    scores = {7: 100.0, 2: 9.0, 1: 8.0, 0: 5.0}
    baseline = {0: 1.0, 1: 2.0, 2: 1.0, 5: -50.0}
    assert paired_difference(scores, baseline) == "+6.00 +- 1.15"


def test_paired_difference_of_one_common_seed_is_the_difference():
    assert paired_difference({0: 1.0, 1: 9.0}, {0: 3.0}) == "-2.00"


@pytest.mark.parametrize("scores", [{}, {4: 5.0}])
def test_paired_difference_without_common_seeds_is_a_dash(scores):
    assert paired_difference(scores, {0: 1.0, 1: 2.0}) == "-"
