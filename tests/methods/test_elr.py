import keras
import numpy as np
import pytest

from keras_lstsd import ELR
from tests import oracles
from tests.methods.linear import (
    CLASSES,
    SAMPLES,
    follow,
    identity_student,
    linear_student,
    one_step,
    problem,
)
from tests.models import slow

MOMENTUM = 0.6


def memory(model):
    """t, of rows ln(t / (1 - momentum^k)) and k; 0 where a sample was never drawn."""
    updates = model.ensemble.updates.numpy()[:SAMPLES]
    rows, known = model.ensemble.numpy()
    t = np.where(known[:, None], np.exp(rows), 0) * (1 - MOMENTUM ** updates[:, None])
    return {"target": t}


@pytest.mark.parametrize(("jit_compile", "rare"), [(False, False), (False, True), slow(True, True)])
def test_training_follows_the_simulation(jit_compile, rare):
    """`rare`: one class has probabilities below 1e-4, which are clipped."""
    student = linear_student()
    kernel, bias = student.get_weights()
    bias = np.where(rare, [0, 0, 0, -14], bias)
    student.set_weights([kernel, bias])
    if rare:
        x, _ = problem()
        clipped = oracles.softmax(x @ kernel + bias) < 1e-4
        assert clipped[:, 3].mean() > 0.5
        assert not clipped[:, :3].any()
    follow(oracles.elr, ELR, memory, jit_compile, student=student, momentum=MOMENTUM, weight=2.0)


def test_value_and_gradient_are_those_of_clipped_probabilities():
    """Logits of both clips, and of none; t starts at 0."""
    logits = np.array([[12, 0, 0, 0], [0, 0.3, -9.3, 0.1], [1, -1, 0.5, 0], [-14, 2, 0, -12]])
    p = oracles.softmax(logits)
    assert (p > 1 - 1e-4).any()
    assert (p < 1e-4).any(-1).tolist() == [True, True, False, True]
    labels = np.array([0, 1, 2, 3])
    model = ELR(identity_student(4), num_samples=4, momentum=0.7, weight=3.0)
    logs, gradient = one_step(model, logits, labels)
    value, slope, _ = oracles.regularizer(logits, np.zeros((4, CLASSES)), 0.7)
    ce, ce_slope = oracles.cross_entropy(logits, labels)
    np.testing.assert_allclose(logs["distillation_loss"], [3 * value.mean()], atol=1e-5)
    np.testing.assert_allclose(logs["loss"], [(ce + 3 * value).mean()], atol=1e-5)
    np.testing.assert_allclose(gradient, ce_slope + 3 * slope, atol=1e-5)


def test_the_simulations_gradient_is_that_of_its_value():
    """By differences, with t held; also where some probabilities are clipped."""
    draw = np.random.default_rng(0)
    logits = np.vstack([draw.normal(size=(3, CLASSES)), [[12, 0, 0, 0]], [[0, 0.3, -11, 0.1]]])
    old = oracles.softmax(draw.normal(size=logits.shape)) / 2
    _, slope, t = oracles.regularizer(logits, old, 0.7)

    def value(z):
        # momentum = 1 keeps the target that is given.
        return oracles.regularizer(z, t, 1.0)[0]

    for column, step in enumerate(np.eye(CLASSES) * 1e-6):
        difference = (value(logits + step) - value(logits - step)) / 2e-6
        np.testing.assert_allclose(slope[:, column], difference, atol=1e-7)


def test_momentum_0_takes_the_present_prediction_as_the_target():
    logits = np.random.default_rng(1).normal(size=(5, CLASSES))
    model = ELR(identity_student(5), num_samples=5, momentum=0.0, weight=1.0)
    logs, _ = one_step(model, logits, np.zeros(5))
    expected = np.log(1 - (oracles.softmax(logits) ** 2).sum(-1)).mean()
    np.testing.assert_allclose(logs["distillation_loss"], [expected], atol=1e-5)


def test_sample_weights_apply_to_the_term():
    x, y = problem()
    student = linear_student()
    kernel, bias = student.get_weights()
    model = ELR(student, SAMPLES, momentum=0.7, weight=3.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    weights = np.linspace(0, 3, SAMPLES).astype("float32")
    logs = model.fit(x, y, sample_weight=weights, batch_size=SAMPLES, verbose=0).history
    logits = x.astype("float64") @ kernel + bias
    value, _, _ = oracles.regularizer(logits, np.zeros((SAMPLES, CLASSES)), 0.7)
    expected = np.mean(weights * 3 * value)
    np.testing.assert_allclose(logs["distillation_loss"], [expected], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"momentum": 1.0}, "momentum=1.0"), ({"weight": -1}, "weight=-1")],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        ELR(linear_student(), SAMPLES, **arguments)
