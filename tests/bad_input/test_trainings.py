"""Whole trainings on generated batches, against simulations and plain SGD."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstsd.data import with_sample_index
from tests import oracles
from tests.bad_input.cases import (
    CLASSES,
    FEATURES,
    INTEGERS,
    NOT_FINITE,
    RATE,
    SAMPLES,
    WEIGHTS,
    WITH_FEATURES,
    Batches,
    around,
    assert_weights,
    batch_of,
    cases,
    fresh,
    last_of,
    on_jax,
    plain_sgd,
    problems,
    shuffled,
)
from tests.methods.linear import Given, rows_of
from tests.models import NAMES, marked

# Methods whose student is linear in these tests.
LINEAR = marked(name for name in NAMES if name not in WITH_FEATURES)
ORACLES = {
    "lstsd": oracles.lstsd,
    "single_teacher_lstsd": oracles.single_teacher,
    "temporal_ensembling": oracles.temporal_ensembling,
    "mean_teacher": oracles.mean_teacher,
    "snapshot_distillation": oracles.snapshot_distillation,
    "dups_plus": oracles.dups,
}
RENAMED = {"direction": "kl", "average_momentum": "momentum"}


@pytest.mark.parametrize("name", ORACLES)
@cases(3, times=len(ORACLES))
@given(problem=problems(epochs=4))
def test_training_on_any_batches_follows_the_simulation(name, problem):
    x, classes, y, batches = problem
    model, simulate = fresh(name), ORACLES[name]
    config = model.get_config()
    arguments = [(n, RENAMED.get(n, n)) for n in inspect.signature(simulate).parameters]
    arguments = {n: config[argument] for n, argument in arguments if argument in config}
    expected = simulate(x, classes, batches, *model.student.get_weights(), RATE, **arguments)
    data = Given(x, y, batches)
    for epoch, oracle in enumerate(expected):
        data.epoch = epoch
        logs = model.fit(data, shuffle=False, verbose=0).history
        for log, value in oracle.logs.items():
            np.testing.assert_allclose(logs[log], [value], atol=1e-4, err_msg=f"{log} {epoch}")
        assert_weights(model, oracle.kernel, oracle.bias)


@pytest.mark.parametrize("name", LINEAR)
@cases(2, times=len(LINEAR))
@given(
    problem=problems(epochs=0),
    weight=st.lists(st.sampled_from(WEIGHTS), min_size=SAMPLES, max_size=SAMPLES),
    batch_size=st.sampled_from((3, SAMPLES, 100)),
)
def test_weighted_arrays_without_guidance_train_as_plain_sgd(name, problem, weight, batch_size):
    x, classes, y, _ = problem
    model, weight = fresh(name, off=True), np.array(weight)
    kernel, bias = (np.float64(value) for value in model.student.get_weights())
    history = model.fit(x, y, batch_size, 2, 0, sample_weight=weight).history
    for epoch in range(2):
        batches = shuffled(model, epoch, batch_size)
        kernel, bias, loss = plain_sgd(x.astype("f8"), classes, weight, kernel, bias, batches)
        np.testing.assert_allclose(history["loss"][epoch], loss, atol=1e-4)
    assert_weights(model, kernel, bias)


@pytest.mark.parametrize("name", LINEAR)
@cases(2, times=len(LINEAR))
@given(problem=problems(epochs=0), sign=st.sampled_from((0.0, -0.0)))
def test_sample_weights_of_zero_stop_guidance(name, problem, sign):
    x, _, y, _ = problem
    model = fresh(name)
    before = model.student.get_weights()
    history = model.fit(x, y, 4, 4, 0, sample_weight=np.full(SAMPLES, sign)).history
    assert history["loss"] == [0] * 4
    assert_weights(model, *before, atol=0)
    if hasattr(model, "pending"):
        expected = oracles.log_softmax(x.astype("f8") @ before[0] + before[1])
        np.testing.assert_allclose(rows_of(model.pending), expected, atol=1e-4)


@pytest.mark.parametrize("eager", [True, False])
@cases(10, times=2)
@given(
    data=st.data(),
    dtype=st.sampled_from(INTEGERS[:-1]),
    bad_rows=st.lists(st.integers(0, SAMPLES - 1), max_size=2, unique=True),
)
def test_samples_with_bad_indices_or_inputs_are_reported_and_not_stored(
    data, dtype, bad_rows, eager
):
    x, classes, y, _ = data.draw(problems(epochs=0))
    if not eager:  # Each dtype and shape is compiled again.
        dtype, y = "int32", classes
    numbers = around(SAMPLES).filter(lambda i: np.iinfo(dtype).min <= i <= np.iinfo(dtype).max)
    drawn = data.draw(st.lists(numbers, min_size=SAMPLES, max_size=SAMPLES))
    index, x = np.array(drawn, dtype), x.astype("float32")
    model = fresh("lstsd", eager=eager)
    kernel, bias = model.student.get_weights()
    expected = np.full((SAMPLES, CLASSES), np.nan)
    rows = oracles.log_softmax(x.astype("f8") @ kernel + bias)
    for i, row in last_of(drawn).items():
        if 0 <= i < SAMPLES and row not in bad_rows:
            expected[i] = rows[row]
    x[bad_rows, 1] = data.draw(st.sampled_from((np.nan, np.inf, -np.inf)))
    outside = sum(not 0 <= i < SAMPLES for i in drawn)
    message = f"Received: {outside} samples.*Expected"
    if not outside:
        message = NOT_FINITE

    def train():
        model.fit(Batches(batch_of(x, y, index)), shuffle=False, verbose=0)

    if outside or bad_rows:
        with pytest.raises(ValueError, match=message):
            train()
    else:
        train()
    np.testing.assert_allclose(rows_of(model.pending), expected, atol=1e-4)
    if not bad_rows:
        batch, ones = np.arange(SAMPLES), np.ones(SAMPLES)
        assert_weights(model, *plain_sgd(x, classes, ones, kernel, bias, [batch])[:2])


@pytest.mark.tensorflow
@cases(5)
@given(problem=problems(epochs=0), place=st.integers(0, 2))
def test_an_empty_batch_changes_nothing(problem, place):
    x, classes, _, _ = problem
    x, model = x.astype("float32"), fresh("lstsd", eager=False)
    weights = model.student.get_weights()
    parts = [np.arange(0, 3), np.arange(3, SAMPLES)]
    kernel, bias, loss = plain_sgd(x, classes, np.ones(SAMPLES), *weights, parts)
    parts.insert(place, np.arange(0))
    batches = [batch_of(x[part], classes[part], part.astype("int32")) for part in parts]
    history = model.fit(Batches(*batches), shuffle=False, verbose=0).history
    assert_weights(model, kernel, bias)
    np.testing.assert_allclose(history["loss"], [loss], atol=1e-4)
    assert model.pending.numpy()[1].all()


@cases(8)
@given(
    data=st.data(),
    big=st.lists(st.integers(0, SAMPLES - 1), min_size=1, max_size=SAMPLES, unique=True),
)
def test_float16_overflow_is_reported_and_changes_no_row_or_weight(data, big):
    x, _, y, _ = data.draw(problems(epochs=0))
    x = x.astype("float32")
    x[big] = 6e4
    model = fresh("lstsd", policy="mixed_float16")
    # All positive, so that 6e4 overflows in every column.
    model.student.set_weights([1.5 + np.eye(FEATURES, CLASSES), np.zeros(CLASSES)])
    before = model.student.get_weights()
    with pytest.raises(ValueError, match=NOT_FINITE):
        model.fit(Batches(batch_of(x, y, np.arange(SAMPLES))), shuffle=False, verbose=0)
    assert_weights(model, *before, atol=0)
    with np.errstate(over="ignore"):
        expected = oracles.log_softmax(x.astype("f8") @ before[0] + before[1])
    expected[big] = np.nan
    np.testing.assert_allclose(rows_of(model.pending), expected, atol=0.02)


@cases(6)
@given(data=st.data(), epochs=st.integers(1, 4))
def test_a_training_set_of_one_sample_is_guided_by_itself(data, epochs):
    x = np.array([data.draw(st.lists(st.integers(-2, 2), min_size=4, max_size=4))])
    y = np.array([data.draw(st.integers(0, CLASSES - 1))])
    model = fresh("lstsd", samples=1)
    batches = [[np.array([0])]] * epochs
    expected = oracles.lstsd(x, y, batches, *model.student.get_weights(), RATE, 2, 2.4, 4.0, 2.0)
    history = model.fit(x, y, epochs=epochs, verbose=0).history
    for log in expected[0].logs:
        np.testing.assert_allclose(history[log], [e.logs[log] for e in expected], atol=1e-4)
    np.testing.assert_allclose(rows_of(model.pending), expected[-1].memory["pending"], atol=1e-4)


@pytest.mark.tensorflow
@cases(8)
@given(
    length=st.integers(1, 2 * SAMPLES),
    batch_size=st.sampled_from((2, 5, 100)),
    repeated=st.sampled_from(("not", "after", "before")),
)
def test_data_sets_of_all_lengths_store_the_rows_that_they_drew(length, batch_size, repeated):
    import tensorflow as tf

    steps = 3
    x = np.random.default_rng(length).integers(-2, 3, (length, FEATURES))
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(length) % CLASSES))
    # Where the data is repeated before it is numbered, the numbers have no end.
    data = with_sample_index(data.repeat() if repeated == "before" else data)
    data = (data.repeat() if repeated == "after" else data).batch(batch_size)
    drawn = length if repeated == "not" else steps * batch_size
    index = np.arange(drawn) % length if repeated == "after" else np.arange(drawn)
    outside = np.sum(index >= SAMPLES)
    model = fresh("lstsd", eager=False)
    kernel, bias = model.student.get_weights()

    def train():
        steps_per_epoch = None if repeated == "not" else steps
        model.fit(data, steps_per_epoch=steps_per_epoch, verbose=0)

    if outside:
        with pytest.raises(ValueError, match=f"Received: {outside} samples.*Expected"):
            train()
    else:
        train()
    expected = np.full((SAMPLES, CLASSES), np.nan)
    for start in range(0, drawn, batch_size):
        numbers = index[start : start + batch_size]
        rows = numbers % length
        for i, row in zip(numbers, oracles.log_softmax(x[rows] @ kernel + bias), strict=True):
            if i < SAMPLES:
                expected[i] = row
        ones = np.ones(length)
        kernel, bias, _ = plain_sgd(x, np.arange(length) % CLASSES, ones, kernel, bias, [rows])
    np.testing.assert_allclose(rows_of(model.pending), expected, atol=1e-4)
    assert_weights(model, kernel, bias)


@cases(8)
@given(data=st.data(), bad=st.sampled_from((-1, CLASSES, 99)))
def test_labels_out_of_range_are_rejected_by_keras_or_add_no_loss(data, bad):
    x, classes, _, _ = data.draw(problems(epochs=0))
    row = data.draw(st.integers(0, SAMPLES - 1))
    y = classes.copy()
    y[row] = bad
    model = fresh("lstsd")
    batch = Batches(batch_of(x, y, np.arange(SAMPLES)))
    if not on_jax:
        with pytest.raises(Exception, match=f"Received a label value of {bad}"):
            model.fit(batch, shuffle=False, verbose=0)
        return
    # On JAX Keras ignores such a label.
    weight, everyone = np.arange(SAMPLES) != row, [np.arange(SAMPLES)]
    expected = plain_sgd(x, classes, weight, *model.student.get_weights(), everyone)
    history = model.fit(batch, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], [expected[2]], atol=1e-4)
    assert_weights(model, *expected[:2])
