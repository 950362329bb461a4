"""Costs: each is measured in turn with what it is compared with, in one process.

    python -m recipes.benchmark --what=step
    KERAS_BACKEND=jax python -m recipes.benchmark --what=tables

`step`: time of a training step of each method over that of plain `keras.Model.fit` on the same
arrays, with XLA off and on, and with steps_per_execution 1 and 32. All trainings exist at once and
run in turn, some steps each, of which the median counts; epoch boundaries are not timed. A ratio
is to the plain training of the same round. As the place of a model in memory changes its time by
some percent, all models are built again and run all rounds again. `distiller` is Keras's
`keras.distillation.Distiller`. Given and trained teachers are of the student's size. `plain` among
the methods is a second model of plain training, as a control: its ratio shows the error of the
measurement.

`tables`: time of a training step of LSTSD beside a linear student, by the number of samples in its
tables. It is divided by the time with the smallest tables. One --method replaces LSTSD, and
--table_classes the 10 classes. A second model with the smallest tables is the control. The largest
default tables take 1 GB, and so does building them.

`precision`: time of a plain training step in float32 and in mixed_bfloat16, with XLA off and on,
over float32 without XLA (JAX: with XLA). A second such model is the control.

`compile`: time of the first `fit`, of one batch, of a new model.

`epoch`: time of `fit` for one epoch of arrays, from call to return.

`boundary`: time of `start_epoch` for tables of the size of CIFAR-100's, where every second epoch
starts a mini-generation; and the added time of an epoch of one batch in `fit` over plain training.

`memory`: peak memory of a process that trains on 50,000 samples of 100 classes, over plain.

`pipeline`: images/s of the augmented CIFAR pipeline alone (pad 4, crop, flip; batches of 128 as
uint8) on random images, beside the usual `tf.data` map per sample with the same arithmetic.

`text`: pairs of texts/s of tokenizing and of batches of token ids, beside the training of a small
BERT (2 layers, 128 wide) on batches of 64.

`fine_tuning`: time of an epoch of a pre-trained BERT on tasks of GLUE, in bfloat16 without XLA, by
the order of the texts: random, or batches of texts of like lengths. The ratios are to the random
order, which runs twice, as a control.

    python -m recipes.benchmark --what=fine_tuning --task=rte --bert=folder --data_dir=glue

Other data is random. The intervals contain the median with a confidence of at least 95 %.
"""

import gc
import itertools
import json
import multiprocessing
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

from keras_lstsd import saving
from keras_lstsd.data import glue
from recipes import data_speed, machine, options, runs, tables
from recipes.methods import METHODS
from recipes.timing import Rows, Turns, fit_seconds, in_turn, median_and_range, ratios_row
from recipes.workloads import STUDENTS, Student, in_precision, linear, mlp, trainable

WHAT = flags.DEFINE_enum(
    "what",
    "step",
    [
        "step",
        "tables",
        "precision",
        "compile",
        "epoch",
        "boundary",
        "memory",
        "pipeline",
        "text",
        "fine_tuning",
    ],
    "What to measure.",
)
STUDENT = flags.DEFINE_string(
    "student", "mlp,text_cnn,small_text_cnn,resnet20", "Students with commas between, or all."
)
METHOD = flags.DEFINE_string(
    "method",
    "plain,lstsd,temporal_ensembling,dups,mean_teacher,snapshot_distillation,"
    "single_teacher_lstsd,snapshot_ensemble,distiller",
    "Methods with commas between.",
)
XLA = flags.DEFINE_multi_enum(
    "xla", ["off", "on"], ["off", "on"], "Whether XLA compiles steps; repeat the flag for both."
)
STEPS_PER_EXECUTION = flags.DEFINE_multi_integer(
    "steps_per_execution", [1, 32], "As in `compile`; repeat the flag for several.", 1
)
TABLE_SAMPLES = flags.DEFINE_multi_integer(
    "table_samples",
    [10_000, 1_000_000, 8_000_000],
    "`tables`: samples of a table, the smallest first; repeat the flag for several.",
    1_280,
)
TABLE_CLASSES = flags.DEFINE_integer("table_classes", 10, "`tables`: classes of a row.", 2)
ROUNDS = flags.DEFINE_integer("rounds", 11, "Measurements of each candidate, in turn.", 1)
BUILDS = flags.DEFINE_integer(
    "builds", 2, "`step`, `tables`: models of each candidate; each runs all rounds.", 1
)
SAMPLES = flags.DEFINE_integer(
    "samples",
    20_000,
    "Images in an epoch; a tenth of it in texts of `text`, half of `fine_tuning`.",
    1,
)
TASK = flags.DEFINE_string("task", "rte,mrpc,cola", "`fine_tuning`: tasks with commas between.")
BERT = flags.DEFINE_string("bert", None, "`fine_tuning`: folder of weights, or name of a preset.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "`fine_tuning`: folder of GLUE; by default tensorflow-datasets."
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "results/benchmark", "Folder of the tables.")
BATCH_SIZE = 128
CIFAR_SIZE = (50_000, 100)


def chosen() -> Iterable[tuple[str, Student, bool]]:
    """The students of --student, each without and with XLA."""
    for name in options.names("student", STUDENT.value, list(STUDENTS)):
        for xla in with_xla():
            yield name, STUDENTS[name], xla


def with_xla() -> list[bool]:
    """The values of --xla; JAX always compiles."""
    return [xla == "on" for xla in XLA.value if xla == "on" or keras.backend.backend() != "jax"]


def step_seconds(
    builds: Sequence[Callable[[], keras.Model]], data: Sequence[tuple], turn: int, batch_size: int
) -> list[list[float]]:
    """Seconds of a step of trainings that run in turn.

    Args:
        builds: makes a compiled model, for each training.
        data: the data of `fit`, for each training.
        turn: the timed steps of a turn.
        batch_size: the batch size of all.

    Returns:
        The values of all rounds with all models, for each training.
    """
    figures, order = [[] for _ in builds], random.Random(0)
    for _ in range(BUILDS.value):
        keras.backend.clear_session()
        gc.collect()
        # In random order: the first models lie elsewhere in memory than the last.
        trainings = {
            number: Turns(turn, builds[number](), *data[number], batch_size=batch_size)
            for number in order.sample(range(len(builds)), len(builds))
        }
        # The warm-up round compiles. Steps without teachers compute as much as those with.
        for number, values in in_turn(trainings, ROUNDS.value).items():
            figures[number] += values
        for training in trainings.values():
            training.end()
        del trainings, training
    return figures


def step(methods: Sequence[str]) -> Rows:
    yield ["student", "XLA", "steps per execution", "plain, ms a step", *methods]
    for (name, student, xla), executed in itertools.product(chosen(), STEPS_PER_EXECUTION.value):
        if 2 * executed > student.steps or student.turn < min(executed, 8):
            continue  # Long steps gain nothing from executions of several steps.
        x, y = student.data(student.steps)
        options_of_all = {"num_samples": len(y), "xla": xla, "steps_per_execution": executed}
        builds = [
            partial(trainable, student, method, **options_of_all) for method in ("plain", *methods)
        ]
        turn = max(executed, student.turn)
        figures = step_seconds(builds, [(x, y)] * len(builds), turn, student.batch_size)
        cells = [name, "on" if xla else "off", str(executed), *ratios_row(figures, unit=1e-3)]
        yield cells, dict(zip(["plain, baseline", *methods], figures, strict=True))


def table_sizes(methods: Sequence[str]) -> Rows:
    tabled = methods[0] if len(methods) == 1 else "lstsd"
    sizes, classes = TABLE_SAMPLES.value, TABLE_CLASSES.value
    # Samples have distinct rows of the smallest table: all sizes then run the same program.
    steps = min(sizes) // BATCH_SIZE
    student = Student(partial(linear, classes), (16,), classes, BATCH_SIZE, steps, turn=32)
    turn = min(student.turn, student.steps - 2)
    x, y = student.data(student.steps)
    titles = ["plain training", f"{sizes[0]:,}, control", *(f"{size:,}" for size in sizes[1:])]
    yield ["XLA", f"{sizes[0]:,} samples, ms a step", *titles]
    trainings = [(tabled, sizes[0]), ("plain", sizes[0]), *((tabled, size) for size in sizes)]
    draw = np.random.default_rng(1)
    data = [
        ({"inputs": x, "sample_index": draw.permutation(size)[: len(x)].astype("int32")}, y)
        if method == tabled
        else (x, y)
        for method, size in trainings
    ]
    for xla in with_xla():
        builds = [partial(trainable, student, *training, xla=xla) for training in trainings]
        figures = step_seconds(builds, data, turn, BATCH_SIZE)
        cells = ["on" if xla else "off", *ratios_row(figures, unit=1e-3)]
        yield cells, dict(zip([f"{sizes[0]:,}, baseline", *titles], figures, strict=True))


def precision(methods: Sequence[str]) -> Rows:
    kinds = list(itertools.product(("float32", "mixed_bfloat16"), with_xla()))
    first, *others = [f"{policy}, XLA {'on' if xla else 'off'}" for policy, xla in kinds]
    titles = [f"{first}, control", *others]
    yield ["student", f"{first}, ms a step", *titles]
    for name in options.names("student", STUDENT.value, list(STUDENTS)):
        student = STUDENTS[name]
        x, y = student.data(student.steps)
        builds = [
            partial(in_precision, policy, student, "plain", len(y), xla)
            for policy, xla in (kinds[0], *kinds)
        ]
        figures = step_seconds(builds, [(x, y)] * len(builds), student.turn, student.batch_size)
        cells = [name, *ratios_row(figures, unit=1e-3)]
        yield cells, dict(zip([f"{first}, baseline", *titles], figures, strict=True))


def first_step_seconds(student: Student, method: str, xla: bool) -> float:
    """Seconds of the first `fit`, of one batch, of a new model."""
    keras.backend.clear_session()
    gc.collect()
    x, y = student.data(1)
    return fit_seconds(trainable(student, method, len(y), xla), x, y, batch_size=len(y))


def compile_time(methods: Sequence[str]) -> Rows:
    yield ["student", "XLA", "plain, s", *methods]
    names = ["plain, baseline", *methods]
    for name, student, xla in chosen():
        measures = [
            partial(first_step_seconds, student, method, xla) for method in ("plain", *methods)
        ]
        figures = in_turn(dict(enumerate(measures)), ROUNDS.value).values()
        cells = [name, "on" if xla else "off", *ratios_row(figures)]
        yield cells, dict(zip(names, figures, strict=True))


def epoch(methods: Sequence[str]) -> Rows:
    yield ["student", "XLA", "plain, s an epoch", *methods]
    names = ["plain, baseline", *methods]
    for name, student, xla in chosen():
        x, y = student.data(student.steps)

        def seconds(model, x=x, y=y, size=student.batch_size):
            start = time.perf_counter()
            model.fit(x, y, batch_size=size, verbose=0)
            return time.perf_counter() - start

        models = [trainable(student, method, len(y), xla) for method in ("plain", *methods)]
        measures = {number: partial(seconds, model) for number, model in enumerate(models)}
        figures = in_turn(measures, ROUNDS.value).values()
        cells = [name, "on" if xla else "off", *ratios_row(figures)]
        yield cells, dict(zip(names, figures, strict=True))


def boundary(methods: Sequence[str]) -> Rows:
    yield ["method", "ms a boundary, median", "range", "added ms of an epoch, median", "range"]
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
        epochs = in_turn({"plain": partial(epoch_ms, plain), "it": partial(epoch_ms, model)}, 5)
        added = [it - base for it, base in zip(epochs["it"], epochs["plain"], strict=True)]
        times = []
        for _ in range(2 * ROUNDS.value):
            start = time.perf_counter()
            model.start_epoch()
            for weight in model.non_trainable_weights:
                # JAX returns before it has finished.
                keras.ops.convert_to_numpy(weight.value[:1] if len(weight.shape) else weight)
            times.append(1000 * (time.perf_counter() - start))
        cells = [method, *median_and_range(times, 1), *median_and_range(added, 1)]
        yield cells, {"ms a boundary": times, "added ms of an epoch": added}


def fine_tuning(methods: Sequence[str]) -> Rows:
    if BERT.value is None:
        raise SystemExit(
            "`fine_tuning` needs a pre-trained network. Received: no --bert. Expected: "
            "--bert=FOLDER with config.json, model.safetensors and vocab.txt, or a preset's name."
        )
    tasks = options.names("task", TASK.value, list(glue.TASKS))
    keras.config.set_dtype_policy("mixed_bfloat16")
    return data_speed.fine_tuning(
        tasks, DATA_DIR.value, BERT.value, SAMPLES.value // 2, ROUNDS.value
    )


def peak_mebibytes(student: str, method: str) -> float:
    """Peak memory of this process after three epochs of few steps, with CIFAR-100's table size."""
    x, y = STUDENTS[student].data(2)
    model = trainable(STUDENTS[student], method, CIFAR_SIZE[0])
    for _ in range(3):
        model.fit(x, y, batch_size=STUDENTS[student].batch_size, verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(methods: Sequence[str]) -> Rows:
    yield ["method", "peak memory, MiB", "over plain"]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        plain = None
        for method in ("plain", *(method for method in methods if method != "plain")):
            jobs = [("resnet20", method)] * 3
            peaks = pool.starmap(peak_mebibytes, jobs, chunksize=1)
            peak = statistics.median(peaks)
            cells = [method, f"{peak:.0f}", "" if plain is None else f"{peak - plain:+.0f}"]
            plain = peak if plain is None else plain
            yield cells, {"MiB": peaks}


MEASUREMENTS = {
    "step": step,
    "tables": table_sizes,
    "precision": precision,
    "compile": compile_time,
    "epoch": epoch,
    "boundary": boundary,
    "memory": memory,
    "pipeline": lambda methods: data_speed.pipeline(SAMPLES.value, ROUNDS.value),
    "text": lambda methods: data_speed.text(SAMPLES.value // 10, ROUNDS.value),
    "fine_tuning": fine_tuning,
}
SETTINGS = (STUDENT, METHOD, XLA, STEPS_PER_EXECUTION, TABLE_SAMPLES, TABLE_CLASSES, ROUNDS)
SETTINGS += (BUILDS, SAMPLES, TASK, BERT)


def main(argv):
    options.check_command(argv)
    methods = options.names("method", METHOD.value, [*METHODS, "plain", "distiller", "tiny_bert"])
    folder = Path(OUTPUT_DIR.value) / f"{WHAT.value}-{keras.backend.backend()}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = iter(MEASUREMENTS[WHAT.value](methods))
    columns = next(rows)
    settings = {flag.name: flag.value for flag in SETTINGS} | {"columns": columns}
    record = {"settings": settings, "runs": []}
    runs.progress(" | ".join(columns))
    for cells, figures in rows:
        run = {"what": WHAT.value, "row": len(record["runs"])}
        result = {"run": run, "cells": cells, "figures": figures}
        record["runs"].append(result | {"environment": machine.environment()})
        # After each row, as some measurements take an hour.
        with saving.replacing(folder / "results.json") as part:
            part.write_text(json.dumps(record, indent=1))
        table = tables.markdown(columns, [result["cells"] for result in record["runs"]])
        page = tables.write(folder / "table.md", table, record)
        runs.progress(" | ".join(cells))
    tables.publish(page, record)
    print(f"\n{page}")


if __name__ == "__main__":
    app.run(main)
