"""The convolutional sentence classifier of Kim 2014."""

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
    name: str = "text_cnn",
) -> keras.Model:
    """A CNN for sentences, from random weights: int ids `[batch, length]` -> logits.

    Embedding, one convolution per width with ReLU, the maximum over time, dropout, one dense
    layer.

    Args:
        vocabulary_size: number of word ids, padding and the like included.
        num_classes: C.
        length: words a row, or None for any. Rows need at least the greatest width.
        embedding_dim: size of a word vector.
        filters: filters of each width.
        widths: words that a filter spans.
        dropout: rate on the penultimate layer.

    Example:
        >>> student = keras_lstsd.backbones.text_cnn(vocabulary_size=10_000, num_classes=2)

    Source: Kim 2014, "CNN-rand".

    Differences from the paper: no norm constraint on the last layer.
    """
    # Kim's +-0.25 at 300 entries; fewer entries keep the length that a word vector has there.
    bound = 0.25 * (300 / embedding_dim) ** 0.5
    ids = keras.Input((length,), dtype="int32", name="word_ids")
    words = keras.layers.Embedding(
        vocabulary_size,
        embedding_dim,
        embeddings_initializer=keras.initializers.RandomUniform(-bound, bound),
        name="words",
    )(ids)
    maxima = []
    for width in widths:
        features = keras.layers.Conv1D(filters, width, activation="relu", name=f"conv_{width}")
        maxima.append(keras.layers.GlobalMaxPooling1D(name=f"max_{width}")(features(words)))
    joined = keras.layers.Concatenate(name="features")(maxima)
    joined = keras.layers.Dropout(dropout, name="dropout")(joined)
    return keras.Model(ids, keras.layers.Dense(num_classes, name="logits")(joined), name=name)
