"""The convolutional sentence classifier, Kim 2014."""

from collections.abc import Sequence

import keras


def text_cnn(
    vocabulary_size: int,
    num_classes: int,
    length: int | None = None,
    embedding_dim: int = 300,
    filters: int = 100,
    widths: Sequence[int] = (3, 4, 5),
    dropout: float = 0.5,
    embeddings_initializer: str | keras.initializers.Initializer | None = None,
    name: str = "text_cnn",
) -> keras.Model:
    """A convolutional network for sentences, with random initial weights.

    With the word vectors `e_1 ... e_L` of a sentence and the filters `W_k, b_k` of each width k:

        m_k = max_i relu(W_k [e_i; ...; e_{i+k-1}] + b_k)
        logits = V dropout([m_3; m_4; m_5]) + c

    Args:
        vocabulary_size: number of word ids, including those of padding and unknown words.
        num_classes: C, the number of classes.
        length: L, the words per row, or None for any number. A row needs at least as many words
            as the largest width.
        embedding_dim: size of a word vector.
        filters: number of filters of each width.
        widths: numbers of words that the filters span.
        dropout: dropout rate before the last layer.
        embeddings_initializer: that of the word vectors. None draws uniform entries whose expected
            norm is Kim's, for every `embedding_dim`.
        name: the name of the model.

    Returns:
        A functional model: int32 word ids `[batch, L]` -> logits `[batch, C]`.

    Example:
        >>> student = keras_lstsd.backbones.text_cnn(vocabulary_size=10_000, num_classes=2)

    Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification", model CNN-rand.

    Differences from the paper: there is no norm constraint on the last layer.
    """
    # Kim's bound is 0.25 for 300 entries; other sizes keep the expected norm of a word vector.
    bound = 0.25 * (300 / embedding_dim) ** 0.5
    uniform = keras.initializers.RandomUniform(-bound, bound)
    ids = keras.Input((length,), dtype="int32", name="word_ids")
    words = keras.layers.Embedding(
        vocabulary_size,
        embedding_dim,
        embeddings_initializer=embeddings_initializer or uniform,
        name="words",
    )(ids)
    maxima = []
    for width in widths:
        features = keras.layers.Conv1D(filters, width, activation="relu", name=f"conv_{width}")
        maxima.append(keras.layers.GlobalMaxPooling1D(name=f"max_{width}")(features(words)))
    joined = keras.layers.Concatenate(name="features")(maxima)
    joined = keras.layers.Dropout(dropout, name="dropout")(joined)
    return keras.Model(ids, keras.layers.Dense(num_classes, name="logits")(joined), name=name)
