"""What things cost: measured beside what they are compared with, in turn, in one process.

    python -m recipes.benchmark --what=step
    KERAS_BACKEND=jax python -m recipes.benchmark --what=step
    python -m recipes.benchmark --what=pipeline

`step`: time of a training step of each method over that of plain `keras.Model.fit` on the same
arrays, for several students, XLA off and on, and steps_per_execution 1 and 32. All trainings are
alive at once and go on in turn, some steps each, of which the median counts, edges of epochs not
timed; all pause as long, as what a training finds in the processor's caches depends on it. The
ratio is to plain of the round. Where a model lies in memory makes some percent: all are built anew,
and do all rounds again.
`distiller` is Keras's own `keras.distillation.Distiller` with a teacher of the student's size;
`plain` among the methods is plain training of one model more: what its ratio is off 1 is what the
measurement itself is off.

`compile`: time of the first `fit`, of one batch, of a model that was never trained.

`edge`: time that `begin_epoch` takes for tables of CIFAR-100's size, every other one the edge of a
mini-generation; and what an epoch of one batch takes more in `fit` than plain training's.

`memory`: peak memory of a process that trains on 50,000 samples of 100 classes, over plain.

`pipeline`: images/s of the augmented CIFAR pipeline alone (pad 4, crop, flip; batches of 128 as
uint8) on random images, beside the usual per-sample `tf.data` map of the same arithmetic.

`text`: pairs of texts/s of tokenising and of batches of token ids, beside what a small BERT
(2 layers, 128 wide) trains in the same time on batches of 64.

All data is random. The intervals hold the median with 95 % confidence, or more.
"""

import gc
import inspect
import itertools
import math
import multiprocessing
import random
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags

from keras_lstsd import SelfDistillation, students
from keras_lstsd.backbones import bert, cifar_resnet, text_cnn
from keras_lstsd.data import CropAndFlip, SampleBatches, TokenBatches, tokens
from keras_lstsd.methods.registry import METHODS
from recipes import comparison

WHAT = flags.DEFINE_enum(
    "what", "step", ["step", "compile", "edge", "memory", "pipeline", "text"], "What to measure."
)
STUDENT = flags.DEFINE_string(
    "student", "mlp,text_cnn,small_text_cnn,resnet20", "Comma-separated, or all."
)
METHOD = flags.DEFINE_string(
    "method",
    "plain,lstsd,temporal_ensembling,dups,mean_teacher,snapshot_distillation,"
    "single_teacher_lstsd,snapshot_ensemble,distiller",
    "Methods, comma-separated.",
)
XLA = flags.DEFINE_multi_enum(
    "xla",
    ["off", "on"],
    ["off", "on"],
    "Whether steps are compiled by XLA; give it twice for both.",
)
STEPS_PER_EXECUTION = flags.DEFINE_multi_integer(
    "steps_per_execution", [1, 32], "As in `compile`; give it twice for both.", 1
)
ROUNDS = flags.DEFINE_integer("rounds", 11, "Times that each is measured, in turn.", 1)
BUILDS = flags.DEFINE_integer("builds", 2, "`step`: so many models of each do all rounds.", 1)
SAMPLES = flags.DEFINE_integer("samples", 20_000, "Images of an epoch; a tenth of it texts.", 1)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "results/benchmark", "Where tables are written.")
BATCH_SIZE = 128
CIFAR_SIZE = (50_000, 100)


def mlp(classes: int = 10) -> keras.Model:
    """Two dense layers on 784 inputs."""
    layers = [keras.layers.Dense(512, "relu"), keras.layers.Dense(classes, "softmax")]
    return keras.Sequential([keras.Input((784,)), *layers])


def encoder(length: int, words: int, layers: int = 12, width: int = 768) -> keras.Model:
    """A Transformer of BERT-base's size, with random weights."""
    ids = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(words, width)(ids)
    for _ in range(layers):
        attention = keras.layers.MultiHeadAttention(width // 64, 64)(x, x)
        x = keras.layers.LayerNormalization()(x + attention)
        inner = keras.layers.Dense(width)(keras.layers.Dense(4 * width, "gelu")(x))
        x = keras.layers.LayerNormalization()(x + inner)
    return keras.Model(ids, keras.layers.Dense(2, "softmax")(x[:, 0]))


@dataclass(frozen=True)
class Student:
    """A network with random data for it."""

    build: Callable[[], keras.Model]
    input_shape: tuple[int, ...]
    classes: int
    batch_size: int
    steps: int
    """Of an epoch: many, as at its end tf.data has the machine wait for seconds."""
    turn: int
    """Steps timed in a row: enough for the caches to be a training's own, too few for the machine
    to change."""
    words: int | None = None
    """Inputs are numbers of words, below this one."""

    def data(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(0)
        shape = (steps * self.batch_size, *self.input_shape)
        if self.words:
            x = draw.integers(0, self.words, shape, np.int32)
        else:
            x = draw.standard_normal(shape, "float32")
        return x, keras.utils.to_categorical(draw.integers(0, self.classes, len(x)), self.classes)


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
}


def trainable(
    student: Student, method: str, num_samples: int, xla: bool | str = "auto", **options: Any
) -> keras.Model:
    """A compiled model that trains the student; `plain` is the student itself."""
    model = student.build()
    loss = keras.losses.CategoricalCrossentropy(from_logits=students.ends_in_logits(model))
    if method == "distiller":
        model = keras.distillation.Distiller(
            teacher=student.build(),
            student=model,
            distillation_losses=keras.distillation.LogitsDistillation(temperature=2.0),
        )
    elif method != "plain":
        entry = METHODS[method]
        # Every epoch but the first two has all its teachers.
        cyclic = "mini_generation_epochs" in inspect.signature(entry.cls).parameters
        length = {"mini_generation_epochs": 2} if cyclic else {}
        model = entry.cls(model, num_samples=num_samples, **entry.arguments | length)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=xla, **options)
    return model


def fit_seconds(model: keras.Model, x: np.ndarray, y: np.ndarray, **fit: Any) -> float:
    """Seconds of training, without what `fit` prepares."""
    times = []

    def note(logs):
        times.append(time.perf_counter())

    ends = keras.callbacks.LambdaCallback(on_train_begin=note, on_train_end=note)
    model.fit(x, y, verbose=0, callbacks=[ends], **fit)
    return times[1] - times[0]


class Turns(keras.callbacks.Callback):
    """A `fit` without end, in a thread of its own, that goes on for some steps when it is called.

    So ten trainings are compared within a second or a few (a large network's within ten); between
    whole epochs in turn the machine changes by more than what is measured. Neither the edge of an
    epoch nor an execution after it, or after a pause, is timed: what another training put out of
    the processor's caches would count as the method's. Of the steps' times the median is told: a
    step in which the machine was taken away would make more of a mean than what is measured.
    """

    def __init__(self, steps: int, model: keras.Model, *data: np.ndarray, batch_size: int):
        super().__init__()
        self.steps, self.over, self.failure = steps, False, None
        self.may_go, self.has_gone = threading.Semaphore(0), threading.Semaphore(0)

        def train():
            self.may_go.acquire()
            try:
                model.fit(*data, batch_size, epochs=10**6, verbose=0, callbacks=[self])
            except Exception as error:
                self.failure = error
            self.has_gone.release()

        threading.Thread(target=train, daemon=True).start()

    def __call__(self) -> float:
        """Goes on: seconds a step, the median."""
        self.may_go.release()
        self.has_gone.acquire()
        if self.failure:
            raise self.failure
        return self.seconds

    def end(self) -> None:
        self.over = True
        self.may_go.release()
        self.has_gone.acquire()

    def on_epoch_begin(self, epoch, logs=None):
        self.last, self.times = None, []

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # JAX goes on before it has finished.
        now = time.perf_counter()
        self.last, before = (batch, now), self.last
        if before is None:
            return
        steps = batch - before[0]
        self.times.append((now - before[1]) / steps)
        if len(self.times) * steps < self.steps:
            return
        self.seconds = statistics.median(self.times)
        self.has_gone.release()
        self.may_go.acquire()
        self.model.stop_training = self.over
        self.last, self.times = None, []


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Two order statistics that hold the median with at least that confidence, where they can.

    Of n values the k-th lowest lies above the median as often as a fair coin, thrown n times,
    shows heads fewer than k times.
    """
    values, n = sorted(values), len(values)
    rank = 1
    while 2 * rank < n:
        outside = 2 * sum(math.comb(n, heads) for heads in range(rank + 1)) / 2**n
        if outside > 1 - confidence:
            break
        rank += 1
    return values[rank - 1], values[n - rank]


def with_interval(values: Sequence[float]) -> str:
    low, high = median_interval(values)
    return f"{statistics.median(values):.3f} ({low:.3f}-{high:.3f})"


def chosen() -> Iterable[tuple[str, Student, bool]]:
    """Those of --student, without XLA and with it."""
    for name in comparison.names("student", STUDENT.value, list(STUDENTS)):
        for xla in XLA.value:
            if xla == "on" or keras.backend.backend() != "jax":  # which compiles always
                yield name, STUDENTS[name], xla == "on"


def ratios_row(figures: Iterable[list[float]], unit: float = 1) -> list[str]:
    """The median of the first, plain training, and the others' ratios to it of the same round."""
    first, *others = figures
    ratios = ([it / base for it, base in zip(values, first, strict=True)] for values in others)
    return [f"{statistics.median(first) / unit:.2f}", *map(with_interval, ratios)]


def step(methods: Sequence[str]) -> Iterable[list[str]]:
    yield ["student", "XLA", "steps per execution", "plain, ms a step", *methods]
    for (name, student, xla), executed in itertools.product(chosen(), STEPS_PER_EXECUTION.value):
        if 2 * executed > student.steps or student.turn < min(executed, 8):
            continue  # A step of which few are a turn has nothing to gain from it.
        data, turn = student.data(student.steps), max(executed, student.turn)
        names = list(enumerate(("plain", *methods)))
        figures, order = [[] for _ in names], random.Random(0)
        for _ in range(BUILDS.value):
            keras.backend.clear_session()
            gc.collect()
            # In an order drawn anew, as what is built first lies elsewhere in memory.
            trainings = {
                number: Turns(
                    turn,
                    trainable(student, method, len(data[0]), xla, steps_per_execution=executed),
                    *data,
                    batch_size=student.batch_size,
                )
                for number, method in order.sample(names, len(names))
            }
            # The first round, not counted, compiles. Steps without teachers compute as much.
            measured = in_turn(trainings, ROUNDS.value)
            for number, training in trainings.items():
                figures[number] += measured[number]
                training.end()
            del training, trainings
        row = ratios_row(figures, unit=1e-3)
        yield [name, "on" if xla else "off", str(executed), *row]


def first_step_seconds(student: Student, method: str, xla: bool) -> float:
    """Of the first `fit`, of one batch, of a new model."""
    keras.backend.clear_session()
    gc.collect()
    x, y = student.data(1)
    return fit_seconds(trainable(student, method, len(x), xla), x, y, batch_size=len(x))


def compile_time(methods: Sequence[str]) -> Iterable[list[str]]:
    yield ["student", "XLA", "plain, s", *methods]
    for name, student, xla in chosen():
        measures = {
            number: partial(first_step_seconds, student, method, xla)
            for number, method in enumerate(("plain", *methods))
        }
        row = ratios_row(in_turn(measures, ROUNDS.value).values())
        yield [name, "on" if xla else "off", *row]


def edge(methods: Sequence[str]) -> Iterable[list[str]]:
    yield ["method", "ms an edge, median", "range", "ms more of an epoch of `fit`, median", "range"]
    num_samples, classes = CIFAR_SIZE
    student = Student(lambda: mlp(classes), (784,), classes, BATCH_SIZE, steps=1, turn=1)
    x, y = student.data(1)
    plain = trainable(student, "plain", num_samples)

    def epoch_ms(model):
        return 100 * fit_seconds(model, x, y, batch_size=BATCH_SIZE, epochs=10)

    for method in methods:
        if method not in METHODS:
            continue
        model = trainable(student, method, num_samples)
        more = in_turn({"plain": partial(epoch_ms, plain), "it": partial(epoch_ms, model)}, 5)
        more = [it - base for it, base in zip(more["it"], more["plain"], strict=True)]
        times = []
        for _ in range(2 * ROUNDS.value):
            start = time.perf_counter()
            model.begin_epoch()
            for weight in model.non_trainable_weights:
                # JAX goes on before it has finished.
                keras.ops.convert_to_numpy(weight.value[:1] if len(weight.shape) else weight)
            times.append(1000 * (time.perf_counter() - start))
        columns = [
            (f"{statistics.median(values):.1f}", f"{min(values):.1f} to {max(values):.1f}")
            for values in (times, more)
        ]
        yield [method, *itertools.chain(*columns)]


def peak_mebibytes(student: str, method: str) -> float:
    """Of this process, after three epochs of few steps with tables of CIFAR-100's size."""
    x, y = STUDENTS[student].data(2)
    model = trainable(STUDENTS[student], method, CIFAR_SIZE[0])
    for _ in range(3):
        model.fit(x, y, batch_size=STUDENTS[student].batch_size, verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(methods: Sequence[str]) -> Iterable[list[str]]:
    yield ["method", "peak memory, MiB", "over plain"]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:

        def peak(method):
            jobs = [("resnet20", method)] * 3
            return statistics.median(pool.starmap(peak_mebibytes, jobs, chunksize=1))

        plain = peak("plain")
        yield ["plain", f"{plain:.0f}", ""]
        for method in methods:
            if method == "plain":
                continue
            figure = peak(method)
            yield [method, f"{figure:.0f}", f"{figure - plain:+.0f}"]


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


def rate(batches: Callable[[], Iterable]) -> float:
    """Images a second of one epoch."""
    start, count = time.perf_counter(), 0
    for element in batches():
        count += len(element[-1])
    return count / (time.perf_counter() - start)


def in_turn(candidates: dict[Any, Callable[[], float]], rounds: int) -> dict[Any, list[float]]:
    """Each candidate's figures, taken once a round, after a first round that warms up.

    The order is drawn anew for each round: what one leaves behind for the next meets all alike.
    """
    figures, order = {name: [] for name in candidates}, random.Random(0)
    for number in range(rounds + 1):
        for name in order.sample(list(candidates), len(candidates)):
            figure = candidates[name]()
            if number:
                figures[name].append(figure)
    return figures


def pipeline(methods: Sequence[str]) -> Iterable[list[str]]:
    del methods
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (SAMPLES.value, 32, 32, 3), np.uint8)
    labels = draw.integers(0, 100, SAMPLES.value)
    batches = SampleBatches(images, labels, batch_size=BATCH_SIZE, augment=CropAndFlip(4))
    on_device = SampleBatches(images, labels, batch_size=BATCH_SIZE, on_device=True)
    per_sample, vectorised, numbers = (
        per_sample_map(images, labels),
        batches.tf_dataset(),
        on_device.tf_dataset(),
    )
    sources = {
        "per-sample tf.data map": lambda: per_sample,
        "SampleBatches, tf.data": lambda: vectorised,
        "SampleBatches, NumPy": lambda: (batches[number] for number in range(len(batches))),
        "SampleBatches on_device, tf.data (indices alone)": lambda: numbers,
    }
    figures = in_turn({name: partial(rate, data) for name, data in sources.items()}, ROUNDS.value)
    first = next(iter(figures.values()))
    yield ["pipeline", "images/s, median", "range", "ratio"]
    for name, values in figures.items():
        yield [
            name,
            f"{statistics.median(values):,.0f}",
            f"{min(values):,.0f}-{max(values):,.0f}",
            with_interval([value / base for value, base in zip(values, first, strict=True)]),
        ]


def made_up_pairs(count: int) -> tuple[list[str], list[str], list[str]]:
    """Texts of 5 to 20 words, what they are paired with, and word pieces that spell them all."""
    draw = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(draw.choice(letters, draw.integers(2, 10))) for _ in range(8000)]
    first, second = (
        [" ".join(draw.choice(words, draw.integers(5, 21))) for _ in range(count)] for _ in range(2)
    )
    # One word in four is none of the pieces, and is spelt.
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters] + words[:6000]
    return first, second, list(dict.fromkeys(pieces))


def text(methods: Sequence[str]) -> Iterable[list[str]]:
    del methods
    count = SAMPLES.value // 10
    first, second, pieces = made_up_pairs(count)
    student = bert(2, vocabulary=pieces)
    encode = partial(tokens.encode, student.preprocessor, first, second)
    x, y = encode(), keras.utils.to_categorical(np.arange(count) % 2)
    cut, padded = (TokenBatches(x, y, multiple=multiple, batch_size=64) for multiple in (16, None))
    model = SelfDistillation(student, num_samples=count)
    model.compile(keras.optimizers.Adam(5e-5), keras.losses.CategoricalCrossentropy(True))

    def pairs_a_second(work: Callable, *arguments: Any, **options: Any) -> float:
        start = time.perf_counter()
        work(*arguments, **options)
        return count / (time.perf_counter() - start)

    figures = in_turn(
        {
            "training, batches cut": partial(pairs_a_second, model.fit, cut, verbose=0),
            "training, batches padded": partial(pairs_a_second, model.fit, padded, verbose=0),
            "tokenising": partial(pairs_a_second, encode),
            "batches cut, alone": partial(rate, cut.tf_dataset),
            "batches padded, alone": partial(rate, padded.tf_dataset),
        },
        ROUNDS.value,
    )
    trained = figures["training, batches cut"]
    yield ["what", "pairs/s, median", "range", "ratio to training", "padding"]
    for name, values in figures.items():
        batches = padded if "padded" in name else cut
        yield [
            name,
            f"{statistics.median(values):,.0f}",
            f"{min(values):,.0f}-{max(values):,.0f}",
            with_interval([value / base for value, base in zip(values, trained, strict=True)]),
            "" if name == "tokenising" else f"{100 * batches.padding_share():.0f} %",
        ]


MEASUREMENTS = {
    "step": step,
    "compile": compile_time,
    "edge": edge,
    "memory": memory,
    "pipeline": pipeline,
    "text": text,
}


def main(argv):
    comparison.check_command(argv)
    methods = comparison.names("method", METHOD.value, [*METHODS, "plain", "distiller"])
    path = Path(OUTPUT_DIR.value) / f"{WHAT.value}-{keras.backend.backend()}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in MEASUREMENTS[WHAT.value](methods):
        rows.append(row)
        # Written as it goes, as some measurements take an hour.
        path.write_text(comparison.markdown(rows[0], rows[1:]) + "\n")
        print(" | ".join(row), flush=True)
    print(f"\n{path.read_text()}")


if __name__ == "__main__":
    app.run(main)
