"""Methods around small students, as tests of all methods make them."""

import functools
import random

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import RCO, KnowledgeDistillation, ProKT
from recipes.methods import METHODS
from tests.settings import OFF, TINY

SAMPLES, CLASSES, EPOCHS = 26, 3, 5
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, CLASSES, SAMPLES)

# The last method of each class stands for the others where a test takes long.
CLASS_NAMES = {METHODS[name].cls: name for name in METHODS}.values()


def slow(*values):
    """The parameters of a test, which makes it slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


# The mean teacher runs the student twice in a step, and LSTSD writes tables.
CHOSEN = ("mean_teacher", "lstsd")
every = pytest.mark.parametrize("name", METHODS)
every_class = pytest.mark.parametrize(
    "name", [name if name in CLASS_NAMES else slow(name) for name in METHODS]
)
chosen = pytest.mark.parametrize(
    "name", [name if name in CHOSEN else slow(name) for name in METHODS]
)


def other(student):
    """A network like the student with other weights; draws nothing from the seeds of the test."""
    state = random.getstate()
    try:
        return keras.models.clone_model(student)
    finally:
        random.setstate(state)


def wrapped(cls, student, samples, **settings):
    """As a user would; each method gets what it needs of a data size and of teachers."""
    if cls.needs_sample_index or settings.get("stored"):
        settings["num_samples"] = samples
    if cls is RCO:
        settings["anchors"] = [other(student), other(student)]
    elif cls in (KnowledgeDistillation, ProKT):
        settings["teacher"] = other(student)
    return cls(student, **settings)


def made(name, student, samples=SAMPLES, /, **settings):
    """A method with its tiny settings."""
    method = METHODS[name]
    return wrapped(method.cls, student, samples, **(method.arguments | TINY[name] | settings))


def guides(name):
    """Whether a method, with its own settings, has guidance."""
    method = METHODS[name]
    return bool(method.cls.logged) and not OFF[name].items() <= method.arguments.items()


def dense_student(dropout=0.2):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(momentum=0.8),
            layers.Dropout(dropout),
            layers.Dense(CLASSES, activation="softmax", dtype="float32"),
        ]
    )


def assert_same(first, second, **tolerance):
    """Equal weights, bit for bit where no tolerance is given."""
    check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        check(a, b, **tolerance)


def compiled(name, samples=SAMPLES, seed=1, dropout=0.2, **options):
    """A method around a new student; takes options of `compile` and `settings` of the method."""
    keras.utils.set_random_seed(seed)
    settings = options.pop("settings", {})
    model = made(name, dense_student(dropout), samples, **settings)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def fit(model, epochs=EPOCHS):
    return model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0).history


def trained(name, epochs=EPOCHS, **options):
    model = compiled(name, **options)
    return model, fit(model, epochs)


# For tests that do not change the model.
shared = functools.cache(trained)
