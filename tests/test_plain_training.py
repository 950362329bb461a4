"""Without guidance, every method trains bit for bit as `keras.Model.fit` does."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.conftest import on_tensorflow
from tests.models import (
    ALIKE,
    CHOSEN,
    CLASSES,
    NAMES,
    SAMPLES,
    X,
    Y,
    dense_student,
    made,
    slow,
    thorough,
)
from tests.settings import OFF

TOKENS = np.random.default_rng(1).integers(0, 6, (SAMPLES, 5))
WEIGHTS = np.linspace(0.5, 2, SAMPLES).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Penalty(layers.Layer):
    """Adds a loss in its call."""

    def call(self, inputs):
        self.add_loss(0.1 * ops.mean(ops.square(inputs)))
        return inputs


class WithLoss(keras.Model):
    """A subclass that adds a loss in its call."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(6, "tanh"), layers.Dense(CLASSES)

    def call(self, inputs):
        hidden = self.first(inputs)
        self.add_loss(0.1 * ops.mean(ops.abs(hidden)))
        return self.last(hidden)


class WithMetric(WithLoss):
    """A subclass that updates a metric in its call."""

    def __init__(self):
        super().__init__()
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, inputs):
        self.seen.update_state(ops.mean(inputs, axis=-1))
        return super().call(inputs)


# On JAX Keras itself cannot update a metric in a call.
Subclass = WithMetric if on_tensorflow else WithLoss


def built(model):
    model(X[:1])
    return model


def activity():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, "tanh", activity_regularizer="l2"),
            layers.Dense(CLASSES, "softmax"),
        ]
    )


def nested():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(6, "relu"), Penalty()])
    middle = keras.Sequential([inner, layers.Dense(5, activity_regularizer="l2"), Penalty()])
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax")(middle(inputs)))


def masked():
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(6, 4, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(CLASSES, "softmax"),
        ]
    )


def several_inputs(kind):
    inputs = {"x": keras.Input((4,), name="x"), "tokens": keras.Input((5,), name="tokens")}
    hidden = layers.Dense(6, "tanh")(layers.Concatenate()(list(inputs.values())))
    outputs = layers.Dense(CLASSES, "softmax")(hidden)
    return keras.Model(kind(inputs), outputs)


def values(inputs):
    return list(inputs.values())


def everything():
    """Two inputs, a mask, a nested model with a loss, a penalty and a metric."""
    x, tokens = keras.Input((4,)), keras.Input((5,), dtype="int32")
    pooled = layers.GlobalAveragePooling1D()(layers.Embedding(6, 4, mask_zero=True)(tokens))
    hidden = layers.Concatenate()([built(Subclass())(x), pooled])
    hidden = layers.Dropout(0.2)(layers.BatchNormalization()(Penalty()(hidden)))
    return keras.Model(
        [x, tokens], layers.Dense(CLASSES, "softmax", activity_regularizer="l2")(hidden)
    )


class Case(NamedTuple):
    student: Callable[[], keras.Model]
    x: Any = X
    fit: Mapping[str, Any] = MappingProxyType({})
    policy: str = "float32"
    from_logits: bool | None = None


BOTH = {"x": X, "tokens": TOKENS.astype("float32")}
CASES = {
    "dense": Case(dense_student),
    "activity_regularizer": Case(activity),
    "add_loss": Case(lambda: built(WithLoss()), from_logits=True),
    "own_metric": Case(lambda: built(Subclass()), from_logits=True),
    "nested": Case(nested),
    "mask": Case(masked, TOKENS),
    "list_of_inputs": Case(lambda: several_inputs(values), list(BOTH.values())),
    "dict_of_inputs": Case(lambda: several_inputs(dict), BOTH),
    "bfloat16": Case(dense_student, policy="mixed_bfloat16"),
    "class_weight": Case(dense_student, fit={"class_weight": {0: 2.0, 1: 0.5}}),
    "sample_weight": Case(dense_student, fit={"sample_weight": WEIGHTS}),
    "everything": Case(everything, [X, TOKENS], {"sample_weight": WEIGHTS}),
}


def trained(case, jit_compile, name=None, weight=0.0):
    """Final weights and logs of a case, by a method or by Keras itself."""
    make, x, options, policy, from_logits = CASES[case]
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(1)
        student = make()
        model = student
        if name is not None:
            settings = {
                key: [weight] if isinstance(value, list) else weight if value == 0 else value
                for key, value in OFF[name].items()
            }
            model = made(name, student, from_logits=from_logits, **settings)
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5),
            keras.losses.SparseCategoricalCrossentropy(from_logits=bool(from_logits)),
            metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("weighted_accuracy")],
            jit_compile=jit_compile,
        )
        history = model.fit(x, Y, batch_size=7, epochs=3, shuffle=False, verbose=0, **options)
    finally:
        keras.config.set_dtype_policy("float32")
    return student.get_weights(), history.history


plain = functools.cache(trained)


def assert_trains_as_keras(name, case, jit_compile, weight=0.0):
    weights, logs = plain(case, jit_compile)
    found_weights, found_logs = trained(case, jit_compile, name, weight)
    for found, weight in zip(found_weights, weights, strict=True):
        np.testing.assert_array_equal(found, weight)
    assert logs.keys() <= found_logs.keys()
    # XLA may round the mean loss differently, and Keras adds the losses of several layers in an
    # order that depends on their depth. The weights are rounded equally.
    tolerance = 1e-6 if jit_compile or case in ("nested", "everything") else 0
    for log, expected in logs.items():
        np.testing.assert_allclose(found_logs[log], expected, rtol=tolerance, err_msg=log)
    return found_logs


XLA = [(name, "everything") for name in ("lstsd", "mean_teacher", "prokt")]
PAIRS = [
    (name, case) for name in NAMES for case in CASES if name not in ALIKE or case == "everything"
]


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        if (name == "lstsd" and case in ("dense", "own_metric", "everything"))
        or (name in ("mean_teacher", "prokt") and case == "everything")
        else slow(name, case)
        for name, case in PAIRS
    ],
)
def test_without_guidance_training_is_plain_fit_bit_for_bit(name, case):
    assert_trains_as_keras(name, case, False)


@pytest.mark.parametrize(
    "name",
    [name if name in (*CHOSEN, "prokt") else slow(name) for name in NAMES if OFF[name]],
)
def test_predictions_of_the_teacher_change_no_loss_state_or_metric_of_the_student(name):
    """Guidance too small to change a float32 weight still runs all teachers."""
    logs = assert_trains_as_keras(name, "everything", False, weight=1e-30)
    assert logs.get("teacher_coverage", [1])[-1] == 1


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        if (name, case) == ("lstsd", "dense")
        else (slow if (name, case) in XLA else thorough)(name, case)
        for name, case in PAIRS
        if name == "lstsd" or (case == "everything" and name not in ALIKE)
    ],
)
def test_without_guidance_training_with_xla_is_plain_fit_bit_for_bit(name, case):
    assert_trains_as_keras(name, case, True)
