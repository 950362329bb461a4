"""The compiled loss: what contradicts the student's outputs."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import LSTSD
from tests.models import wrapped

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.arange(12) % 3


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


@pytest.mark.parametrize("loss", BINARY)
def test_a_binary_loss_makes_several_units_labels(loss):
    logits = getattr(loss, "from_logits", False)
    model = LSTSD(student(last=None if logits else "sigmoid"), len(X))
    model.compile("sgd", loss)
    model.fit(X, MULTI_LABEL, verbose=0)
    assert model.positions == ((3,), True)
    assert model.pending.rows.shape[1] == 2


@pytest.mark.parametrize("last", [None, "sigmoid"])
def test_a_categorical_loss_over_several_labels_is_rejected(last):
    """Logits are labels where a first `fit` had a binary loss."""
    model = LSTSD(student(last=last), len(X))
    if last is None:
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        model.fit(X, MULTI_LABEL, verbose=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=last is None))
    with pytest.raises(ValueError, match="contradicts.*Received.*3 units.*Expected"):
        model.fit(X, Y, verbose=0)


def test_a_binary_loss_over_logits_that_were_classes_is_rejected():
    model = LSTSD(student(), len(X))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, verbose=0)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="contradicts.*Received.*were classes.*Expected"):
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
