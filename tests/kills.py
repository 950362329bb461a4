"""Trainings in processes of their own that are killed with SIGKILL and started again.

A `Kill` says where a process ends: at a batch, at an epoch boundary, or at a line of Python in the
work of the backup (its writing, its restoring, or its removal at the end).
"""

import functools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from keras_lstsd import KnowledgeDistillation, TinyBERT, TolerantTeacher, generations, saving
from keras_lstsd.data import CropAndFlip, SampleBatches
from tests.models import made

SAMPLES, CLASSES, BATCH, EPOCHS = 26, 3, 8, 5
BATCHES = -(-SAMPLES // BATCH)
PLACES = ("batch", "epoch_begin", "epoch_end", "backup", "restore", "clearing", "moment")
prepare = saving.prepare


class Kill(NamedTuple):
    place: str
    epoch: int
    part: float
    """In [0, 1): which batch, or which of the lines of the backup's work."""


def random_kill(draw: np.random.Generator) -> Kill:
    return Kill(str(draw.choice(PLACES)), int(draw.integers(0, EPOCHS)), float(draw.random()))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(keras.callbacks.Callback):
    """Ends the process at a batch or at an epoch boundary."""

    def __init__(self, kill: Kill):
        super().__init__()
        self.kill = kill
        self.now = -1

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        self.at("epoch_begin")

    def on_train_batch_begin(self, batch, logs=None):
        if batch == int(self.kill.part * BATCHES):
            self.at("batch")

    def on_epoch_end(self, epoch, logs=None):
        self.at("epoch_end")

    def at(self, place):
        if (place, self.now) == (self.kill.place, self.kill.epoch):
            die()


class Backup(keras.callbacks.BackupAndRestore):
    """Keras's callback; counts the lines of Python that it runs, one of which may be the last."""

    def __init__(self, folder: Path, kill: Kill | None, lines: dict[str, int]):
        super().__init__(folder / "backup", double_checkpoint=True)
        self.kill = kill
        self.lines = lines

    def on_epoch_end(self, epoch, logs=None):
        self.watched("backup", epoch, super().on_epoch_end, epoch)

    def on_train_end(self, logs=None):
        self.watched("clearing", EPOCHS, super().on_train_end)

    def prepare(self, *arguments):
        return self.watched("restore", EPOCHS, prepare, *arguments)

    def watched(self, place, epoch, work, *arguments):
        last = None
        if self.kill is not None and self.kill.place == place and epoch >= self.kill.epoch:
            last = int(self.kill.part * self.lines[place])
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += event == "line"
            if last is not None and count > last:
                die()
            return trace

        sys.settrace(trace)
        try:
            return work(*arguments)
        finally:
            sys.settrace(None)
            self.lines[place] = max(count, self.lines.get(place, 0))


class Journal(keras.callbacks.Callback):
    """A line for each epoch that ended."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in logs.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")


def some_samples(samples: Callable, kill: Kill) -> Iterator:
    """Ends the process at a batch of the pass that asks a teacher once per sample."""
    for number, batch in enumerate(samples()):
        if number == int(kill.part * BATCHES):
            die()
        yield batch


def student() -> keras.Model:
    """With augmentation, dropout, batch statistics and weight decay."""
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.RandomFlip(),
            layers.GaussianNoise(0.1),
            layers.Flatten(),
            layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(momentum=0.8),
            layers.Dropout(0.3),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def train(
    name: str, jit_compile: bool | str, folder: Path, order: int, kill: Kill | None, lines: dict
) -> None:
    """A user's script: the same for a first start and for a resumed run."""
    keras.utils.set_random_seed(11)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(SAMPLES, 4, 4, 1)).astype("float32")
    y = draw.integers(0, CLASSES, SAMPLES)
    model = made(name, student(), SAMPLES)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        jit_compile=jit_compile,
    )
    backup = Backup(folder, kill, dict(lines))
    saving.prepare = backup.prepare
    callbacks = [
        backup,
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (1 + epoch)),
    ]
    if kill is not None:
        callbacks.append(Killer(kill))
    callbacks = [callbacks[i] for i in np.random.default_rng(order).permutation(len(callbacks))]
    # The first one: an epoch that a backup has is in the journal, wherever the process ends.
    callbacks.insert(0, Journal(folder / "journal.jsonl"))
    if kill is not None and kill.place == "storing":
        model.plain_samples = functools.partial(some_samples, model.plain_samples, kill)
    (folder / "began").touch()
    # The images may be on the host in one start and on the device in the next.
    on_device = bool(order % 2)
    batches = SampleBatches(x, y, batch_size=BATCH, augment=CropAndFlip(pad=1), on_device=on_device)
    model.fit(
        batches,
        epochs=EPOCHS,
        verbose=0,
        callbacks=callbacks,
        validation_data=(x[:10], y[:10]),
    )
    variables = [v for v in model.variables if v.name != "pixels"] + model.optimizer.variables
    np.savez(folder / "end.npz", *(keras.ops.convert_to_numpy(variable) for variable in variables))
    (folder / "lines.json").write_text(json.dumps(backup.lines))


def train_chain(folder: Path) -> None:
    """A chain of two generations, the second one taught by a stored teacher."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(SAMPLES, 4, 4, 1)).astype("float32")
    y = draw.integers(0, CLASSES, SAMPLES)

    def make(generation, students):
        model = TolerantTeacher(student(), eta=0.6, top_k=2)
        if students:
            model = KnowledgeDistillation(student(), students[-1], 0.6, 2.0, stored=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
        return model

    def fit(model, callbacks):
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks)

    (folder / "began").touch()
    students = generations.train(folder / "chain", make, fit, 2)
    np.savez(folder / "end.npz", *(weight for it in students for weight in it.get_weights()))


def train_tiny_bert(folder: Path) -> None:
    """Ten epochs of layers, then ten of predictions."""
    from tests.methods.test_tiny_bert import INPUTS, Y, compiled, network

    student, teacher = network(1, 4, seed=1), network(2, 8, seed=2)
    model = compiled(TinyBERT(student, teacher, intermediate_epochs=10), 0.01)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)
    (folder / "began").touch()
    model.fit(INPUTS, Y, batch_size=2, epochs=20, verbose=0, callbacks=[backup])
    np.savez(folder / "end.npz", *model.get_weights())


def start(*arguments, target: Callable = train) -> multiprocessing.Process:
    """A process that trains, forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def finish(*arguments, target: Callable = train) -> None:
    process = start(*arguments, target=target)
    process.join()
    assert process.exitcode == 0


def killed_after(seconds: float | None, process: multiprocessing.Process, folder: Path) -> bool:
    """Kills a process so long after its training began; None: it ends by itself.

    Returns whether it was killed.
    """
    while process.is_alive() and not (folder / "began").exists():
        time.sleep(0.01)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def killed(name: str, jit_compile: bool | str, folder: Path, order: int, kill: Kill, lines: dict):
    """One process, ended as `kill` says. True if it was killed, False if it finished before."""
    (folder / "began").unlink(missing_ok=True)
    process = start(name, jit_compile, folder, order, kill, lines)
    return killed_after(3 * kill.part if kill.place == "moment" else None, process, folder)


def journal(folder: Path) -> dict[int, dict]:
    """Logs by epoch. An epoch that ran twice must have logged the same values twice."""
    epochs = {}
    for line in (folder / "journal.jsonl").read_text().splitlines():
        logs = json.loads(line)
        assert epochs.setdefault(logs["epoch"], logs) == logs
    return epochs


def two_folders(folder: Path) -> tuple[Path, Path]:
    """Folders of an uninterrupted run and of a resumed one."""
    whole, resumed = folder / "whole", folder / "resumed"
    whole.mkdir()
    resumed.mkdir()
    return whole, resumed


def assert_resumed_run_equals_uninterrupted_run(
    name: str, jit_compile: bool | str, kills: int, seed: int, folder: Path
) -> int:
    """Kills a training that many times, lets it finish, and compares. Returns the kills."""
    whole, resumed = two_folders(folder)
    finish(name, jit_compile, whole, 0, None, {})
    # An uninterrupted run restores nothing. Restoring takes about as many lines as writing.
    lines = json.loads((whole / "lines.json").read_text())
    assert min(lines["backup"], lines["clearing"]) > 0
    lines["restore"] = 500
    draw = np.random.default_rng(seed)
    count = 0
    while count < kills:
        kill = random_kill(draw)
        count += killed(name, jit_compile, resumed, int(draw.integers(100)), kill, lines)
    finish(name, jit_compile, resumed, int(draw.integers(100)), None, {})
    assert journal(resumed) == journal(whole)
    assert_same_end(whole, resumed)
    assert not (resumed / "backup").exists()
    return count


def assert_same_end(whole: Path, resumed: Path) -> None:
    """Two runs ended with the same bits."""
    with np.load(whole / "end.npz") as first, np.load(resumed / "end.npz") as second:
        assert first.files == second.files
        for variable in first.files:
            np.testing.assert_array_equal(first[variable], second[variable])
