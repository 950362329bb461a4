"""What things cost: measured beside what they are compared with, in turn, in one process.

    python -m recipes.benchmark --what=pipeline

`pipeline`: images/s of the augmented CIFAR pipeline alone (pad 4, crop, flip; batches of 128 as
uint8) on random images, beside the usual per-sample `tf.data` map of the same arithmetic.
"""

import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
from absl import app, flags

from keras_lstsd.data import CropAndFlip, SampleBatches
from recipes import comparison

WHAT = flags.DEFINE_enum("what", "pipeline", ["pipeline"], "What to measure.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that each is measured, in turn.", 1)
SAMPLES = flags.DEFINE_integer("samples", 20_000, "Images of an epoch.", 1)
BATCH_SIZE = 128


def per_sample_map(images: np.ndarray, labels: np.ndarray) -> Iterable:
    """The pipeline that tutorials show."""
    import tensorflow as tf

    def augment(image, label):
        image = tf.image.resize_with_crop_or_pad(image, 40, 40)
        image = tf.image.random_crop(image, (32, 32, 3))
        return tf.image.random_flip_left_right(image), label

    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    data = data.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def rate(data: Iterable) -> float:
    """Images a second of one epoch."""
    start, count = time.perf_counter(), 0
    for element in data:
        count += len(element[-1])
    return count / (time.perf_counter() - start)


def in_turn(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each candidate's figures, taken A B A B ..., after a first round that warms up."""
    figures = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, measure in candidates.items():
            figure = measure()
            if number:
                figures[name].append(figure)
    return figures


def pipeline() -> str:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (SAMPLES.value, 32, 32, 3), np.uint8)
    labels = draw.integers(0, 100, SAMPLES.value)
    batches = SampleBatches(images, labels, batch_size=BATCH_SIZE, augment=CropAndFlip(4))
    on_device = SampleBatches(images, labels, batch_size=BATCH_SIZE, on_device=True)
    sources = {
        "per-sample tf.data map": per_sample_map(images, labels),
        "SampleBatches, tf.data": batches.tf_dataset(),
        "SampleBatches, NumPy": [batches[step] for step in range(0)],
        "SampleBatches on_device, tf.data (indices alone)": on_device.tf_dataset(),
    }

    def in_numpy():
        return rate(batches[step] for step in range(len(batches)))

    candidates = {name: (lambda data=data: rate(data)) for name, data in sources.items()}
    candidates["SampleBatches, NumPy"] = in_numpy
    figures = in_turn(candidates, ROUNDS.value)
    first = figures["per-sample tf.data map"]
    rows = []
    for name, values in figures.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(values):,.0f}",
                f"{min(values):,.0f} to {max(values):,.0f}",
                f"{statistics.median(ratios):.2f}",
            ]
        )
    return comparison.markdown(["pipeline", "images/s, median", "range", "ratio"], rows)


def main(argv):
    if argv[1:]:
        raise SystemExit(f"Received: {argv[1:]}. Expected: flags alone; see --help.")
    print({"pipeline": pipeline}[WHAT.value]())


if __name__ == "__main__":
    app.run(main)
