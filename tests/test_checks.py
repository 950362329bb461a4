"""Checks of arguments, of the student and of its loss."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import LSTSD, Distillation, MeanTeacher
from keras_lstsd.checks import check_class_names, check_distillation, check_momentum, count
from tests.models import wrapped

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.arange(12) % 3


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


# === The compiled loss ===


def student(units=3, last=None):
    return keras.Sequential([keras.Input((4,)), layers.Dense(units, activation=last)])


def fit(cls, network, loss, y=Y):
    model = wrapped(cls, network, len(X))
    model.compile("sgd", loss)
    return model.fit(X, y, verbose=0).history


@pytest.mark.parametrize(
    ("last", "loss"),
    [
        (None, "sparse_categorical_crossentropy"),
        (None, keras.losses.SparseCategoricalCrossentropy()),
        (None, keras.losses.sparse_categorical_crossentropy),
        (None, ["sparse_categorical_crossentropy"]),
        (None, "SparseCategoricalCrossentropy"),
        ("softmax", keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    ],
)
def test_a_loss_that_takes_logits_as_probabilities_is_rejected(last, loss):
    with pytest.raises(ValueError, match="Expected: a loss with from_logits="):
        fit(LSTSD, student(last=last), loss)


MULTI_LABEL = (X[:, :3] > 0).astype("float32")
BINARY = [
    "binary_crossentropy",
    "BinaryCrossentropy",
    "binary_focal_crossentropy",
    keras.losses.binary_crossentropy,
    keras.losses.BinaryCrossentropy(),
    keras.losses.BinaryCrossentropy(from_logits=True),
    keras.losses.BinaryFocalCrossentropy(from_logits=True),
]


@pytest.mark.parametrize("cls", [LSTSD, MeanTeacher, Distillation])
@pytest.mark.parametrize("loss", BINARY)
def test_a_binary_loss_over_several_logits_is_rejected_as_multi_label(cls, loss):
    with pytest.raises(ValueError, match="multi-label.*Received: 3 output units.*Expected"):
        fit(cls, student(), loss, MULTI_LABEL)


def test_several_sigmoid_units_are_rejected_as_multi_label():
    with pytest.raises(ValueError, match="multi-label.*Received.*Expected"):
        LSTSD(student(last="sigmoid"), len(X))


@pytest.mark.parametrize("from_logits", [False, True])
def test_a_binary_loss_over_several_sigmoid_units_is_rejected_as_multi_label(from_logits):
    """Also where the user says what the outputs are."""
    model = LSTSD(student(last="sigmoid"), len(X), from_logits=from_logits)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=from_logits))
    with pytest.raises(ValueError, match="multi-label.*Received.*Expected"):
        model.fit(X, MULTI_LABEL, verbose=0)


def test_a_binary_loss_over_one_unit_is_accepted():
    for last in (None, "sigmoid"):
        loss = keras.losses.BinaryCrossentropy(from_logits=last is None)
        assert np.isfinite(fit(LSTSD, student(1, last), loss, Y > 0)["loss"]).all()


REGRESSION = [
    "mse",
    "mean_squared_error",
    "mae",
    "MeanSquaredError",
    keras.losses.MeanSquaredError(),
    keras.losses.MeanAbsoluteError(),
    keras.losses.Huber(),
    "huber",
    keras.losses.LogCosh(),
    keras.losses.mean_squared_error,
    ["mse"],
]


@pytest.mark.parametrize("loss", REGRESSION)
def test_a_regression_is_rejected(loss):
    with pytest.raises(ValueError, match="A regression cannot be guided.*Received.*Expected"):
        fit(LSTSD, student(1), loss, X[:, 0])


def test_a_squared_error_of_probabilities_is_accepted():
    """The Brier score."""
    y = np.eye(3)[Y]
    assert np.isfinite(fit(LSTSD, student(3, "softmax"), "mse", y)["loss"]).all()
    assert np.isfinite(fit(LSTSD, student(1, "sigmoid"), "mse", Y > 0)["loss"]).all()
