"""Checks of arguments, of the student and of its loss."""

import numpy as np
import pytest

from keras_lstsd.checks import check_class_names, check_distillation, check_momentum, count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0. Expected: above 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 1.0, "kl": "both"}, "kl='both'. Expected: 'reverse'"),
        (
            {"temperature": 1.0, "weight": -1.0},
            "`weight` must not be negative.*weight=-1.0",
        ),
    ],
)
def test_invalid_settings_of_a_distillation_loss_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_distillation(**arguments)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_out_of_range_is_rejected(momentum):
    with pytest.raises(ValueError, match=f"momentum={momentum}. Expected: at least 0 and below 1"):
        check_momentum(momentum)


def test_valid_settings_pass():
    check_distillation(2.0, "forward", weight=0.0)
    check_momentum(0.0)


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", None])
def test_other_values_than_counts_are_rejected(value):
    with pytest.raises(ValueError, match=f"size={value!r}. Expected: a whole number"):
        count("size", value)


def test_numpy_integers_are_counts():
    assert count("size", np.int64(3)) == 3


@pytest.mark.parametrize(
    "names", ["abc", ["a", "b"], ["a", "b", "c", "d"], ["a", "b", "a"], ["a", "b", 3]]
)
def test_class_names_must_be_one_per_class(names):
    check_class_names(np.array(["a", "b", "c"]), 3)
    with pytest.raises(ValueError, match="Expected: a list of 3 different strings"):
        check_class_names(names, 3)
