"""Speed of the image pipeline and of tokenizing, for the benchmark."""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_lstsd import Distillation
from keras_lstsd.backbones import bert
from keras_lstsd.data import CropAndFlip, SampleBatches, TokenBatches, glue, tokens
from recipes.timing import (
    Rows,
    fit_seconds,
    in_turn,
    median_and_range,
    rate,
    ratios,
    ratios_row,
)
from recipes.workloads import generated_pairs

BATCH_SIZE = 128


def per_sample_map(images: np.ndarray, labels: np.ndarray) -> Iterable:
    """The pipeline of tutorials."""
    import tensorflow as tf

    def augment(image, label):
        image = tf.image.resize_with_crop_or_pad(image, 40, 40)
        image = tf.image.random_crop(image, (32, 32, 3))
        return tf.image.random_flip_left_right(image), label

    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    data = data.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def pipeline(samples: int, rounds: int) -> Rows:
    """Images/s of augmented batches of CIFAR-100's shape, by the way they are made."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (samples, 32, 32, 3), np.uint8)
    labels = draw.integers(0, 100, samples)
    batches = SampleBatches(images, labels, batch_size=BATCH_SIZE, augment=CropAndFlip(4))
    on_device = SampleBatches(images, labels, batch_size=BATCH_SIZE, on_device=True)
    per_sample, vectorized, numbers = (
        per_sample_map(images, labels),
        batches.tf_dataset(),
        on_device.tf_dataset(),
    )
    sources = {
        "per-sample tf.data map": lambda: per_sample,
        "SampleBatches, tf.data": lambda: vectorized,
        "SampleBatches, NumPy": lambda: (batches[number] for number in range(len(batches))),
        "SampleBatches on_device, tf.data (indices only)": lambda: numbers,
    }
    figures = in_turn({name: partial(rate, data) for name, data in sources.items()}, rounds)
    first = next(iter(figures.values()))
    yield ["pipeline", "images/s, median", "range", "ratio"]
    for name, values in figures.items():
        yield [name, *median_and_range(values), ratios(values, first)], {"images/s": values}


def fine_tuning(
    tasks: Iterable[str], data_dir: str | None, weights: str, count: int, rounds: int
) -> Rows:
    """Seconds of epochs of a pre-trained BERT on GLUE, by the order of the texts."""
    yield [
        "task",
        "texts",
        "random order, s an epoch",
        "random order, control",
        "like lengths",
        *(f"{what}, {order}" for what in ("tokens/s", "padding") for order in ("random", "like")),
    ]
    for task in tasks:
        texts = glue.load(task, "train", data_dir).head(count)
        student = bert(len(glue.TASKS[task].classes), weights)
        x = tokens.encode(student.preprocessor, texts.first, texts.second)
        model = Distillation(student)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(5e-5), loss, jit_compile=False)
        random, like = (TokenBatches(x, texts.labels, pool=pool, batch_size=64) for pool in (1, 50))
        orders = {"random": random, "control": random, "like": like}
        figures = in_turn(
            {name: partial(fit_seconds, model, batches) for name, batches in orders.items()}, rounds
        )
        words = x["padding_mask"].sum()
        cells = [
            task,
            f"{len(texts.labels):,}",
            *ratios_row(figures.values()),
            *(f"{words / statistics.median(figures[name]):,.0f}" for name in ("random", "like")),
            *(f"{100 * batches.padding_share():.1f} %" for batches in (random, like)),
        ]
        yield cells, {f"{name}, s an epoch": values for name, values in figures.items()}


def text(count: int, rounds: int) -> Rows:
    """Pairs of texts/s of training a small BERT, of tokenizing, and of making batches."""
    first, second, pieces = generated_pairs(count)
    student = bert(2, vocabulary=pieces)
    encode = partial(tokens.encode, student.preprocessor, first, second)
    x, y = encode(), keras.utils.to_categorical(np.arange(count) % 2)
    like = TokenBatches(x, y, batch_size=64)
    cut = TokenBatches(x, y, pool=1, batch_size=64)
    padded = TokenBatches(x, y, lengths=None, batch_size=64)
    model = Distillation(student)
    model.compile(keras.optimizers.Adam(5e-5), keras.losses.CategoricalCrossentropy(True))

    def pairs_per_second(work: Callable, *arguments: Any, **keywords: Any) -> float:
        start = time.perf_counter()
        work(*arguments, **keywords)
        return count / (time.perf_counter() - start)

    figures = in_turn(
        {
            "training, like lengths": partial(pairs_per_second, model.fit, like, verbose=0),
            "training, batches cut": partial(pairs_per_second, model.fit, cut, verbose=0),
            "training, batches padded": partial(pairs_per_second, model.fit, padded, verbose=0),
            "tokenizing": partial(pairs_per_second, encode),
            "like lengths, alone": partial(rate, like.tf_dataset),
            "batches padded, alone": partial(rate, padded.tf_dataset),
        },
        rounds,
    )
    trained = figures["training, like lengths"]
    yield ["what", "pairs/s, median", "range", "ratio to training", "padding"]
    for name, values in figures.items():
        batches = padded if "padded" in name else cut if "cut" in name else like
        padding = "" if name == "tokenizing" else f"{100 * batches.padding_share():.0f} %"
        cells = [name, *median_and_range(values), ratios(values, trained), padding]
        yield cells, {"pairs/s": values}
