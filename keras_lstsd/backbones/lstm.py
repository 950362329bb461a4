"""An LSTM language model."""

import keras

from keras_lstsd.checks import stateful_layers


@keras.saving.register_keras_serializable("keras_lstsd")
class StatefulLSTM(keras.layers.LSTM):
    """Keras's LSTM with `stateful=True`, whose states are weights that are not trained.

    In Keras 3.15 they are no weights, so that `fit` on JAX starts each batch without states.
    """

    def build(self, input_shape: tuple[int, ...]) -> None:
        super().build(input_shape)
        shape = input_shape[0], self.units
        self.states = [
            self.add_weight(shape, "zeros", trainable=False, name=name) for name in ("h", "c")
        ]


def lstm(
    vocabulary_size: int,
    units: int = 200,
    layers: int = 2,
    dropout: float = 0.0,
    batch_size: int | None = None,
    length: int | None = None,
    name: str = "lstm",
) -> keras.Model:
    """LSTM layers over word vectors that predict the next word at each position.

    With the ids x_1 ... x_L of a text:

        h_0[t] = dropout(E[x_t]),  h_k = dropout(LSTM_k(h_(k-1))),  logits[t] = V h_K[t] + c

    With `batch_size` each row continues the same row of the batch before: the layers keep their
    states, through which no gradient flows. `ResetStates` clears them before a text begins.

    Args:
        vocabulary_size: C, number of words, which are the classes too.
        units: size of the word vectors and of each layer.
        layers: K, number of LSTM layers.
        dropout: dropout rate; none is in the recurrence.
        batch_size: rows of each batch of a network that keeps its states; None for one that starts
            each row without a state, in batches of any size.
        length: L, the ids of a row, or None for any number.
        name: the name of the model.

    Returns:
        A functional model: int32 ids `[batch, L]` -> logits `[batch, L, C]`.

    Example:
        >>> student = keras_lstsd.backbones.lstm(10_000, units=200, batch_size=20, length=35)

    Source: Zaremba et al. 2014, of the sizes small (200), medium (650) and large (1500 units).

    Differences from the paper: initial weights are uniform, in +-0.1 for word vectors and logits,
    in +-1/sqrt(units) for the LSTM. The forget gates have an initial bias of 1, as in Keras.
    """

    def uniform(limit):
        return keras.initializers.RandomUniform(-limit, limit)

    ids = keras.Input(batch_shape=(batch_size, length), dtype="int32", name="word_ids")
    states = keras.layers.Embedding(
        vocabulary_size, units, embeddings_initializer=uniform(0.1), name="words"
    )(ids)
    states = keras.layers.Dropout(dropout, name="dropout_0")(states)
    for number in range(1, layers + 1):
        layer = keras.layers.LSTM if batch_size is None else StatefulLSTM
        states = layer(
            units,
            return_sequences=True,
            stateful=batch_size is not None,
            kernel_initializer=uniform(units**-0.5),
            recurrent_initializer=uniform(units**-0.5),
            name=f"lstm_{number}",
        )(states)
        states = keras.layers.Dropout(dropout, name=f"dropout_{number}")(states)
    logits = keras.layers.Dense(vocabulary_size, kernel_initializer=uniform(0.1), name="logits")
    return keras.Model(ids, logits(states), name=name)


class ResetStates(keras.callbacks.Callback):
    """Clears the states of a network before each pass over a text.

    The callback clears all layers that keep states between batches, nested layers included.

    Example:
        The text has 50 different words.

        >>> x, y, _ = keras_lstsd.data.ptb.streams(np.arange(1401) % 50, batch_size=20, length=35)

        The student has states, so batches keep their order.

        >>> student = keras_lstsd.backbones.lstm(50, batch_size=20, length=35)
        >>> model = keras_lstsd.DUPS(student)
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> reset = keras_lstsd.backbones.ResetStates()
        >>> model.fit(x, y, batch_size=20, shuffle=False, callbacks=[reset])
    """

    def on_epoch_begin(self, epoch, logs=None):
        for layer in stateful_layers(self.model):
            layer.reset_state()

    def on_test_begin(self, logs=None):
        self.on_epoch_begin(0)

    def on_predict_begin(self, logs=None):
        self.on_epoch_begin(0)
