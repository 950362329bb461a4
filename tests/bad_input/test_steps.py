"""One step: indices, labels, weights and outputs of all kinds."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_lstsd.losses import log_softmax
from tests import oracles
from tests.bad_input.cases import (
    CLASSES,
    EXPLAINED,
    EXTREMES,
    FAULTS,
    FEATURES,
    INTEGERS,
    SAMPLES,
    WEIGHTS,
    around,
    cases,
    floored,
    fresh,
    labels,
    last_of,
    logits,
    numpy,
    on_jax,
    structures,
)
from tests.methods.linear import rows_of

# Keras itself takes no empty batch on JAX, which also compiles again for each size.
SIZES = (1, 4) if on_jax else (0, 1, 4)


def integers(dtype):
    """Indices of a dtype: in range, anywhere, and in range when truncated to 32 bits."""
    inside, limits = st.integers(0, SAMPLES - 1), np.iinfo(dtype)
    # JAX truncates before the model gets it: see test_indices.py.
    if dtype == "int64" and not on_jax:
        cut = st.tuples(inside, st.sampled_from((2**32, -(2**32), 2**40))).map(sum)
        return inside | cut | st.integers(limits.min, limits.max)
    highest = min(limits.max, 2**31 - 1 if on_jax else 2**32 - 1)
    return inside | st.integers(max(limits.min, -(2**31)), highest)


@pytest.mark.parametrize("dtype", INTEGERS)
@cases(15, times=len(INTEGERS))
@given(data=st.data(), size=st.sampled_from((0, 4, 4, 4)))
def test_an_index_is_used_or_counted_as_out_of_range(dtype, data, size):
    model = fresh("lstsd")
    index = data.draw(st.lists(integers(dtype), min_size=size, max_size=size))
    index = np.array(index, dtype)
    outputs = data.draw(logits(EXTREMES + FAULTS, size=max(size, 1)))[:size].astype("float32")
    x = {"inputs": np.zeros((size, FEATURES)), "sample_index": ops.convert_to_tensor(index)}
    y = ops.convert_to_tensor(np.zeros(size, "int32"))
    model.compute_loss(x, y, ops.convert_to_tensor(outputs), None)
    inside = (index >= 0) & (index < SAMPLES)
    np.testing.assert_array_equal(numpy(model._sums)[-3:], [size, (~inside).sum(), 0])
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
def test_an_index_of_another_dtype_or_rank_is_rejected(kind):
    dtype, shape = kind
    model = fresh("lstsd")
    index = ops.convert_to_tensor(np.zeros(shape, dtype))
    x = {"inputs": np.zeros((4, FEATURES)), "sample_index": index}
    with pytest.raises(ValueError, match=EXPLAINED):
        model._step(x, None, ops.zeros((4, CLASSES)), None)


@cases(20)
@given(
    x=st.one_of(structures(3), structures(3).map(lambda x: {"inputs": x, "index": np.arange(3)}))
)
def test_inputs_without_an_index_are_rejected(x):
    model = fresh("lstsd")
    with pytest.raises(ValueError, match=EXPLAINED):
        model.compute_loss(x, np.zeros(3, int), ops.zeros((3, CLASSES)))


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


TAME = (0.0, 1.0, -1.0, 15.0, -80.0, 80.0, 1e4, -1e4, 1e6)


@cases(110)
@given(data=st.data(), size=st.sampled_from(SIZES), loss=st.sampled_from(("sparse", "one_hot")))
def test_the_loss_of_a_step_and_the_stored_rows_are_those_of_the_formula(data, size, loss):
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
    # Weights of both signs cancel: the error of float32 is a share of the largest.
    largest = np.nanmax(np.abs(expected), initial=1.0)
    expected = expected.sum() / max(size, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * largest)

    stored = dict(zip(index.tolist(), floored(outputs), strict=True))
    rows = rows_of(model.pending)
    for i in range(SAMPLES):
        expected = stored.get(i, np.full(CLASSES, np.nan))
        np.testing.assert_allclose(rows[i], expected, rtol=1e-5, atol=1e-6)
