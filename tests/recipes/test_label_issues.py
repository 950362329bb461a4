"""The comparison of what finds wrong labels."""

from importlib.util import find_spec

import keras
import numpy as np
import pytest

from tests.recipes.loading import load
from tests.recipes.test_recipes import runs_in, start

label_issues = load("label_issues")


def test_sets_are_measured():
    wrong = np.array([True, False, True, True, False])
    found = label_issues.agreement(np.array([True, True, False, False, False]), wrong)
    # Precision 1/2, recall 1/3.
    np.testing.assert_allclose([found["found"], found["f1"]], [100 * 2 / 3, 40])
    none = label_issues.agreement(wrong, np.zeros(5, bool))
    assert none == {"found": 60}


def task(samples=300, last="softmax"):
    """Class c is at place c; class 0 lies next to class 1, and class 2 far away."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, samples)
    x = np.array([0.0, 0.5, 5.0])[y][:, None] + draw.normal(size=(samples, 1)) * 0.3

    def network():
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, last)])

    return label_issues.Task(
        x.astype("float32"), y, x, y, 3, network, 600, 32, label_issues.metrics.accuracy
    )


def test_noise_by_pairs_takes_the_most_confused_class():
    given = task()
    labels, wrong = given.noisy("pairs", 0.3, seed=0)
    assert wrong.sum() == 90
    assert set(labels[wrong & (given.y == 0)]) == {1}
    assert set(labels[wrong & (given.y == 1)]) == {0}


@pytest.mark.parametrize("last", ["softmax", None])
def test_noise_by_samples_hits_those_that_are_confused(last):
    given = task(last=last)
    labels, wrong = given.noisy("samples", 0.2, seed=0)
    assert wrong.sum() == 60
    # Samples of class 2 are far from the others.
    assert (given.y[wrong] == 2).mean() < 0.25
    between = np.abs(given.x[:, 0] - 0.25) < 0.25
    assert wrong[between].mean() > wrong[~between].mean()
    np.testing.assert_array_equal(labels != given.y, wrong)


@pytest.mark.skipif(find_spec("cleanlab") is None, reason="cleanlab is not installed")
@pytest.mark.tensorflow
def test_the_recipe_compares_with_cleanlab(tmp_path):
    flags = (
        "--smoke",
        "--noise=pairs",
        "--method=lstsd_without_teachers,mean_teacher,cross_validation",
    )
    result = start("label_issues", *flags, f"--output_dir={tmp_path}/out")
    assert "## digits, 40 % wrong labels, pairs" in result.stdout
    plain, averaged, folds = runs_in(tmp_path / "out-smoke")
    assert plain["run"]["noise"] == "pairs"
    assert {"loss", "confidence", "margin"} <= plain["rankings"].keys()
    assert plain["sets"].keys() == {"find_label_issues", "cleanlab"}
    assert averaged["score"] == averaged["trained"]
    assert folds["sets"].keys() == {"cleanlab"}
    assert 0 < folds["rankings"]["cleanlab self_confidence"]["auc"] < 100
