"""Students with random data, and compiled models of them, for the benchmark."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_lstsd import TinyBERT, outputs
from keras_lstsd.backbones import bert, cifar_resnet, lstm, text_cnn
from recipes.methods import METHODS


def mlp(classes: int = 10) -> keras.Model:
    """Two dense layers on 784 inputs."""
    layers = [keras.layers.Dense(512, "relu"), keras.layers.Dense(classes, "softmax")]
    return keras.Sequential([keras.Input((784,)), *layers])


def linear(classes: int = 10) -> keras.Model:
    """One dense layer on 16 inputs."""
    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(classes, "softmax")])


def encoder(length: int, words: int, layers: int = 12, width: int = 768) -> keras.Model:
    """A Transformer, by default of the size of BERT-base, with random weights."""
    ids = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(words, width)(ids)
    for _ in range(layers):
        attention = keras.layers.MultiHeadAttention(width // 64, 64)(x, x)
        x = keras.layers.LayerNormalization()(x + attention)
        inner = keras.layers.Dense(width)(keras.layers.Dense(4 * width, "gelu")(x))
        x = keras.layers.LayerNormalization()(x + inner)
    return keras.Model(ids, keras.layers.Dense(2, "softmax")(x[:, 0]))


def small_bert() -> keras.Model:
    """KerasHub's BERT of 4 layers, 256 wide, with random weights; takes token ids in `fit`."""
    *_, pieces = generated_pairs(1)
    network = bert(2, vocabulary=pieces, size="mini")
    network.preprocessor = None
    return network


@dataclass(frozen=True)
class Student:
    """A network with random data for it."""

    build: Callable[[], keras.Model]
    input_shape: tuple[int, ...]
    classes: int
    batch_size: int
    steps: int
    """Steps in an epoch: many, as tf.data can take seconds at its end."""
    turn: int
    """Timed steps in a row: enough to fill the caches, too few for the machine to change."""
    words: int | None = None
    """Inputs are word numbers below this one; None for real inputs."""
    pairs: bool = False
    """Whether the words are those of two texts, as BERT takes them."""
    by_word: bool = False
    """Whether each word has a class, as in a language model."""

    @property
    def loss(self) -> type[keras.losses.Loss]:
        """For one-hot labels, or for the class of each word."""
        losses = keras.losses
        return (
            losses.SparseCategoricalCrossentropy if self.by_word else losses.CategoricalCrossentropy
        )

    def data(self, steps: int) -> tuple[Any, np.ndarray]:
        """Random inputs and labels for some steps."""
        draw = np.random.default_rng(0)
        shape = (steps * self.batch_size, *self.input_shape)
        if self.words:
            x = draw.integers(0, self.words, shape, np.int32)
        else:
            x = draw.standard_normal(shape, "float32")
        y = draw.integers(0, self.classes, shape if self.by_word else len(x))
        if not self.by_word:
            y = keras.utils.to_categorical(y, self.classes)
        if self.pairs:
            second = np.broadcast_to(np.arange(shape[1]) >= shape[1] // 2, shape).astype("int32")
            x = {"token_ids": x, "segment_ids": second, "padding_mask": np.ones_like(x)}
        return x, y


STUDENTS = {
    "mlp": Student(mlp, (784,), 10, 128, steps=1024, turn=64),
    "text_cnn": Student(
        partial(text_cnn, 10_000, 2, 80), (80,), 2, 32, steps=512, turn=4, words=10_000
    ),
    "small_text_cnn": Student(
        partial(text_cnn, 10_000, 2, 80, 32), (80,), 2, 32, steps=4096, turn=32, words=10_000
    ),
    "resnet20": Student(
        partial(cifar_resnet, 20, num_classes=100), (32, 32, 3), 100, 128, steps=128, turn=1
    ),
    "encoder": Student(partial(encoder, 64, 30_000), (64,), 2, 8, steps=3, turn=1, words=30_000),
    "small_encoder": Student(
        partial(encoder, 64, 30_000, 6, 384), (64,), 2, 64, steps=8, turn=1, words=30_000
    ),
    "bert": Student(small_bert, (64,), 2, 8, steps=64, turn=2, words=5000, pairs=True),
    "lstm": Student(
        partial(lstm, 10_000), (35,), 10_000, 20, steps=12, turn=1, words=10_000, by_word=True
    ),
}


def trainable(
    student: Student, method: str, num_samples: int, xla: bool | str = "auto", **options: Any
) -> keras.Model:
    """A compiled model that trains the student.

    Args:
        student: the student.
        method: a name in `METHODS`, or `tiny_bert`; `plain` is the student itself, `distiller` is
            Keras's `Distiller`. Teachers are of the student's size.
        num_samples: the number of training samples.
        xla: whether steps are compiled with XLA.
        options: other arguments of `compile`.
    """
    model = student.build()
    loss = student.loss(from_logits=outputs.ends_in_logits(model))
    if method == "distiller":
        model = keras.distillation.Distiller(
            teacher=student.build(),
            student=model,
            distillation_losses=keras.distillation.LogitsDistillation(temperature=2.0),
        )
    elif method == "tiny_bert":
        model = TinyBERT(model, student.build())
    elif method != "plain":
        entry = METHODS[method]
        # All teachers exist from the third epoch on.
        has_stages = "mini_generation_epochs" in inspect.signature(entry.cls).parameters
        length = {"mini_generation_epochs": 2} if has_stages else {}
        teacher = student.build() if entry.teacher else None
        teacher = [teacher] if entry.teacher == "anchors" else teacher
        model = entry.wrap(model, num_samples, teacher, **entry.arguments | length)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=xla, **options)
    return model


def in_precision(policy: str, *arguments: Any) -> keras.Model:
    """`trainable(*arguments)`, whose layers have this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return trainable(*arguments)
    finally:
        keras.config.set_dtype_policy(before)


def generated_pairs(count: int) -> tuple[list[str], list[str], list[str]]:
    """Pairs of texts of 5 to 20 words each, and word pieces for them."""
    draw = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(draw.choice(letters, draw.integers(2, 10))) for _ in range(8000)]
    first, second = (
        [" ".join(draw.choice(words, draw.integers(5, 21))) for _ in range(count)] for _ in range(2)
    )
    # One word in four is not among the pieces, and is spelled.
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters] + words[:6000]
    return first, second, list(dict.fromkeys(pieces))
