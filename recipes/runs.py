"""Trains a list of runs one after the other, and stores what they measured.

A run is a dict of strings and numbers, such as `{"task": "rte", "method": "lstsd", "seed": 3}`.
Its result is written as soon as it is complete, and a run with a result is not repeated. An
interrupted run resumes after the last epoch that it finished.
"""

import csv
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstsd import Distillation, TrainingDynamics, columns, generations, saving
from keras_lstsd.label_quality import label_confidence
from keras_lstsd.schedules import CyclicCosine
from recipes import metrics
from recipes.machine import environment
from recipes.methods import Method

# Of RCO; Shi et al. 2021.
ANCHORS = 4
# The exit status of a recipe that was stopped by Ctrl-C.
INTERRUPTED = 130
# Of LSTSD in all recipes; "Experimental Setup" of Jiang et al. 2020.
MINI_GENERATION_EPOCHS = 6


class Results:
    """Finished runs in a JSON file: `{"settings": {...}, "runs": [{"run": {...}, ...}]}`.

    Args:
        path: the file. Runs that it contains are kept.
        settings: what all runs have in common.

    Raises:
        SystemExit: when the file has results of other settings.
    """

    def __init__(self, path: Path, settings: dict):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.settings = settings
        self.runs = self._stored()
        # From its first start on, the folder belongs to these settings.
        self._write()

    def _stored(self) -> list[dict]:
        if not self.path.exists():
            return []
        stored = json.loads(self.path.read_text())
        if stored["settings"] != self.settings:
            raise SystemExit(
                f"{self.path} has results of other settings.\nReceived: {self.settings}\n"
                f"Found:    {stored['settings']}\nExpected: the same settings, or another "
                "--output_dir."
            )
        return stored["runs"]

    def record(self) -> dict:
        """The content of the file."""
        return {"settings": self.settings, "runs": self.runs}

    def _write(self) -> None:
        with saving.replacing(self.path) as part:
            part.write_text(json.dumps(self.record(), indent=1))

    def has(self, run: dict) -> bool:
        """Whether the run has a result."""
        return any(stored["run"] == run for stored in self.runs)

    def add(self, run: dict, outcome: dict) -> None:
        """Stores the result of a run with its environment, and removes the run's backup."""
        # Another process may have added runs meanwhile.
        self.runs = [*self._stored(), {"run": run, **outcome, "environment": environment()}]
        self._write()
        shutil.rmtree(self._backup_folder(run), ignore_errors=True)

    def folder(self, run: dict) -> Path:
        """The folder of a run's own files, such as its history."""
        return self.path.parent / run_name(run)

    def _backup_folder(self, run: dict) -> Path:
        return self.path.parent / "backups" / run_name(run)

    def backup(self, run: dict) -> keras.callbacks.Callback:
        """The callback with which `fit` resumes an interrupted run.

        The backup is kept until the run's result is stored: what follows training may fail, too.
        """
        return keras.callbacks.BackupAndRestore(
            self._backup_folder(run), double_checkpoint=True, delete_checkpoint=False
        )

    def scores(self, *figure: str, **name: Any) -> dict[int, float]:
        """A figure, by seed, of the runs that equal `name` apart from their seed.

        Args:
            figure: the keys that lead to it in a result, such as `"detection", "tables", "auc"`;
                by default `"score"`.
            name: the run without its seed.
        """
        found = {}
        for stored in self.runs:
            value = stored
            for key in figure or ("score",):
                value = value.get(key, {})
            if stored["run"] == name | {"seed": stored["run"]["seed"]} and value != {}:
                found[stored["run"]["seed"]] = value
        return found


def run_name(run: dict) -> str:
    """The name of a run's folder."""
    return "-".join(str(value) for value in run.values())


def description(run: dict) -> str:
    """A run as progress lines name it, such as `"rte, lstsd, seed 3"`."""
    words = (value if isinstance(value, str) else f"{key} {value}" for key, value in run.items())
    return ", ".join(words)


def progress(line: str) -> None:
    """Prints a line of progress, to stderr: stdout has the results only."""
    print(line, file=sys.stderr, flush=True)


def product(key: str, values: Sequence[str], seeds: Sequence[int], methods: Sequence[str]) -> list:
    """A run for each value of `key`, seed and method."""
    return [
        {key: value, "method": method, "seed": seed}
        for value in values
        for seed in seeds
        for method in methods
    ]


def train_all(
    runs: Sequence[dict],
    results: Results,
    train: Callable[[dict, Path, list], dict],
    unit: str = " %",
) -> bool:
    """Trains the runs that have no result yet.

    Args:
        runs: all runs.
        results: where their results are stored.
        train: `train(run, folder, callbacks)` returns the run's outcome, with its `"score"`. With
            these callbacks `fit` resumes an interrupted run and writes its history.
        unit: of the score, for the lines of progress.

    Returns:
        True when all runs have a result, False after Ctrl-C.
    """
    left = [run for run in runs if not results.has(run)]
    if len(left) < len(runs):
        progress(f"{len(runs) - len(left)} of {len(runs)} runs are finished already.")
    first_start = time.monotonic()
    try:
        for number, run in enumerate(left, start=1):
            keras.utils.set_random_seed(run["seed"])
            start = time.monotonic()
            folder = results.folder(run)
            folder.mkdir(parents=True, exist_ok=True)
            # The history is written before the backup, so that it never lacks an epoch.
            callbacks = [EpochLine(run), History(folder / "history.csv"), results.backup(run)]
            outcome = train(run, folder, callbacks)
            seconds = time.monotonic() - start
            results.add(run, outcome | {"seconds": round(seconds, 1)})
            minutes = (time.monotonic() - first_start) / number * (len(left) - number) / 60
            done = len(runs) - len(left) + number
            progress(
                f"{done:{len(str(len(runs)))}}/{len(runs)}  {description(run)}: "
                f"{outcome['score']:.2f}{unit}  ({seconds:.0f} s; about {minutes:.1f} min left)"
            )
    except KeyboardInterrupt:
        progress(f"Stopped. The same command resumes from {results.path.parent}.")
        return False
    return True


def compiled(
    model: Distillation,
    method: Method,
    optimizer: Callable[[Any], keras.optimizers.Optimizer],
    learning_rate: float,
    *,
    num_samples: int,
    epochs: int,
    batch_size: int,
    decayed: Any = None,
    teacher: Any = None,
    **options: Any,
) -> Distillation:
    """Compiles a model with the method's learning rate and loss, for one-hot labels.

    Args:
        model: the model.
        method: its entry in `METHODS`.
        optimizer: makes an optimizer for a learning rate.
        learning_rate: the initial learning rate.
        num_samples: the number of training samples.
        epochs: the epochs of the training.
        batch_size: samples in a step.
        decayed: a learning-rate schedule for methods without cycles; None keeps `learning_rate`.
        teacher: what `teacher_of` returned; a teacher that is trained has its own optimizer.
        options: arguments of `compile`.

    Returns:
        The model.
    """
    steps = math.ceil(num_samples / batch_size)
    rate = learning_rate if decayed is None else decayed
    if method.cyclic:
        rate = CyclicCosine(
            learning_rate, model.mini_generation_epochs * steps, total_steps=epochs * steps
        )
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=model.from_logits, label_smoothing=method.label_smoothing
    )
    if isinstance(teacher, Distillation):
        options["teacher_optimizer"] = keras.optimizers.serialize(teacher.optimizer)
    model.compile(optimizer(rate), loss, metrics=["accuracy"], **options)
    return model


class Anchors(keras.callbacks.Callback):
    """Stores the network after each of equal shares of its training, as anchors for `RCO`."""

    def __init__(self, folder: Path, anchors: int = ANCHORS):
        super().__init__()
        self.folder, self.anchors = folder, anchors

    def on_epoch_end(self, epoch, logs=None):
        for number in range(1, self.anchors + 1):
            if epoch + 1 == math.ceil(number * self.params["epochs"] / self.anchors):
                with saving.replacing(self.folder / f"anchor_{number}.keras") as part:
                    self.model.student.save(part)


def teacher_of(
    method: Method,
    folder: Path,
    seed: int,
    make: Callable[[], Distillation],
    fit: Callable[[Distillation, list], Any],
) -> Any:
    """The teacher that a method needs.

    Returns None, a trained network, the anchors of its training, or a compiled `Distillation`
    around a network to train.

    Args:
        method: the method.
        folder: where the trained teacher of this seed is stored; it is trained once.
        seed: the seed.
        make: returns a compiled `Distillation` around the teacher's network.
        fit: `fit(model, callbacks)` trains it.
    """
    if method.teacher is None:
        return None
    if method.teacher == "trained":
        return make()
    folder = folder / f"teacher-{seed}"
    if not (folder / "generation_0.keras").exists():
        progress(f"Trains the teacher of seed {seed}.")
    (teacher,) = generations.train(
        folder,
        lambda *_: make(),
        lambda model, callbacks: fit(model, [Anchors(folder), *callbacks]),
        generations=1,
        seed=seed,
    )
    if method.teacher == "given":
        return teacher
    return [folder / f"anchor_{number + 1}.keras" for number in range(ANCHORS)]


class History(keras.callbacks.Callback):
    """Writes the logs of each epoch to a CSV file; a resumed run continues it.

    Keras's `CSVLogger` takes its columns from the first epoch that it sees, which after a restart
    may have a validation or not. It also writes an epoch twice that was not backed up.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.rows = []

    def on_train_begin(self, logs=None):
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def on_epoch_end(self, epoch, logs=None):
        self.rows = [row for row in self.rows if int(row["epoch"]) < epoch]
        self.rows.append({"epoch": epoch, **logs})
        columns = dict.fromkeys(column for row in self.rows for column in row)
        with saving.replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(self.rows)

    @staticmethod
    def read(path: Path) -> dict[str, list[float]]:
        """A stored history, as Keras's `History.history`; NaN where an epoch has no value."""
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        columns = [name for name in rows[0] if name != "epoch"]
        return {name: [float(row[name] or "nan") for row in rows] for name in columns}


class Dynamics(TrainingDynamics):
    """Writes the training dynamics of each sample to the run's folder, for the report."""

    def on_train_end(self, logs=None):
        self.save(self.path.with_suffix(".csv"))


def dynamics(model: Distillation, y: np.ndarray, folder: Path) -> list[keras.callbacks.Callback]:
    """The callback that records each sample, for methods with a memory per sample."""
    return [Dynamics(y, folder / "dynamics.npz")] if hasattr(model, "pending") else []


def probabilities(model: Distillation, x: Any) -> np.ndarray:
    """The predicted probabilities of inputs, float32 `[samples, classes]`."""
    logits = model.logits_of(model.predict(x, 500, verbose=0))
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def detection(
    model: Distillation, x: Any, labels: np.ndarray, wrong: np.ndarray, folder: Path
) -> dict[str, dict[str, float]]:
    """How well a trained model finds wrong labels, by several rankings of the training samples.

    Args:
        model: the trained model.
        x: training inputs.
        labels: the labels of the training, int `[samples]`.
        wrong: which of them are wrong, bool `[samples]`.
        folder: the folder of the run, with the file that `dynamics` wrote.

    Returns:
        ROC AUC and the precision at the number of wrong labels in %, by ranking.
    """
    after = probabilities(model, x)
    scores = {"loss after training": after[np.arange(len(labels)), labels]}
    if hasattr(model, "pending"):
        scores["tables"] = label_confidence(model, labels)
        record = columns.read(folder / "dynamics.csv")
        scores["all epochs"] = record["confidence"]
        scores["margin, all epochs"] = record["margin"]
    return {name: metrics.ranking(values, wrong) for name, values in scores.items()}


class EpochLine(keras.callbacks.Callback):
    """Shows the current epoch in one line of a terminal."""

    def __init__(self, run: dict):
        super().__init__()
        self.run = description(run)

    def on_epoch_end(self, epoch, logs=None):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{self.run}: epoch {epoch + 1}/{self.params['epochs']}")
            sys.stderr.flush()

    def on_train_end(self, logs=None):
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
