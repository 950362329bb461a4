"""Losses and conversions of outputs at extreme values, against float64."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_lstsd.losses import kl_divergence, kl_of_softened, log_softmax
from keras_lstsd.outputs import logits as logits_of
from tests import oracles
from tests.bad_input.cases import (
    EXTREMES,
    FAULTS,
    SMALLEST,
    cases,
    floored,
    logits,
    numpy,
    on_jax,
)


@cases(150)
@given(
    values=logits(EXTREMES + FAULTS),
    dtype=st.sampled_from(("float16", "float32", "float64")),
    temperature=st.sampled_from((0.5, 1.0, 2.0, 6.0)),
)
def test_log_probabilities_are_right_or_nan_at_all_logits(values, dtype, temperature):
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    found = numpy(log_softmax(values, temperature))
    expected = floored(values.astype("float64"), temperature)
    meant = np.isfinite(expected).all(axis=-1)
    np.testing.assert_allclose(found[meant], expected[meant], rtol=1e-5, atol=1e-6)
    # Rows of NaN are unknown.
    assert np.isnan(found[~meant]).all()


@cases(120)
@given(
    student=logits(),
    teacher=logits(),
    temperatures=st.tuples(*[st.sampled_from((0.5, 1.0, 2.0, 6.0))] * 2),
    direction=st.sampled_from(("reverse", "forward")),
)
def test_divergences_are_right_at_all_logits(student, teacher, temperatures, direction):
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
def test_several_teachers_give_one_divergence_each(student, teachers, known, direction):
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
