import keras
import numpy as np
import pytest

from keras_lstsd import RCO, Distillation, KnowledgeDistillation, MeanTeacher, ProKT
from keras_lstsd.backbones import ResetStates, lstm
from keras_lstsd.backbones.lstm import StatefulLSTM
from tests.backbones.forward import lstm_states, trainable

IDS = np.array([[3, 1, 4, 0, 2, 5], [2, 5, 6, 1, 3, 3]], "int32")


def expected(network):
    weights = [np.array(weight) for weight in network.trainable_weights]
    words, *layers, kernel, bias = weights
    logits = []
    for row in IDS:
        vectors = words[row]
        for number in range(0, len(layers), 3):
            vectors = lstm_states(vectors, *layers[number : number + 3])
        logits.append(vectors @ kernel + bias)
    return np.array(logits)


def test_network_equals_the_formula():
    network = lstm(8, units=5)
    np.testing.assert_allclose(network.predict(IDS, verbose=0), expected(network), atol=1e-5)


def test_a_network_with_states_continues_the_rows_of_the_batch_before():
    network = lstm(8, units=5, batch_size=2, length=3)
    batches = np.concatenate([IDS[:, :3], IDS[:, 3:]])
    for _ in range(2):
        found = network.predict(batches, batch_size=2, verbose=0, callbacks=[ResetStates()])
        found = np.concatenate([found[:2], found[2:]], axis=1)
        np.testing.assert_allclose(found, expected(network), atol=1e-5)
    # Without the callback, the second pass goes on from the end of the first.
    again = network.predict(batches, batch_size=2, verbose=0)
    assert np.abs(again[:2] - found[:, :3]).max() > 1e-4


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
def test_number_of_parameters_is_that_of_the_papers_size():
    # 4 gates of two inputs and a bias, word vectors, logits.
    layer = 4 * (200 * 400 + 200)
    assert trainable(lstm(10_000)) == 10_000 * 200 + 2 * layer + 10_000 * 201


def test_each_epoch_and_each_evaluation_begins_without_states():
    """A rate of 0 keeps the weights."""
    keras.utils.set_random_seed(0)
    model = Distillation(lstm(8, units=5, batch_size=2, length=3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    x = np.concatenate([IDS[:, :3], IDS[:, 3:]])
    y = np.roll(x, 1)
    callbacks = [ResetStates()]
    history = model.fit(x, y, batch_size=2, epochs=1, shuffle=False, callbacks=callbacks, verbose=0)
    first = model.evaluate(x, y, batch_size=2, callbacks=callbacks, verbose=0)
    np.testing.assert_allclose(history.history["loss"][0], first, rtol=1e-6)
    assert model.evaluate(x, y, batch_size=2, callbacks=callbacks, verbose=0) == first


def nested():
    """A network with states inside another model, and inside a wrapper."""
    inner = lstm(8, units=5, batch_size=2, length=3)
    both = keras.layers.Bidirectional(StatefulLSTM(4, stateful=True, return_sequences=True))
    return keras.Sequential([inner.input, inner, both, keras.layers.Dense(8)])


def test_states_of_nested_layers_are_cleared():
    network = nested()
    x = IDS[:, :3]
    first = network.predict(x, batch_size=2, verbose=0)
    again = network.predict(x, batch_size=2, verbose=0)
    assert np.abs(again - first).max() > 1e-5
    cleared = network.predict(x, batch_size=2, verbose=0, callbacks=[ResetStates()])
    np.testing.assert_array_equal(cleared, first)


@pytest.mark.parametrize("make", [KnowledgeDistillation, RCO, ProKT])
def test_a_given_network_with_states_is_no_teacher(make):
    teacher = nested()
    teachers = [teacher, teacher] if make is RCO else teacher
    expected = r"`teacher` must not keep states.*'bidirectional.*'lstm_1'"
    with pytest.raises(ValueError, match=expected):
        make(lstm(8, units=5), teachers)


def test_a_copy_of_a_network_with_states_is_no_teacher():
    model = MeanTeacher(nested())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"stateful layers .*'lstm_1', 'lstm_2'\].*such as DUPS"):
        model.fit(IDS[:, :3], IDS[:, 3:], batch_size=2, shuffle=False, verbose=0)
