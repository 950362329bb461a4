import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import MeanTeacher
from keras_lstsd.losses import kl_divergence
from keras_lstsd.snapshots import Snapshot

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")


def student():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )


def test_a_snapshot_answers_as_the_student_did():
    network = student()
    snapshot = Snapshot(network)
    assert not bool(snapshot.known)
    before = network.predict(X, verbose=0)
    snapshot.take(network)
    assert bool(snapshot.known)
    network.set_weights([w + 1 for w in network.get_weights()])
    outputs = keras.ops.convert_to_numpy(snapshot.outputs(network, X))
    np.testing.assert_allclose(outputs, before, atol=1e-5)
    assert np.abs(network.predict(X, verbose=0) - before).max() > 0.1


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (1, "sigmoid"), (3, None)])
def test_a_student_does_not_differ_from_a_copy_of_its_weights(units, activation, policy):
    """However sure it is: both are read in the same way."""
    network = keras.Sequential([keras.Input((3,)), layers.Dense(units, activation, dtype=policy)])
    network.set_weights([np.full((3, units), 30.0) * np.arange(1, units + 1), np.zeros(units)])
    model = MeanTeacher(network, len(X))
    student, teacher = model.logits_of(network(X)), model.average.logits(model, X)
    np.testing.assert_array_equal(kl_divergence(student, teacher, 2.0), np.zeros(len(X)))


def test_asking_it_changes_no_weight_statistic_or_seed():
    network = student()
    snapshot = Snapshot(network)
    snapshot.take(network)
    before = [np.array(v.numpy()) for v in network.variables]
    snapshot.outputs(network, X)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_first_average_is_a_copy_and_the_next_ones_warm_up():
    network = student()
    snapshot = Snapshot(network)
    seen = []
    for step in range(4):
        network.set_weights([np.full_like(w, 2.0**step) for w in network.get_weights()])
        snapshot.average(network, 0.6)
        seen.append(float(snapshot.copies[0].numpy().flat[0]))
    # a_t = min(1 - 1/(t+1), 0.6) = 0, 1/2, 0.6, 0.6
    np.testing.assert_allclose(seen, [1, 1.5, 0.6 * 1.5 + 1.6, 0.6 * 2.5 + 3.2], rtol=1e-6)


def test_weights_are_lent_and_come_back_whatever_happens():
    network = student()
    snapshot = Snapshot(network)
    snapshot.take(network)
    own = [w + 1 for w in network.get_weights()]
    network.set_weights(own)

    def fail_with_it():
        with snapshot.lent_to(network):
            np.testing.assert_allclose(network.get_weights()[0], own[0] - 1, atol=1e-6)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_with_it()
    np.testing.assert_array_equal(network.get_weights()[0], own[0])
