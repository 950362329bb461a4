import functools

import keras
import numpy as np
import pytest

from keras_lstsd import LSTSD
from tests import oracles
from tests.methods.linear import (
    BATCH,
    CLASSES,
    FEATURES,
    LSTSD_SETTINGS,
    RATE,
    SAMPLES,
    follow,
    linear_student,
    problem,
    rows_of,
)
from tests.models import slow


def memory(model):
    return {name: rows_of(getattr(model, name)) for name in ("long_term", "short_term", "pending")}


@pytest.mark.parametrize(
    ("jit_compile", "kl"),
    [(False, "reverse"), (False, "forward"), (True, "reverse"), slow(True, "forward")],
)
def test_training_follows_a_simulation_of_algorithm_1(jit_compile, kl):
    expected = follow(
        oracles.lstsd,
        LSTSD,
        memory,
        jit_compile,
        simulated=LSTSD_SETTINGS | {"direction": kl},
        **LSTSD_SETTINGS,
        kl=kl,
    )
    assert expected[-1].logs["teacher_coverage"] == 1
    assert np.isnan(expected[-1].memory["pending"][22]).all()


@pytest.mark.parametrize("weight", ["long_weight", "short_weight"])
def test_an_ablation_follows_the_simulation(weight):
    """Table 3, w/o long and w/o short; the term that is left out is logged as 0."""
    expected = follow(oracles.lstsd, LSTSD, memory, False, **(LSTSD_SETTINGS | {weight: 0.0}))
    term = weight.replace("weight", "term_loss")
    assert [epoch.logs[term] for epoch in expected] == [0] * len(expected)


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
def test_a_ramp_raises_the_weights(jit_compile):
    expected = follow(oracles.lstsd, LSTSD, memory, jit_compile, **(LSTSD_SETTINGS | {"ramp": 4}))
    last = expected[-1].logs
    weighted = 2.4 * last["long_term_loss"] + 4.0 * last["short_term_loss"]
    np.testing.assert_allclose(last["distillation_loss"], weighted)


def test_teachers_come_from_the_epochs_of_the_papers_timeline():
    """A frozen student whose outputs show the epoch, with E = 3."""
    samples, classes = 4, 8
    identity = keras.Sequential(
        [keras.Input((classes,)), keras.layers.Dense(classes, use_bias=False)]
    )
    identity.layers[0].set_weights([np.eye(classes)])
    model = LSTSD(identity, samples, mini_generation_epochs=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)

    def epoch_in(table):
        rows, known = table.numpy()
        return int(rows[0].argmax()) if known.all() else None

    teachers = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            teachers.append((epoch_in(model.long_term), epoch_in(model.short_term)))

    for epoch in range(7):
        x = np.tile(5 * np.eye(classes)[epoch], (samples, 1)).astype("float32")
        model.fit(x, np.zeros(samples), batch_size=2, verbose=0, callbacks=[Look()])
    none = (None, None)
    assert teachers == [none, none, none, (2, 2), (2, 3), (2, 4), (5, 5)]
    assert teachers == list(oracles.timeline(3, 7))


@functools.cache
def train(epochs=4, dropout=0.0, jit_compile="auto", steps_per_execution=1, **settings):
    keras.utils.set_random_seed(11)
    x, y = problem()
    student = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(16, activation="relu", kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model = LSTSD(student, SAMPLES, mini_generation_epochs=2, **settings)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=1.0, gradient_accumulation_steps=2),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    history = model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0).history
    return model, history


@pytest.mark.parametrize(
    ("options", "dropout"),
    [
        # TensorFlow draws other dropout masks under XLA, with or without this library.
        slow({"jit_compile": True}, 0.0),
        ({"steps_per_execution": 3}, 0.3),
        ({"jit_compile": True, "steps_per_execution": 3}, 0.0),
    ],
)
def test_xla_and_many_steps_per_execution_give_the_same_numbers(options, dropout):
    expected, expected_logs = train(dropout=dropout)
    model, logs = train(dropout=dropout, **options)
    assert expected_logs["distillation_loss"][-1] > 0
    for found, weight in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(found, weight, atol=1e-4)
    for name in expected_logs:
        np.testing.assert_allclose(logs[name], expected_logs[name], atol=1e-4)


def test_temperature_and_direction_change_the_training():
    runs = [
        train(**settings)[1]["loss"][-1]
        for settings in ({}, {"temperature": 1.0}, {"kl": "forward"})
    ]
    assert len({round(loss, 5) for loss in runs}) == 3


def test_sample_weights_apply_to_the_guidance():
    """mean(w_i g_i) over the batch, with g from the present tables and student."""
    x, y = problem()
    student = linear_student()
    model = LSTSD(student, SAMPLES, mini_generation_epochs=1, kl="forward")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss)
    model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0)
    kernel, bias = student.get_weights()
    # The teachers of the next epoch, both: softened log-probabilities.
    teacher = oracles.log_softmax(model.pending.numpy()[0] / 2.0)
    guidance, _ = oracles.kl(x @ kernel + bias, teacher, 2.0, "forward")
    weights = np.linspace(0, 3, SAMPLES).astype("float32")
    logs = model.fit(x, y, sample_weight=weights, batch_size=SAMPLES, verbose=0).history
    expected = np.mean(weights * (2.4 + 4.0) * guidance)
    np.testing.assert_allclose(logs["distillation_loss"], [expected], rtol=1e-4)
    np.testing.assert_allclose(logs["short_term_loss"], [guidance.mean()], rtol=1e-4)


def test_a_one_unit_student_is_guided_as_two_classes():
    """A sigmoid unit and a softmax of [0, z] are one classifier and must train equally."""
    x, y = problem()
    y = y % 2
    kernel = np.random.default_rng(0).normal(size=(FEATURES, 1)).astype("float32")
    sigmoid = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    sigmoid.layers[0].set_weights([kernel, np.zeros(1)])
    logit = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    logit.layers[0].set_weights([kernel, np.zeros(1)])
    found = []
    for student, from_logits in ((sigmoid, False), (logit, True)):
        keras.utils.set_random_seed(0)
        model = LSTSD(student, SAMPLES, mini_generation_epochs=1)
        loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
        model.compile(keras.optimizers.SGD(0.2), loss)
        logs = model.fit(x, y, batch_size=BATCH, epochs=5, verbose=0).history
        assert model.pending.rows.shape == (128, 2)
        found.append((logs["distillation_loss"], student.get_weights()[0]))
    assert found[0][0][-1] > 0
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"long_weight": -1.0}, "long_weight=-1.0. Expected: at least 0"),
        ({"short_weight": float("nan")}, "short_weight=nan. Expected: at least 0"),
        ({"temperature": 0.0}, "temperature=0.0. Expected: above 0"),
        ({"mini_generation_epochs": 0}, "mini_generation_epochs=0. Expected"),
        ({"ramp": -1}, "ramp=-1. Expected: a whole number of at least 0"),
        ({"kl": "both"}, "kl='both'. Expected: 'reverse'"),
        ({"table_dtype": "int8"}, "'int8'. Expected: 'float32' or 'float16'"),
        ({"num_samples": 0}, "num_samples=0. Expected"),
        ({"num_samples": 2.5}, "num_samples=2.5. Expected"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        LSTSD(linear_student(), **({"num_samples": 10} | arguments))
