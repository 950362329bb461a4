"""Whatever comes in, training is right, or an error says what was received and expected.

Cases are generated, the same ones in every run. What is right is always known from elsewhere: a
table as a dict, the simulations of `oracles.py`, or the formula in float64. Most cases ask the
small functions; those that ask `fit` share compiled models, whose weights are put back.

The test marked xfail is a known fault, which lies outside this library.
"""

import functools
import inspect
import re

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import ops

from keras_lstsd.data import SampleBatches, sample_order, with_sample_index
from keras_lstsd.losses import kl_divergence, kl_of_softened, log_softmax
from keras_lstsd.methods.registry import METHODS
from keras_lstsd.students import logits as logits_of
from keras_lstsd.tables import ClassTable, SampleTable
from tests import oracles
from tests.methods.linear import Given, rows_of

on_jax = keras.backend.backend() == "jax"
SAMPLES, FEATURES, CLASSES, RATE = 6, 4, 3, 0.1
LOG_FLOOR, SMALLEST = -6e4, float(np.finfo("float32").tiny)
# Keras itself takes no empty batch on JAX, which also compiles anew for each size.
SIZES = (1, 4) if on_jax else (0, 1, 4)
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
EXPLAINED = re.compile(r"Received.*Expected", re.DOTALL)
GENERATED = []


def cases(number, times=1):
    """So many cases of a test, `times` its parameters; `GENERATED` counts them.

    A failure is told as it is found, shortened, but not explained, which takes minutes.
    """
    GENERATED.append(number * times)
    # JAX compiles in the first cases.
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=slow,
    )


seeds = st.integers(0, 2**32 - 1)


def numpy(*tensors):
    arrays = tuple(ops.convert_to_numpy(tensor) for tensor in tensors)
    return arrays if len(arrays) > 1 else arrays[0]


def last_of(index):
    """Where each index stands last, by index: there its row counts, finite or not."""
    return {i: place for place, i in enumerate(np.asarray(index).tolist())}


# === Tables, against a dict of rows ===

ENTRIES = (0.0, -0.25, -3.0, -1e-30, 1e-6, -59999.0, -7e4, -3e38, -np.inf, np.inf, np.nan)


def around(size):
    """Indices in `[0, size)` and beyond its ends."""
    inside = st.integers(0, size - 1)
    return inside | st.sampled_from([-1, -size, size, size + 1, 2**31 - 1, -(2**31)])


@st.composite
def writes(draw, samples, classes):
    """A few batches to write: `(index, rows)` each."""
    batches = []
    for size in draw(st.lists(st.sampled_from((0, 1, 4)), min_size=1, max_size=3)):
        index = draw(st.lists(around(samples), min_size=size, max_size=size))
        entries = st.lists(st.sampled_from(ENTRIES), min_size=classes, max_size=classes)
        rows = draw(st.lists(entries, min_size=size, max_size=size))
        dtype = draw(st.sampled_from(("int32", "int64")))
        array = np.array(rows, "float32").reshape(size, classes)
        batches.append((np.array(index, dtype), array))
    return batches


@cases(230)
@given(data=st.data(), samples=st.sampled_from((1, 4)), half=st.booleans())
def test_a_table_holds_what_a_dict_would(data, samples, half):
    classes, dtype = data.draw(st.sampled_from((2, 3))), "float16" if half else "float32"
    table, expected = SampleTable(samples, classes, dtype), {}
    for index, rows in data.draw(writes(samples, classes)):
        finite = np.isfinite(rows).all(axis=-1, keepdims=True)
        rows = np.where(finite, np.clip(rows, LOG_FLOOR, 0), np.nan).astype("float32")
        table.write(index, rows)
        for i, last in last_of(index).items():
            expected.pop(i, None)
            if 0 <= i < samples and finite[last]:
                expected[i] = rows[last].astype(dtype)
    np.testing.assert_array_equal(np.flatnonzero(table.numpy()[1]), sorted(expected))
    for i, row in expected.items():
        np.testing.assert_array_equal(numpy(table.rows)[i], row)
    asked = np.array(data.draw(st.lists(around(samples), min_size=4, max_size=4)), "int32")
    rows, known = numpy(*table.read(asked))
    assert rows.dtype == np.float32
    for i, row, is_known in zip(asked.tolist(), rows, known, strict=True):
        assert (is_known == (i in expected)).all()
        if i not in expected:
            continue
        stored = expected[i].astype("float32")
        if half:
            np.testing.assert_allclose(row, floored(stored), atol=1e-5)
        else:
            np.testing.assert_array_equal(row, stored)


@cases(80)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("collect", "rotate", "drop")),
            st.lists(st.integers(-1, CLASSES), min_size=3, max_size=3),
            st.lists(st.sampled_from((0.0, 0.5, 1.0, np.nan)), min_size=3, max_size=3),
        ),
        max_size=6,
    ),
    peers=st.none() | st.integers(1, 2),
)
def test_a_class_table_holds_the_means_of_what_was_met(steps, peers):
    table = ClassTable(CLASSES, peers)
    met, expected = {}, {}
    for step, labels, firsts in steps:
        if step == "collect":
            first = np.array(firsts, "float32")
            rows = np.stack([first, 1 - first, 0 * first], axis=1)
            table.collect(np.array(labels, "int32"), rows)
            for label, row in zip(labels, rows, strict=True):
                if 0 <= label < CLASSES and np.isfinite(row).all():
                    met.setdefault(label, []).append(row)
        elif step == "rotate":
            table.rotate()
            expected |= {label: np.mean(rows[:peers], axis=0) for label, rows in met.items()}
            met = {}
        else:
            table.drop()
            met = {}
    rows, known = numpy(*table.read(np.arange(CLASSES)))
    np.testing.assert_array_equal(np.flatnonzero(known.all(-1)), sorted(expected))
    np.testing.assert_array_equal(np.flatnonzero(known.any(-1)), sorted(expected))
    for label, row in expected.items():
        np.testing.assert_allclose(np.exp(rows[label]), row, atol=1e-6)


# === Losses at extreme logits, against float64 ===

EXTREMES = (0.0, 1.0, -1.0, 15.0, -80.0, 80.0, 1e4, -1e4, 1e6, -1e38, 1e38, -np.inf)
FAULTS = (np.inf, np.nan)


@st.composite
def logits(draw, entries=EXTREMES, size=4):
    chosen = st.lists(st.sampled_from(entries), min_size=CLASSES, max_size=CLASSES)
    return np.array(draw(st.lists(chosen, min_size=size, max_size=size)))


def floored(values, temperature=1.0):
    """ln softmax(z / T) in float64, at least LOG_FLOOR; NaN where no prediction is meant."""
    with np.errstate(invalid="ignore"):
        return np.maximum(oracles.log_softmax(values / temperature), LOG_FLOOR)


@cases(150)
@given(
    values=logits(EXTREMES + FAULTS),
    dtype=st.sampled_from(("float16", "float32", "float64")),
    temperature=st.sampled_from((0.5, 1.0, 2.0, 6.0)),
)
def test_log_probabilities_are_right_at_any_logits_or_not_finite(values, dtype, temperature):
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    found = numpy(log_softmax(values, temperature))
    expected = floored(values.astype("float64"), temperature)
    meant = np.isfinite(expected).all(axis=-1)
    np.testing.assert_allclose(found[meant], expected[meant], rtol=1e-5, atol=1e-6)
    # So that no row of them is known.
    assert np.isnan(found[~meant]).all()


@cases(120)
@given(
    student=logits(),
    teacher=logits(),
    temperatures=st.tuples(*[st.sampled_from((0.5, 1.0, 2.0, 6.0))] * 2),
    direction=st.sampled_from(("reverse", "forward")),
)
def test_divergences_are_right_at_any_logits(student, teacher, temperatures, direction):
    found = numpy(
        kl_divergence(
            student.astype("float32"),
            teacher.astype("float32"),
            temperatures[0],
            direction,
            student_temperature=temperatures[1],
        )
    )
    log_p, log_q = floored(student, temperatures[1]), floored(teacher, temperatures[0])
    if direction == "reverse":
        expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    else:
        expected = (np.exp(log_q) * (log_q - log_p)).sum(axis=-1)
    meant = np.isfinite(expected)
    np.testing.assert_allclose(found[meant], expected[meant], rtol=1e-4, atol=1e-5)
    assert not np.isfinite(found[~meant]).any()


def gradient(function, x):
    if on_jax:
        import jax

        return np.asarray(jax.grad(lambda x: function(x).sum())(x))
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x).numpy()


# Log-probabilities above the floor, where the derivative is that of the formula.
ABOVE_FLOOR = (0.0, 1.0, -1.0, 15.0, -80.0, 80.0, 1e4, -1e4)


@cases(40)
@given(
    student=logits(ABOVE_FLOOR),
    teachers=st.tuples(logits(ABOVE_FLOOR), logits(ABOVE_FLOOR)),
    known=st.lists(st.booleans(), min_size=8, max_size=8),
    direction=st.sampled_from(("reverse", "forward")),
)
def test_several_teachers_are_so_many_divergences(student, teachers, known, direction):
    known = np.array(known).reshape(2, 4)
    factors = np.array([[2.4], [4.0]], "float32")
    softened = np.stack([oracles.log_softmax(teacher / 2) for teacher in teachers])

    def divergences(z):
        return kl_of_softened(z, softened.astype("float32"), 2.0, direction, known[..., None])

    student = student.astype("float32")
    values, found = (
        numpy(divergences(student)),
        gradient(lambda z: factors * divergences(z), student),
    )
    expected = [oracles.kl(student, row, 2.0, direction) for row in softened]
    lost = np.maximum(np.abs(softened).max(0), np.abs(oracles.log_softmax(student))).max(-1)
    for value, (divergence, _), is_known in zip(values, expected, known, strict=True):
        assert (np.abs(value - divergence * is_known) <= 1e-6 * lost + 1e-5).all()
    by_z = sum(
        factor * slope * is_known[:, None]
        for factor, (_, slope), is_known in zip(factors, expected, known, strict=True)
    )
    assert (np.abs(found - by_z) <= 1e-5 * lost[:, None] + 1e-4).all()


@cases(60)
@given(
    student=logits(ABOVE_FLOOR),
    teacher=logits(ABOVE_FLOOR),
    temperature=st.sampled_from((1.0, 2.0)),
    direction=st.sampled_from(("reverse", "forward")),
)
def test_gradients_of_divergences_are_right_at_large_logits(
    student, teacher, temperature, direction
):
    factors = np.array([1.0, 0.0, -2.0, 0.5], "float32")
    found = gradient(
        lambda z: factors * kl_divergence(z, teacher.astype("float32"), temperature, direction),
        student.astype("float32"),
    )
    row = oracles.log_softmax(teacher / temperature)
    _, expected = oracles.kl(student, row, temperature, direction)
    expected = expected * factors[:, None]
    # Logarithms of up to 2e4 cancel in float32.
    lost = np.maximum(np.abs(row), np.abs(oracles.log_softmax(student))).max(-1, keepdims=True)
    assert (np.abs(found - expected) <= 1e-6 * lost + 1e-5).all()


@cases(80)
@given(
    values=st.lists(
        st.sampled_from((0.0, 1.0, 0.5, 1e-3, 1e-7, 1e-30, 1e-45, np.nan)), min_size=6, max_size=6
    ),
    units=st.sampled_from((1, 2, 3)),
    dtype=st.sampled_from(("float16", "float32")),
)
def test_probabilities_become_logarithms_with_a_finite_floor(values, units, dtype):
    values = np.array(values).reshape(-1, units).astype(dtype)
    found = numpy(logits_of(ops.convert_to_tensor(values), from_logits=False))
    rounding = 2.0**-24
    p = values.astype("float64")
    log_p = np.log(np.maximum(p, rounding if dtype == "float16" else SMALLEST))
    if units == 1:
        log_p = np.concatenate([np.log(np.maximum(1 - p, rounding)), log_p], axis=1)
    np.testing.assert_allclose(found, log_p, rtol=1e-5, atol=1e-6)
    assert np.isfinite(found[~np.isnan(log_p)]).all()


# === Batches of arrays ===

DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool")


@st.composite
def structures(draw, samples):
    """Inputs of all kinds and dtypes, one row a sample."""

    def leaf():
        shape = (samples, *draw(st.sampled_from(((), (2,), (2, 1), (0,)))))
        array = np.random.default_rng(draw(seeds)).integers(0, 9, shape)
        return array.astype(draw(st.sampled_from(DTYPES)))

    return {
        "array": lambda: leaf(),
        "dict": lambda: {"a": leaf(), "inputs": leaf()},
        "tuple": lambda: (leaf(), leaf()),
        "list": lambda: [leaf(), leaf()],
        "nested": lambda: {"a": {"b": leaf()}, "c": (leaf(), {"sample_index": leaf()})},
    }[draw(st.sampled_from(("array", "dict", "tuple", "list", "nested")))]()


def standard(array):
    return array.astype("float32") if array.dtype == np.float64 else array


def assert_same_structure(found, expected):
    found, expected = keras.tree.flatten(found), keras.tree.flatten(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@cases(150)
@given(
    data=st.data(),
    samples=st.integers(1, 7),
    batch_size=st.integers(1, 10),
    shuffle=st.booleans(),
    seed=st.integers(-(2**31), 2**32 - 1),
    epoch=st.integers(0, 1000),
    steps=st.none() | st.integers(1, 5),
)
def test_batches_hold_the_rows_of_the_order(data, samples, batch_size, shuffle, seed, epoch, steps):
    x, own = data.draw(structures(samples)), data.draw(st.booleans())
    index = data.draw(st.lists(around(samples), min_size=samples, max_size=samples))
    index = np.array(index, "int32") if own else np.arange(samples, dtype="int32")
    y = np.random.default_rng(0).integers(0, 3, samples).astype(data.draw(st.sampled_from(DTYPES)))
    weight = data.draw(st.none() | st.just(np.linspace(-1, 1, samples)))
    batches = SampleBatches(
        {"inputs": x, "sample_index": index} if own else x,
        y,
        weight,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        steps_per_epoch=steps,
    )
    batches.begin_epoch(epoch, seed=seed + 1)
    drawn = steps * batch_size if steps else samples
    passes = range(epoch * drawn // samples, (epoch + 1) * drawn // samples + 1)
    orders = {n: sample_order(seed, n, samples) if shuffle else np.arange(samples) for n in passes}
    places = range(epoch * drawn, (epoch + 1) * drawn)
    order = np.array([orders[place // samples][place % samples] for place in places])
    assert len(batches) == -(-drawn // batch_size)
    for step in range(len(batches)):
        rows = order[step * batch_size : (step + 1) * batch_size]
        expected = ({"inputs": x, "sample_index": index}, y, weight)[: 2 + (weight is not None)]
        expected = keras.tree.map_structure(lambda a, rows=rows: standard(a)[rows], expected)
        assert_same_structure(batches[step], expected)


@cases(60)
@given(data=st.data(), samples=st.integers(1, 7), batch_size=st.integers(-3, 9))
def test_arrays_without_one_row_a_sample_are_refused(data, samples, batch_size):
    x, labels = data.draw(structures(samples)), data.draw(st.integers(0, 8))
    weights = data.draw(st.none() | st.integers(0, 8))
    arrays = x, np.zeros(labels, int), None if weights is None else np.zeros(weights)
    if labels == samples and weights in (None, samples) and batch_size >= 1:
        assert len(SampleBatches(*arrays, batch_size=batch_size)) == -(-samples // batch_size)
        return
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(*arrays, batch_size=batch_size)


@pytest.mark.tensorflow
@cases(25)
@given(
    data=st.data(),
    samples=st.integers(1, 7),
    take=st.integers(0, 9),
    repeat=st.sampled_from((1, 2, None)),
    batch_size=st.integers(1, 5),
)
def test_data_sets_are_numbered_from_zero_and_stay_as_they_were(
    data, samples, take, repeat, batch_size
):
    import tensorflow as tf

    x, weighted = data.draw(structures(samples)), data.draw(st.booleans())
    x = keras.tree.lists_to_tuples(x)
    y = np.arange(samples, dtype=data.draw(st.sampled_from(DTYPES[:-1])))
    arrays = (x, y, y / 2) if weighted else (x, y)
    numbered = with_sample_index(tf.data.Dataset.from_tensor_slices(arrays).take(take))
    found = numbered.repeat(repeat).take(9).batch(batch_size).as_numpy_iterator()
    length = min(take, samples)
    drawn = 9 if repeat is None and length else min(9, length * (repeat or 0))
    order = np.arange(drawn) % max(length, 1)
    found = list(found)
    assert len(found) == -(-drawn // batch_size)
    for step, batch in enumerate(found):
        rows = order[step * batch_size : (step + 1) * batch_size]
        expected = keras.tree.map_structure(lambda a, rows=rows: a[rows], arrays)
        inputs = {"inputs": expected[0], "sample_index": rows.astype("int32")}
        assert_same_structure(batch, (inputs, *expected[1:]))


# === One step ===


def linear_student():
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])


@functools.cache
def compiled(name, loss="sparse", off=False, eager=True, samples=SAMPLES, policy="float32"):
    """A model that all cases share, and the values that `fresh` puts back."""
    keras.utils.set_random_seed(3)
    method = METHODS[name]
    arguments = method.arguments | method.tiny | (method.off if off else {})
    losses = {
        "sparse": keras.losses.SparseCategoricalCrossentropy,
        "one_hot": keras.losses.CategoricalCrossentropy,
    }
    keras.config.set_dtype_policy(policy)
    try:
        model = method.cls(linear_student(), samples, **arguments)
        sgd = keras.optimizers.SGD(RATE)
        model.compile(sgd, losses[loss](from_logits=True), run_eagerly=eager)
    finally:
        keras.config.set_dtype_policy("float32")
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    return model, [(variable, np.array(numpy(variable))) for variable in variables]


def fresh(*arguments, **settings):
    model, values = compiled(*arguments, **settings)
    for variable, value in values:
        variable.assign(value)
    return model


def integers(dtype):
    """Indices of a dtype: inside, anywhere, and such as are inside when cut down to 32 bits."""
    inside, limits = st.integers(0, SAMPLES - 1), np.iinfo(dtype)
    # JAX cuts before anyone sees it: below, as a fault.
    if dtype == "int64" and not on_jax:
        cut = st.tuples(inside, st.sampled_from((2**32, -(2**32), 2**40))).map(sum)
        return inside | cut | st.integers(limits.min, limits.max)
    highest = min(limits.max, 2**31 - 1 if on_jax else 2**32 - 1)
    return inside | st.integers(max(limits.min, -(2**31)), highest)


@pytest.mark.parametrize("dtype", INTEGERS)
@cases(15, times=len(INTEGERS))
@given(data=st.data(), size=st.sampled_from((0, 4, 4, 4)))
def test_an_index_is_taken_or_counted_as_outside(dtype, data, size):
    model = fresh("lstsd")
    index = data.draw(st.lists(integers(dtype), min_size=size, max_size=size))
    index = np.array(index, dtype)
    outputs = data.draw(logits(EXTREMES + FAULTS, size=max(size, 1)))[:size].astype("float32")
    x = {"inputs": np.zeros((size, FEATURES)), "sample_index": ops.convert_to_tensor(index)}
    y = ops.convert_to_tensor(np.zeros(size, "int32"))
    model.compute_loss(x, y, ops.convert_to_tensor(outputs), None)
    inside = (index >= 0) & (index < SAMPLES)
    np.testing.assert_array_equal(numpy(model._sums)[-2:], [size, (~inside).sum()])
    finite = np.isfinite(floored(outputs.astype("float64"))).all(axis=-1)
    stored = np.isfinite(rows_of(model.pending)).all(axis=-1)
    expected = [bool(finite[last_of(index).get(i, [])].any()) for i in range(SAMPLES)]
    np.testing.assert_array_equal(stored, expected)


OTHERS = ("bool", "float16", "float32", "float64")


@cases(40)
@given(
    kind=st.tuples(
        st.sampled_from(INTEGERS + OTHERS), st.sampled_from(((), (4, 1), (2, 2), (0, 4)))
    )
    | st.tuples(st.sampled_from(OTHERS), st.sampled_from(((0,), (4,))))
)
def test_an_index_of_another_dtype_or_rank_is_refused(kind):
    dtype, shape = kind
    model = fresh("lstsd")
    index = ops.convert_to_tensor(np.zeros(shape, dtype))
    x = {"inputs": np.zeros((4, FEATURES)), "sample_index": index}
    with pytest.raises(ValueError, match=EXPLAINED):
        model._batch(x, None, ops.zeros((4, CLASSES)), None)


@cases(20)
@given(
    x=st.one_of(structures(3), structures(3).map(lambda x: {"inputs": x, "index": np.arange(3)}))
)
def test_inputs_without_an_index_are_refused(x):
    model = fresh("lstsd")
    with pytest.raises(ValueError, match=EXPLAINED):
        model.compute_loss(x, np.zeros(3, int), ops.zeros((3, CLASSES)))


WEIGHTS = (0.0, 1.0, -1.0, 2.5)


@st.composite
def weights(draw, size):
    """None, or weights of a batch in some dtype and shape."""
    kinds = {
        "none": st.none(),
        "zero": st.just([0.0] * size),
        "any": st.lists(st.sampled_from(WEIGHTS), min_size=size, max_size=size),
        "nan": st.lists(st.sampled_from((1.0, np.nan)), min_size=size, max_size=size),
    }
    values = draw(kinds[draw(st.sampled_from(tuple(kinds)))])
    if values is None:
        return None
    dtype = draw(st.sampled_from(("float16", "float32")))
    return np.array(values, dtype).reshape(draw(st.sampled_from(((size,), (size, 1)))))


@st.composite
def labels(draw, size, one_hot):
    """Class numbers, and the same as the data may have them."""
    classes = np.array(draw(st.lists(st.integers(0, CLASSES - 1), min_size=size, max_size=size)))
    if draw(st.booleans()):  # One class is all there is.
        classes = np.full(size, draw(st.integers(0, CLASSES - 1)))
    classes = classes.astype(int)
    dtype = draw(st.sampled_from(("uint8", "int8", "int32", "int64", "float16", "float32")))
    if one_hot:
        return classes, np.eye(CLASSES)[classes].astype(dtype)
    return classes, classes.astype(dtype).reshape(draw(st.sampled_from(((size,), (size, 1)))))


TAME = (0.0, 1.0, -1.0, 15.0, -80.0, 80.0, 1e4, -1e4, 1e6)


@cases(110)
@given(data=st.data(), size=st.sampled_from(SIZES), loss=st.sampled_from(("sparse", "one_hot")))
def test_the_loss_of_a_step_and_what_it_stores_are_those_of_the_formula(data, size, loss):
    model = fresh("lstsd", loss)
    teachers = {}
    for table in (model.long_term, model.short_term):
        index = np.array(data.draw(st.lists(around(SAMPLES), min_size=4, max_size=4)), "int32")
        table.write(index, log_softmax(data.draw(logits(TAME)).astype("float32"), 2.0))
        teachers[table] = np.where(table.numpy()[1][:, None], numpy(table.rows)[:SAMPLES], np.nan)
    index = np.array(data.draw(st.lists(around(SAMPLES), min_size=size, max_size=size)), "int32")
    outputs = data.draw(logits(TAME, size=max(size, 1)))[:size]
    classes, y = data.draw(labels(size, loss == "one_hot"))
    weight = data.draw(weights(size))
    x = {"inputs": np.zeros((size, FEATURES), "float32"), "sample_index": index}
    x, y, y_pred, sample_weight = keras.tree.map_structure(
        ops.convert_to_tensor, (x, y, outputs.astype("float32"), weight), none_is_leaf=False
    )
    # Keras does not reduce the loss of an empty batch.
    found = numpy(model.compute_loss(x, y, y_pred, sample_weight)).sum()

    inside = (index >= 0) & (index < SAMPLES)
    expected, _ = oracles.cross_entropy(outputs, classes)
    for table, factor in ((model.long_term, 2.4), (model.short_term, 4.0)):
        log_p, log_q = floored(outputs, 2.0), np.full((size, CLASSES), np.nan)
        log_q[inside] = teachers[table][index[inside]]
        divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
        expected = expected + factor * np.where(np.isnan(log_q[:, 0]), 0.0, divergence)
    if weight is not None:
        expected = expected * weight.reshape(-1)
    # Weights of both signs cancel: what float32 loses is a share of the largest.
    largest = np.nanmax(np.abs(expected), initial=1.0)
    expected = expected.sum() / max(size, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * largest)

    stored = dict(zip(index.tolist(), floored(outputs), strict=True))
    rows = rows_of(model.pending)
    for i in range(SAMPLES):
        expected = stored.get(i, np.full(CLASSES, np.nan))
        np.testing.assert_allclose(rows[i], expected, rtol=1e-5, atol=1e-6)


# === Whole trainings ===


@st.composite
def problems(draw, epochs):
    """Inputs, labels and batches: rows drawn twice or never, batches of one or above N."""
    x = np.random.default_rng(draw(seeds)).integers(-2, 3, (SAMPLES, FEATURES))
    classes, y = draw(labels(SAMPLES, one_hot=False))
    rows = st.integers(0, SAMPLES - 1)
    sizes = st.sampled_from((1, 3, SAMPLES + 2))
    batch = sizes.flatmap(lambda size: st.lists(rows, min_size=size, max_size=size))
    batches = st.lists(batch.map(np.array), min_size=1, max_size=2)
    x = x.astype(draw(st.sampled_from(("float16", "float32", "float64", "int8", "int64"))))
    return x, classes, y, draw(st.lists(batches, min_size=epochs, max_size=epochs))


def assert_weights(model, kernel, bias, atol=1e-4):
    for found, expected in zip(model.student.get_weights(), (kernel, bias), strict=True):
        np.testing.assert_allclose(found, expected, atol=atol)


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
def test_training_on_any_batches_is_that_of_the_simulation(name, problem):
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


def plain_sgd(x, classes, weight, kernel, bias, batches):
    """Weights and mean loss of an epoch of plain training, with weights of samples."""
    losses = []
    for index in batches:
        values, slope = oracles.cross_entropy(x[index] @ kernel + bias, classes[index])
        losses.append(values * weight[index])
        slope = slope * weight[index][:, None]
        kernel, bias = oracles.sgd(kernel, bias, x[index], slope, RATE, 0)
    return kernel, bias, np.concatenate(losses).mean()


class Batches(keras.utils.PyDataset):
    """Batches as they are, faults and all."""

    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, step):
        return self.batches[step]


def batch_of(x, y, index, *weight):
    return {"inputs": x, "sample_index": np.asarray(index)}, y, *weight


def shuffled(model, epoch, batch_size):
    """The batches of row numbers that `fit` draws from arrays."""
    order = sample_order(int(numpy(model._shuffle_seed)), epoch, SAMPLES)
    return [order[i : i + batch_size] for i in range(0, SAMPLES, batch_size)]


# One method of each class.
NAMES = sorted({method.cls: name for name, method in METHODS.items()}.values())


@pytest.mark.parametrize("name", NAMES)
@cases(2, times=len(NAMES))
@given(
    problem=problems(epochs=0),
    weight=st.lists(st.sampled_from(WEIGHTS), min_size=SAMPLES, max_size=SAMPLES),
    batch_size=st.sampled_from((3, SAMPLES, 100)),
)
def test_weighted_arrays_without_guidance_train_as_plain_sgd_does(
    name, problem, weight, batch_size
):
    x, classes, y, _ = problem
    model, weight = fresh(name, off=True), np.array(weight)
    kernel, bias = (np.float64(value) for value in model.student.get_weights())
    history = model.fit(x, y, batch_size, 2, 0, sample_weight=weight).history
    for epoch in range(2):
        batches = shuffled(model, epoch, batch_size)
        kernel, bias, loss = plain_sgd(x.astype("f8"), classes, weight, kernel, bias, batches)
        np.testing.assert_allclose(history["loss"][epoch], loss, atol=1e-4)
    assert_weights(model, kernel, bias)


@pytest.mark.parametrize("name", NAMES)
@cases(2, times=len(NAMES))
@given(problem=problems(epochs=0), sign=st.sampled_from((0.0, -0.0)))
def test_weights_of_zero_stop_guidance_too(name, problem, sign):
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
def test_samples_with_bad_indices_or_inputs_are_told_and_not_stored(data, dtype, bad_rows, eager):
    x, classes, y, _ = data.draw(problems(epochs=0))
    if not eager:  # Each dtype and shape is compiled anew.
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
    told = f"Received: {outside} samples.*Expected"
    if not outside:
        told = "Loss and weights must be finite.*Received: .*Expected"

    def train():
        model.fit(Batches(batch_of(x, y, index)), shuffle=False, verbose=0)

    if outside or bad_rows:
        with pytest.raises(ValueError, match=told):
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
def test_float16_overflow_is_told_stored_nowhere_and_moves_no_weight(data, big):
    x, _, y, _ = data.draw(problems(epochs=0))
    x = x.astype("float32")
    x[big] = 6e4
    model = fresh("lstsd", policy="mixed_float16")
    # All positive, so that 6e4 overflows wherever it stands.
    model.student.set_weights([1.5 + np.eye(FEATURES, CLASSES), np.zeros(CLASSES)])
    before = model.student.get_weights()
    with pytest.raises(ValueError, match="Loss and weights must be finite.*Received: .*Expected"):
        model.fit(Batches(batch_of(x, y, np.arange(SAMPLES))), shuffle=False, verbose=0)
    assert_weights(model, *before, atol=0)
    with np.errstate(over="ignore"):
        expected = oracles.log_softmax(x.astype("f8") @ before[0] + before[1])
    expected[big] = np.nan
    np.testing.assert_allclose(rows_of(model.pending), expected, atol=0.02)


@cases(6)
@given(data=st.data(), epochs=st.integers(1, 4))
def test_a_training_set_of_one_sample_teaches_itself(data, epochs):
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
def test_data_sets_shorter_longer_or_endless_store_the_rows_they_have(length, batch_size, repeated):
    import tensorflow as tf

    steps = 3
    x = np.random.default_rng(length).integers(-2, 3, (length, FEATURES))
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(length) % CLASSES))
    # Repeated before it is numbered, the numbers never end.
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
def test_labels_out_of_range_are_refused_by_keras_or_cost_nothing(data, bad):
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
    # On JAX Keras takes such a label for none.
    weight, everyone = np.arange(SAMPLES) != row, [np.arange(SAMPLES)]
    expected = plain_sgd(x, classes, weight, *model.student.get_weights(), everyone)
    history = model.fit(batch, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], [expected[2]], atol=1e-4)
    assert_weights(model, *expected[:2])


def test_at_least_a_thousand_cases_are_generated():
    assert sum(GENERATED) >= 1000


# === Single cases, each of which once went wrong ===


def fault(reason, where=True):
    """Strict: a fault that is mended must lose its mark."""
    return pytest.mark.xfail(where, reason=reason, strict=True)


X = np.random.default_rng(0).normal(size=(SAMPLES, FEATURES)).astype("float32")
Y = np.arange(SAMPLES) % CLASSES
EVERYONE = np.arange(SAMPLES)


def train(model, *batches, epochs=1):
    return model.fit(Batches(*batches), epochs=epochs, shuffle=False, verbose=0).history


@fault("JAX cuts integers down to 32 bits before the model sees them: 2**32 + 5 is 5", on_jax)
@pytest.mark.parametrize(
    ("dtype", "number"), [("int64", 2**32 + 2), ("int64", 2 - 2**32), ("uint64", 2**32 + 2)]
)
def test_an_index_beyond_int32_is_outside(dtype, number):
    index = EVERYONE.astype(dtype)
    index[2] = number
    model = fresh("lstsd")
    with pytest.raises(ValueError, match="Received: 1 samples"):
        train(model, batch_of(X, Y, index))


def test_an_int64_index_of_arrays_below_int32_is_outside():
    index = EVERYONE.astype("int64")
    index[2] -= 2**32
    with pytest.raises(ValueError, match=EXPLAINED):
        fresh("lstsd").fit({"inputs": X, "sample_index": index}, Y, verbose=0)


def test_one_index_for_a_batch_of_several_is_refused():
    with pytest.raises(ValueError, match=EXPLAINED):
        train(fresh("lstsd"), batch_of(X, Y, [3]), epochs=3)


def test_fewer_indices_than_samples_are_refused():
    with pytest.raises(ValueError, match=EXPLAINED):
        train(fresh("lstsd"), batch_of(X, Y, [0, 1, 2]), epochs=3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", NAMES)
def test_one_index_is_not_taken_for_all_where_sizes_are_not_known_before(name):
    import tensorflow as tf

    batch = batch_of(X, Y, np.array([3], "int32"))
    spec = tf.nest.map_structure(lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), batch)
    data = tf.data.Dataset.from_generator(lambda: iter([batch]), output_signature=spec)
    data = data.apply(tf.data.experimental.assert_cardinality(1))
    model = fresh(name, eager=False)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as failure:
        model.fit(data, verbose=0)
    # A table or a log refuses one index for several rows; else the epoch's end explains.
    refused = isinstance(failure.value, tf.errors.InvalidArgumentError)
    assert refused or EXPLAINED.search(str(failure.value))
    assert not any(table.numpy()[1].any() for table in model.sample_tables.values())


@pytest.mark.tensorflow
def test_an_index_of_unknown_rank_is_explained():
    import tensorflow as tf

    def opaque(x, y):
        index = tf.numpy_function(lambda i: i, [x["sample_index"]], tf.int32)
        return {"inputs": x["inputs"], "sample_index": index}, y

    data = with_sample_index(tf.data.Dataset.from_tensor_slices((X, Y))).batch(3).map(opaque)
    with pytest.raises(ValueError, match=EXPLAINED):
        fresh("lstsd", eager=False).fit(data, verbose=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_weight_that_is_not_finite_is_told(bad):
    weight = np.where(EVERYONE == 1, bad, 1).astype("float32")
    model = fresh("lstsd")
    with pytest.raises(ValueError, match=EXPLAINED):
        model.fit(X, Y, SAMPLES, sample_weight=weight, verbose=0)


@pytest.mark.parametrize("name", ["lstsd", "dups_plus"])
@pytest.mark.parametrize("floatx", ["float64", "float16"])
@pytest.mark.tensorflow
def test_other_float_types_of_keras_train(floatx, name):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    try:
        method = METHODS[name]
        model = method.cls(linear_student(), SAMPLES, **method.tiny)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(RATE), loss, run_eagerly=True)
        history = model.fit(X, Y, epochs=3, verbose=0).history
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert history["distillation_loss"][2] > 0
    assert history["teacher_coverage"] == [0, 0, 1]


@pytest.mark.skipif(not on_jax, reason="TensorFlow refuses the label")
def test_a_label_of_minus_one_has_no_class_teacher():
    y = np.where(EVERYONE == 0, -1, Y)
    logs = train(fresh("dups_plus"), batch_of(X, y, EVERYONE), epochs=3)
    np.testing.assert_allclose(logs["teacher_coverage"][2], (SAMPLES - 1) / SAMPLES)


@pytest.mark.tensorflow
def test_dups_refuses_labels_above_its_classes():
    y = np.where(EVERYONE == 0, CLASSES, Y)
    with pytest.raises(Exception, match=f"Received a label value of {CLASSES}"):
        train(fresh("dups_plus"), batch_of(X, y, EVERYONE))


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_in_an_epoch_are_refused(steps):
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(X, Y, steps_per_epoch=steps)[0]


@pytest.mark.parametrize("size", [2.5, "8"])
def test_a_batch_size_that_is_no_whole_number_is_refused(size):
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(X, Y, batch_size=size)


def test_a_label_alone_is_refused():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(X, np.array(3))


def test_no_inputs_at_all_are_refused():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches({}, Y)


def test_names_for_an_index_are_refused():
    with pytest.raises(ValueError, match=EXPLAINED):
        fresh("lstsd").fit({"inputs": X, "sample_index": np.array(list("abcdef"))}, Y, verbose=0)


def test_a_seed_of_any_size_will_do():
    order = sample_order(2**64, 0, SAMPLES)
    np.testing.assert_array_equal(np.sort(order), EVERYONE)


# Of the tables themselves; a model checks before.


@pytest.mark.tensorflow
def test_a_row_of_another_width_touches_nobody_else():
    table = SampleTable(5, 2)
    with pytest.raises(ValueError, match=EXPLAINED):
        table.write(np.array([3]), np.full((1, 3), -1.0, "float32"))
    assert not table.numpy()[1].any()


def test_a_row_too_short_is_refused():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleTable(5, 2).write(np.array([3]), np.full((1, 1), -1.0, "float32"))


@pytest.mark.parametrize("dtype", ["int8", "uint8"] if not on_jax else ["int8"])
def test_a_table_takes_any_integer(dtype):
    table = SampleTable(300, 2)
    table.write(np.array([3], dtype), np.full((1, 2), -1.0, "float32"))
    assert numpy(table.read(np.array([3], dtype))[1]).all()


def test_a_table_refuses_an_index_of_rank_two():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleTable(5, 2).read(np.array([[3]]))


def test_a_table_refuses_one_index_for_several_rows():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleTable(5, 2).write(np.array([3]), np.full((2, 2), -1.0, "float32"))


def test_a_table_refuses_an_index_of_floats():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleTable(5, 2).read(np.array([3.0], "float32"))
