"""A bidirectional LSTM for texts."""

import keras


def bilstm(
    vocabulary_size: int,
    num_classes: int,
    length: int | None = None,
    embedding_dim: int = 300,
    units: int = 300,
    dropout: float = 0.0,
    name: str = "bilstm",
) -> keras.Model:
    """One bidirectional LSTM layer over word vectors, with random initial weights.

    With the word vectors e_1 ... e_L of a text, its LSTM states forward h_1 ... h_L and backward
    g_L ... g_1:

        logits = V dropout([h_L; g_1]) + c

    The id 0 is padding, which both directions skip.

    Args:
        vocabulary_size: number of ids of words or word pieces, including that of padding.
        num_classes: C, the number of classes.
        length: L, the ids per row, or None for any number.
        embedding_dim: size of a word vector.
        units: entries of each state.
        dropout: dropout rate before the last layer.
        name: the name of the model.

    Returns:
        A functional model: int32 ids `[batch, L]` -> logits `[batch, C]`.

    Example:
        >>> student = keras_lstsd.backbones.bilstm(vocabulary_size=30_522, num_classes=2)

    Source: Shi et al. 2021, "Learning from deep model via exploring local targets", section 5.2:
    one layer, 300 / 300.

    Differences from the paper: it does not say how the states become one vector.
    """
    ids = keras.Input((length,), dtype="int32", name="word_ids")
    words = keras.layers.Embedding(vocabulary_size, embedding_dim, mask_zero=True, name="words")(
        ids
    )
    states = keras.layers.Bidirectional(keras.layers.LSTM(units), name="states")(words)
    states = keras.layers.Dropout(dropout, name="dropout")(states)
    return keras.Model(ids, keras.layers.Dense(num_classes, name="logits")(states), name=name)
