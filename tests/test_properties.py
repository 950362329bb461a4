"""Properties of every method."""

import keras
import numpy as np
import pytest
from keras import layers

from recipes.methods import METHODS
from tests.models import (
    CHOSEN,
    CLASSES,
    EPOCHS,
    NAMES,
    X,
    Y,
    assert_same,
    chosen,
    compiled,
    every,
    guides,
    made,
    rarely,
    shared,
    slow,
    trained,
)


@chosen
def test_xla_gives_the_same_numbers(name):
    # TensorFlow draws other dropout masks under XLA.
    (plain, plain_logs), (xla, xla_logs) = (
        trained(name, dropout=0.0, epochs=4, jit_compile=jit) for jit in ("auto", True)
    )
    assert_same(plain, xla, atol=1e-4)
    for log in plain_logs:
        np.testing.assert_allclose(plain_logs[log], xla_logs[log], atol=1e-4)


@every
def test_guidance_starts_and_is_logged(name):
    guided, (_, history) = guides(name), shared(name)
    if "teacher_coverage" in history:
        assert (history["teacher_coverage"][0] == 1) is bool(METHODS[name].teacher)
        assert history["teacher_coverage"][-1] == guided
    if "distillation_loss" in history:
        assert (history["distillation_loss"][-1] != 0) is guided
    _, plain = shared("vanilla")
    assert (history["loss"] == plain["loss"]) is not guided


@chosen
def test_two_runs_with_one_seed_are_equal_and_two_seeds_differ(name):
    first, again, other = shared(name)[0], trained(name)[0], trained(name, seed=2)[0]
    assert_same(first, again)
    kernel, other_kernel = (model.student.get_weights()[0] for model in (first, other))
    assert np.abs(kernel - other_kernel).max() > 1e-3


@chosen
def test_evaluation_and_prediction_change_nothing(name):
    model, _ = trained(name)
    before = [np.array(variable.numpy()) for variable in model.variables]
    model.evaluate(X, Y, verbose=0)
    outputs = model.predict(X, verbose=0)
    np.testing.assert_allclose(outputs.sum(-1), 1, atol=1e-5)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@chosen
def test_mixed_precision_trains_close_to_full(name):
    _, full = trained(name, dropout=0.0)
    # With Keras's first scale, 2^15, an update may overflow and be left out.
    sgd = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=2**10)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, mixed = trained(name, dropout=0.0, optimizer=sgd)
    finally:
        keras.config.set_dtype_policy("float32")
    # The loss of ELR is a difference, and passes 0.
    atol = 0.02 if name == "elr" else 0
    np.testing.assert_allclose(mixed["loss"], full["loss"], rtol=0.02, atol=atol)
    for log in model.logged:
        np.testing.assert_allclose(mixed[log], full[log], rtol=0.1, atol=2e-3)


@chosen
@pytest.mark.tensorflow
def test_two_replicas_follow_one_device(name, two_replicas):
    x, y = X[:24], Y[:24]

    def train():
        keras.utils.set_random_seed(5)
        network = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.Dense(CLASSES)]
        )
        model = made(name, network, len(x))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        return model, model.fit(x, y, batch_size=8, epochs=EPOCHS, verbose=0).history

    single, expected = train()
    with two_replicas.scope():
        double, logs = train()
    for log in expected:
        np.testing.assert_allclose(logs[log], expected[log], atol=1e-4, err_msg=log)
    assert_same(single, double, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [rarely(name, "auto") for name in NAMES] + [slow(name, True) for name in CHOSEN],
)
def test_nothing_is_traced_again_after_the_first_epoch(name, jit_compile):
    """Neither at boundaries, nor in a later `fit`: one program runs in all epochs."""
    model = compiled(name, jit_compile=jit_compile)
    traces, hook = [], model.compute_loss

    def compute_loss(*args, training=True, **options):
        traces.append(training)
        return hook(*args, training=training, **options)

    model.compute_loss = compute_loss
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0, validation_data=(X, Y))
    first = list(traces)
    assert True in first
    for epochs in (3, 2):
        model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, validation_data=(X, Y))
    assert traces == first
