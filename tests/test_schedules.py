import keras
import numpy as np
import pytest

from keras_lstsd.schedules import CyclicCosine, StepDecay, ramp_up
from tests.oracles import cyclic_cosine


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in range(steps)])


def test_step_decay_divides_the_rate_at_each_fraction():
    expected = [0.1] * 25 + [0.01] * 25 + [0.001] * 25 + [0.0001] * 25
    np.testing.assert_allclose(rates(StepDecay(0.1, 100), 100), expected, rtol=1e-5)


@pytest.mark.parametrize(("cycle", "total"), [(40, 164), (10, 30), (7, 15), (5, 3)])
def test_cyclic_cosine_equals_the_oracle(cycle, total):
    expected = [cyclic_cosine(step, 0.1, cycle, total, 0.001) for step in range(total + 3)]
    found = rates(CyclicCosine(0.1, cycle, total, floor=0.001), total + 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_shortened_last_cycle_ends_at_the_floor():
    found = rates(CyclicCosine(0.1, 40, 164), 164)
    assert found[[39, 79, 119, 159, 163]].max() < 1e-8
    np.testing.assert_allclose(found[[0, 40, 80, 120, 160]], 0.1)


@pytest.mark.parametrize("schedule", [StepDecay(0.1, 50, (0.5,), 5.0), CyclicCosine(0.1, 4, 9)])
def test_schedule_survives_serialization(schedule):
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    np.testing.assert_array_equal(rates(loaded, 20), rates(schedule, 20))


def test_ramp_up_is_gaussian_and_ends_at_1():
    epochs = np.arange(100)
    expected = np.exp(-5 * (1 - np.minimum(epochs / 80, 1)) ** 2)
    found = [float(ramp_up(epoch, 80)) for epoch in epochs]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[80:] == [1.0] * 20
    assert ramp_up(3, 0) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepDecay(0.1, 0), r"`total_steps` must.*Received: total_steps=0"),
        (lambda: StepDecay(0.1, 10, (1.5,)), r"`fractions` must lie inside.*1\.5"),
        (lambda: CyclicCosine(0.1, -1, 10), r"`cycle_steps` must.*Received: cycle_steps=-1"),
        (lambda: CyclicCosine(0.1, 5, 0), r"`total_steps` must.*Received: total_steps=0"),
    ],
)
def test_invalid_steps_and_fractions_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
