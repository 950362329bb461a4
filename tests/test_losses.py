import numpy as np
import pytest
from keras import ops

from keras_lstsd.losses import kl_divergence, log_softmax


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(a, b):
    return np.sum(a * (np.log(a) - np.log(b)), -1)


LOGITS = np.random.default_rng(0).normal(0, 3, (2, 5, 4))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 6.0])
def test_both_directions_equal_the_definition(temperature):
    student, teacher = LOGITS
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    reverse = kl_divergence(student, teacher, temperature, "reverse")
    forward = kl_divergence(student, teacher, temperature, "forward")
    np.testing.assert_allclose(reverse, kl(p, q), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(forward, kl(q, p), rtol=1e-5, atol=1e-6)
    assert reverse.shape == (5,)


def test_student_temperature_replaces_the_students_temperature():
    student, teacher = LOGITS
    value = kl_divergence(student, teacher, 2.0, "forward", student_temperature=1.0)
    np.testing.assert_allclose(value, kl(softmax(teacher / 2), softmax(student)), rtol=1e-5)


def test_log_probabilities_are_softened_like_logits():
    rows = log_softmax(LOGITS[0])
    np.testing.assert_allclose(
        log_softmax(rows, 3.0), np.log(softmax(LOGITS[0] / 3)), rtol=1e-5, atol=1e-6
    )


def test_confidently_wrong_student_keeps_its_loss():
    # Keras's KLDivergence clips probabilities at 1e-7 and returns 16.1 here.
    value = kl_divergence([[80.0, 0.0]], [[0.0, 80.0]])
    np.testing.assert_allclose(value, [80.0], rtol=1e-5)


def test_class_with_probability_zero_adds_zero():
    value = kl_divergence([[-np.inf, 0.0, 0.0]], [[-np.inf, 0.0, 1.0]])
    expected = kl(np.array([0.5, 0.5]), softmax(np.array([0.0, 1.0])))
    np.testing.assert_allclose(value, [expected], rtol=1e-5)


def test_float16_logits_are_computed_in_float32():
    logits = np.array([[10.0, 0.0]], "float16")
    value = log_softmax(logits)
    assert ops.convert_to_numpy(value).dtype == np.float32
    np.testing.assert_allclose(value, np.log(softmax(np.array([[10.0, 0.0]]))), atol=1e-6)


def test_unknown_direction_is_rejected():
    with pytest.raises(ValueError, match=r"'sideways'.*Expected: 'reverse'"):
        kl_divergence(LOGITS[0], LOGITS[1], 1.0, "sideways")


def test_unequal_shapes_are_rejected():
    with pytest.raises(ValueError, match=r"\(5, 4\) and \(1, 4\).*broadcast_to"):
        kl_divergence(LOGITS[0], LOGITS[1][:1])


@pytest.mark.parametrize("known", [True, False, [[True], [False], [True], [False], [True]]])
def test_divergence_is_zero_without_a_teacher(known):
    known, expected = np.array(known), kl(softmax(LOGITS[0]), softmax(LOGITS[1]))
    value = kl_divergence(*LOGITS, known=known)
    np.testing.assert_allclose(value, expected * known.reshape(-1), rtol=1e-5, atol=1e-6)


def test_known_without_a_class_axis_is_rejected():
    # With as many samples as classes, `known` would broadcast over the classes.
    student, teacher = LOGITS[:, :4]
    with pytest.raises(ValueError, match=r"shape \(4,\) .* \(4, 4\).*`known\[\.\.\., None\]`"):
        kl_divergence(student, teacher, known=np.array([True, False, True, True]))
