import numpy as np
import pytest

from keras_lstsd.backbones import bilstm
from tests.backbones.forward import trainable

IDS = np.array([[3, 1, 4, 0, 0], [2, 5, 6, 1, 3]], "int32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def last_state(vectors, kernel, recurrent, bias):
    """The state after the last vector; Keras orders the gates i, f, c, o."""
    h = c = np.zeros(len(recurrent))
    for vector in vectors:
        i, f, candidate, o = np.split(vector @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
        h = sigmoid(o) * np.tanh(c)
    return h


def test_network_equals_the_formula_and_skips_padding():
    network = bilstm(8, 3, embedding_dim=4, units=5)
    words, *lstm, kernel, bias = network.get_weights()
    expected = []
    for row in IDS:
        vectors = words[row[row > 0]]
        states = [last_state(vectors, *lstm[:3]), last_state(vectors[::-1], *lstm[3:])]
        expected.append(np.concatenate(states) @ kernel + bias)
    np.testing.assert_allclose(network.predict(IDS, verbose=0), expected, atol=1e-5)


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
def test_number_of_parameters_is_that_of_the_papers_size():
    words, lstm = 30_522 * 300, 2 * 4 * (300 * 300 + 300 * 300 + 300)
    assert trainable(bilstm(30_522, 2)) == words + lstm + 600 * 2 + 2
