"""Methods around small students, as tests of all methods make them."""

import functools
import random

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import CRD, RCO, FeatureMatching, KnowledgeDistillation, ProKT, outputs
from recipes.methods import METHODS
from tests.settings import OFF, TINY

SAMPLES, CLASSES, EPOCHS = 26, 3, 5
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, CLASSES, SAMPLES)

# They differ from another method in settings only, which recipes and kill tests cover.
SETTINGS = ("label_smoothing", "dups_plus", "lstsd_ramp", "lstsd_without_long")
SETTINGS += ("lstsd_without_short", "lstsd_without_teachers", "lstsd_forward_kl", "crd_prokt")
SETTINGS += ("lstsd_top_k", "temporal_ensembling_mse", "mean_teacher_mse")
NAMES = [name for name in METHODS if name not in SETTINGS]


def slow(*values):
    """The parameters of a test, which makes it slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def thorough(*values):
    """The parameters of a test that only `pytest -m thorough` runs."""
    return pytest.param(*values, marks=pytest.mark.thorough)


# The mean teacher runs the student twice in a step, and LSTSD writes tables.
CHOSEN = ("mean_teacher", "lstsd")
# Their steps differ from those of others in the formula only, which their own tests compare.
ALIKE = ("tolerant_teacher", "ps_kd", "elr", "stored_teacher", "rco", "feature_matching", "crd")


def marked(names):
    """Names of methods as parameters of a test. Methods that only differ in a formula are slow."""
    return [slow(name) if name in ALIKE else name for name in names]


EACH = marked(NAMES)
every = pytest.mark.parametrize("name", EACH)


def rarely(name, *values, by_default=CHOSEN):
    """A method as a parameter: slow where it is not named, `thorough` where it is like another."""
    if name in by_default:
        return pytest.param(name, *values)
    return (thorough if name in ALIKE else slow)(name, *values)


chosen = pytest.mark.parametrize("name", [rarely(name) for name in NAMES])


def _total(x):
    """The sum of an input's values, as one feature."""
    total = keras.ops.sum(keras.ops.cast(x, "float32"), axis=tuple(range(1, len(x.shape))))
    return 0.01 * total[:, None]


def other(student, seed=1):
    """A network for the student's data; draws nothing from the seeds of the test."""
    state = random.getstate()
    random.seed(seed)
    try:
        if isinstance(student, keras.Sequential):
            return keras.models.clone_model(student)
        (specs,) = outputs.input_signature(student)
        inputs = keras.tree.map_structure(
            lambda spec: keras.Input(spec.shape[1:], dtype=spec.dtype, name=spec.name), specs
        )
        # The same for texts of any padding.
        flat = [layers.Lambda(_total)(x) for x in keras.tree.flatten(inputs)]
        joined = layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
        return keras.Model(inputs, layers.Dense(outputs.shape(student)[-1])(joined))
    finally:
        random.setstate(state)


def wrapped(cls, student, samples, **settings):
    """As a user would; each method gets what it needs of a data size and of teachers."""
    if cls.needs_sample_index or settings.get("stored") or settings.get("contrast"):
        settings["num_samples"] = samples
    if cls is RCO:
        settings["anchors"] = [other(student), other(student, seed=2)]
    elif cls in (CRD, FeatureMatching, KnowledgeDistillation, ProKT):
        settings["teacher"] = other(student)
    return cls(student, **settings)


def made(name, student, samples=SAMPLES, /, **settings):
    """A method with its tiny settings."""
    method = METHODS[name]
    return wrapped(method.cls, student, samples, **(method.arguments | TINY[name] | settings))


def guides(name):
    """Whether a method, with its own settings, has guidance."""
    method = METHODS[name]
    logs = method.cls.logged or "drop_issues_after" in method.arguments
    return bool(logs) and not OFF[name].items() <= method.arguments.items()


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
    options = {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"} | options
    # Keras traces a step twice where it makes the metrics itself, from their names.
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    model.compile(metrics=[accuracy], **options)
    return model


def fit(model, epochs=EPOCHS):
    return model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0).history


def trained(name, epochs=EPOCHS, **options):
    model = compiled(name, **options)
    return model, fit(model, epochs)


# For tests that do not change the model.
shared = functools.cache(trained)
