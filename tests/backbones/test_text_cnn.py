import numpy as np

from keras_lstsd.backbones import text_cnn


def test_network_equals_kims_formula():
    network = text_cnn(20, 3, length=6, embedding_dim=4, filters=2, widths=(2, 3))
    ids = np.array([[3, 7, 7, 19, 0, 0], [1, 2, 3, 4, 5, 6]])
    words = network.get_layer("words").get_weights()[0][ids]
    maxima = []
    for width in (2, 3):
        kernel, bias = network.get_layer(f"conv_{width}").get_weights()
        spans = [words[:, i : i + width] for i in range(6 - width + 1)]
        features = [np.einsum("bwd,wdf->bf", span, kernel) + bias for span in spans]
        maxima.append(np.maximum(features, 0).max(0))
    kernel, bias = network.get_layer("logits").get_weights()
    expected = np.concatenate(maxima, -1) @ kernel + bias
    np.testing.assert_allclose(network.predict(ids, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_number_of_parameters_equals_the_formula():
    convolutions = sum(width * 300 * 100 + 100 for width in (3, 4, 5))
    assert text_cnn(100, 2).count_params() == 100 * 300 + convolutions + 300 * 2 + 2


def test_word_vectors_have_kims_norm_or_the_given_initializer():
    for size in (300, 30):
        words = text_cnn(2000, 2, embedding_dim=size).get_layer("words").get_weights()[0]
        np.testing.assert_allclose((words**2).sum(-1).mean(), 300 * 0.25**2 / 3, rtol=0.02)
    network = text_cnn(5, 2, embeddings_initializer="ones")
    assert (network.get_layer("words").get_weights()[0] == 1).all()


def test_rows_may_have_any_length():
    assert text_cnn(100, 2).predict(np.ones((1, 9)), verbose=0).shape == (1, 2)
