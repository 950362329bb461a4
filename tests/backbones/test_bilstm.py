import numpy as np
import pytest

from keras_lstsd.backbones import bilstm
from tests.backbones.forward import lstm_states, trainable

IDS = np.array([[3, 1, 4, 0, 0], [2, 5, 6, 1, 3]], "int32")


def test_network_equals_the_formula_and_skips_padding():
    network = bilstm(8, 3, embedding_dim=4, units=5)
    words, *lstm, kernel, bias = network.get_weights()
    expected = []
    for row in IDS:
        vectors = words[row[row > 0]]
        ends = lstm_states(vectors, *lstm[:3])[-1], lstm_states(vectors[::-1], *lstm[3:])[-1]
        expected.append(np.concatenate(ends) @ kernel + bias)
    np.testing.assert_allclose(network.predict(IDS, verbose=0), expected, atol=1e-5)


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
def test_number_of_parameters_is_that_of_the_papers_size():
    words, lstm = 30_522 * 300, 2 * 4 * (300 * 300 + 300 * 300 + 300)
    assert trainable(bilstm(30_522, 2)) == words + lstm + 600 * 2 + 2
