from itertools import pairwise, permutations

import keras
import numpy as np
import pytest

from keras_lstsd import TolerantTeacher
from tests import oracles
from tests.methods.linear import (
    CLASSES,
    follow,
    identity_student,
    linear_student,
    nothing,
    one_step,
)
from tests.models import slow


@pytest.mark.parametrize(("jit_compile", "top_k"), [(False, 2), (False, CLASSES), slow(True, 3)])
def test_training_follows_the_simulation(jit_compile, top_k):
    follow(oracles.tolerant_teacher, TolerantTeacher, nothing, jit_compile, eta=0.3, top_k=top_k)


@pytest.mark.parametrize("top_k", [2, 3, 5])
def test_value_and_gradient_are_those_of_the_formula(top_k):
    """With eta = 0 the loss is the gap alone."""
    logits = np.random.default_rng(1).normal(size=(7, 5)) * 3
    model = TolerantTeacher(identity_student(7, 5), eta=0.0, top_k=top_k)
    logs, gradient = one_step(model, logits, np.zeros(7))
    value, slope = oracles.gap(logits, top_k)
    np.testing.assert_allclose(logs["loss"], [value.mean()], atol=1e-6)
    np.testing.assert_allclose(logs["distillation_loss"], [value.mean()], atol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)


def gradients_of_ties(logits, top_k):
    """The gradient for each order in which equal scores can be sorted."""
    f = oracles.softmax(np.asarray([logits], "float64"))[0]
    found = []
    for order in permutations(range(len(f))):
        if all(f[a] >= f[b] for a, b in pairwise(order)):
            weights = np.zeros(len(f))
            weights[list(order[1:top_k])] = -1 / (top_k - 1)
            weights[order[0]] = 1
            found.append(f * (weights - weights @ f))
    return found


@pytest.mark.parametrize("top_k", [2, 3, 4])
@pytest.mark.parametrize(
    "logits",
    [
        [1.0, 1.0, 0.0, -1.0],
        [2.0, 0.5, 0.5, 0.5],
        [0.0, 1.0, 0.0, 2.0],
        [3.0, 3.0, 3.0, 3.0],
        [60.0, -60.0, -60.0, -60.0],
    ],
)
def test_equal_scores_have_the_gradient_of_some_order_of_them(logits, top_k):
    """Each class has one place in the order, even where its score has several."""
    model = TolerantTeacher(identity_student(1), eta=0.0, top_k=top_k)
    logs, gradient = one_step(model, [logits], [0])
    value, _ = oracles.gap(np.array([logits]), top_k)
    np.testing.assert_allclose(logs["loss"], value, atol=1e-6)
    expected = gradients_of_ties(logits, top_k)
    assert min(np.abs(gradient[0] - one).max() for one in expected) < 1e-6, gradient


def test_eta_1_is_plain_training():
    logits = np.random.default_rng(1).normal(size=(6, CLASSES))
    labels = np.arange(6) % CLASSES
    logs, gradient = one_step(TolerantTeacher(identity_student(6), 1.0, 3), logits, labels)
    value, slope = oracles.cross_entropy(logits, labels)
    np.testing.assert_allclose(logs["loss"], [value.mean()], atol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)


def test_a_softmax_student_has_the_same_loss():
    x = np.eye(3, dtype="float32")
    logits = np.random.default_rng(2).normal(size=(3, CLASSES)).astype("float32")
    found = []
    for activation in (None, "softmax"):
        dense = keras.layers.Dense(CLASSES, activation, use_bias=False)
        student = keras.Sequential([keras.Input((3,)), dense])
        student.set_weights([logits])
        model = TolerantTeacher(student, 0.4, 3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
        model.compile(keras.optimizers.SGD(1.0), loss)
        logs = model.fit(x, np.arange(3), batch_size=3, epochs=2, verbose=0).history
        found.append((logs["loss"], student.get_weights()[0]))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-5)


@pytest.mark.parametrize("arguments", [{"eta": -0.1}, {"eta": 1.1}, {"top_k": 1}])
def test_invalid_arguments_are_rejected(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        TolerantTeacher(linear_student(), **arguments)


def test_more_scores_than_classes_are_rejected():
    model = TolerantTeacher(identity_student(1), top_k=CLASSES + 1)
    with pytest.raises(ValueError, match="top_k=5 for 4 classes"):
        one_step(model, np.zeros((1, CLASSES)), [0])
