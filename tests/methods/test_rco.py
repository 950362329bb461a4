import keras
import numpy as np
import pytest

from keras_lstsd import RCO
from tests import oracles
from tests.methods.linear import (
    BATCH,
    CLASSES,
    FEATURES,
    RATE,
    SAMPLES,
    follow,
    linear_student,
    nothing,
    problem,
)

X, Y = problem()
SETTINGS = {"alpha": 0.7, "temperature": 3.0}


def some_anchors(number):
    """Networks that grow more certain, and their logits `[number, SAMPLES, CLASSES]`."""
    draw = np.random.default_rng(4)
    networks, logits = [], []
    for size in range(1, number + 1):
        network = linear_student()
        weights = [size * draw.normal(size=w.shape) for w in network.get_weights()]
        network.set_weights(weights)
        networks.append(network)
        logits.append(X.astype("float64") @ weights[0] + weights[1])
    return networks, np.array(logits)


@pytest.mark.parametrize(("jit_compile", "number"), [(False, 4), (True, 3)])
def test_training_follows_the_simulation(jit_compile, number):
    networks, logits = some_anchors(number)
    follow(
        oracles.rco,
        RCO,
        nothing,
        jit_compile,
        simulated=SETTINGS | {"anchors": logits},
        **SETTINGS,
        anchors=networks,
    )


@pytest.mark.parametrize(
    ("epochs", "number"),
    [
        (7, 3),
        pytest.param(3, 4, id="an_anchor_too_many"),
        pytest.param(4, 1, id="one_anchor"),
    ],
)
def test_each_anchor_has_an_equal_share_of_the_epochs_of_one_fit(epochs, number):
    """Compared after every epoch of it."""
    networks, logits = some_anchors(number)
    student = linear_student()
    batches = [[np.arange(i, min(i + BATCH, SAMPLES)) for i in range(0, SAMPLES, BATCH)]] * epochs
    expected = oracles.rco(X, Y, batches, *student.get_weights(), RATE, anchors=logits, **SETTINGS)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((student.get_weights(), logs["loss"]))

    model = RCO(student, networks, **SETTINGS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss)
    model.fit(X, Y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=[Look()])
    assert len(seen) == epochs
    for (weights, value), oracle in zip(seen, expected, strict=True):
        np.testing.assert_allclose(weights[0], oracle.kernel, atol=1e-5)
        np.testing.assert_allclose(weights[1], oracle.bias, atol=1e-5)
        np.testing.assert_allclose(value, oracle.logs["loss"], atol=1e-5)


def test_anchors_in_files_teach_as_the_models(tmp_path):
    networks, _ = some_anchors(2)
    start = linear_student().get_weights()
    weights = [tmp_path / f"{number}.weights.h5" for number in range(2)]
    files = [tmp_path / f"{number}.keras" for number in range(2)]
    for network, one, other in zip(networks, weights, files, strict=True):
        network.save_weights(one)
        network.save(other)
    found = []
    for anchors, teacher in ((networks, None), (weights, linear_student()), (files, None)):
        student = linear_student()
        student.set_weights(start)
        model = RCO(student, anchors, teacher=teacher)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(RATE), loss)
        model.fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        found.append(student.get_weights())
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_no_anchors_and_other_classes_are_rejected():
    with pytest.raises(ValueError, match=r"anchors=\[\]. Expected: at least one"):
        RCO(linear_student(), [])
    other = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES - 1)])
    model = RCO(linear_student(), [other])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="classes do not match"):
        model.fit(X, Y, verbose=0)
