"""What the recipes share: a list of runs, done one after the other, kept on disk, and a table.

A run is named by strings and numbers, such as `{"task": "rte", "method": "lstsd", "seed": 3}`.
Its result is written as soon as it is there, and a run whose result is there is not repeated. A
run that was interrupted goes on after the last epoch it finished.
"""

import csv
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags, logging

from keras_lstsd import SelfDistillation, TrainingDynamics, checkpoints, report
from keras_lstsd.dynamics import label_confidence, ranked
from keras_lstsd.methods.registry import Method
from keras_lstsd.schedules import CyclicCosine

INTERRUPTED = 130
# LSTSD's in all recipes, from "Experimental Setup" of Jiang et al. 2020.
MINI_GENERATION_EPOCHS = 6
REPORT = flags.DEFINE_bool("report", False, "Writes a page of pictures beside the table.")


class Results:
    """Finished runs in a JSON file: a list of objects, each a run's name and what came of it."""

    def __init__(self, path: Path, settings: dict):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.settings = settings
        self.runs = self._kept()
        # From the first start on, the folder is of these settings.
        self._write()

    def _kept(self) -> list[dict]:
        if not self.path.exists():
            return []
        kept = json.loads(self.path.read_text())
        if kept["settings"] != self.settings:
            raise SystemExit(
                f"{self.path} holds results of other settings.\nReceived: {self.settings}\n"
                f"Found:    {kept['settings']}\nExpected: the same settings, or another "
                "--output_dir."
            )
        return kept["runs"]

    def _write(self) -> None:
        with checkpoints.replacing(self.path) as part:
            part.write_text(json.dumps({"settings": self.settings, "runs": self.runs}, indent=1))

    def has(self, run: dict) -> bool:
        return any(kept["run"] == run for kept in self.runs)

    def add(self, run: dict, outcome: dict) -> None:
        # With what another process may have added meanwhile.
        self.runs = [*self._kept(), {"run": run, **outcome}]
        self._write()
        shutil.rmtree(self._backup_folder(run), ignore_errors=True)

    def folder(self, run: dict) -> Path:
        """Where a run leaves its history, and what else it keeps."""
        return self.path.parent / run_name(run)

    def _backup_folder(self, run: dict) -> Path:
        return self.path.parent / "backups" / run_name(run)

    def backup(self, run: dict) -> keras.callbacks.Callback:
        """With this callback `fit` resumes a run that was interrupted.

        The backup is kept until the run's result is: what follows training may fail, too.
        """
        return keras.callbacks.BackupAndRestore(
            self._backup_folder(run), double_checkpoint=True, delete_checkpoint=False
        )

    def scores(self, **name: Any) -> dict[int, float]:
        """Score by seed of the runs of exactly that name."""
        return {
            kept["run"]["seed"]: kept["score"]
            for kept in self.runs
            if {key: value for key, value in kept["run"].items() if key != "seed"} == name
        }


def run_name(run: dict, separator: str = "-") -> str:
    """A run's name, for folders, or with spaces for people."""
    return separator.join(str(value) for value in run.values())


def train_all(
    runs: Sequence[dict], results: Results, train: Callable[[dict, Path, list], dict], title: str
) -> bool:
    """Does what is left of the runs; True when all are done, False when Ctrl-C came between.

    `train(run, folder, callbacks)` gives the run's outcome, `"score"` (in %) among it; with the
    callbacks `fit` resumes an interrupted run, and keeps its logs in the folder.
    """
    left = [run for run in runs if not results.has(run)]
    if len(left) < len(runs):
        logging.info("%d of %d runs are done already.", len(runs) - len(left), len(runs))
    begun = time.monotonic()
    try:
        for number, run in enumerate(left):
            keras.utils.set_random_seed(run["seed"])
            start = time.monotonic()
            folder = results.folder(run)
            folder.mkdir(parents=True, exist_ok=True)
            # The history before the backup, so that no epoch is missing in it.
            callbacks = [EpochLine(run), History(folder / "history.csv"), results.backup(run)]
            outcome = train(run, folder, callbacks)
            results.add(run, outcome | {"seconds": round(time.monotonic() - start, 1)})
            minutes = (time.monotonic() - begun) / (number + 1) * (len(left) - number - 1) / 60
            logging.info(
                "%s %d/%d  %s: %.2f  (%.0f s; about %.1f min left)",
                title,
                len(runs) - len(left) + number + 1,
                len(runs),
                run_name(run, " "),
                outcome["score"],
                time.monotonic() - start,
                minutes,
            )
    except KeyboardInterrupt:
        logging.info("Stopped. The same command goes on from %s.", results.path.parent)
        return False
    return True


def compiled(
    model: SelfDistillation,
    method: Method,
    optimizer: Callable[[Any], keras.optimizers.Optimizer],
    learning_rate: float,
    epochs: int,
    batch_size: int,
    decayed: Any = None,
    **options: Any,
) -> SelfDistillation:
    """The model with the method's learning rate and loss, for one-hot labels.

    `optimizer` makes one of a learning rate: a cyclic one where the method has cycles, else
    `decayed`, or `learning_rate` all the time. `options` are those of `compile`.
    """
    steps = math.ceil(model.num_samples / batch_size)
    rate = learning_rate if decayed is None else decayed
    if method.cyclic:
        rate = CyclicCosine(
            learning_rate, model.mini_generation_epochs * steps, total_steps=epochs * steps
        )
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=model.from_logits, label_smoothing=method.label_smoothing
    )
    model.compile(optimizer(rate), loss, metrics=["accuracy"], **options)
    return model


class History(keras.callbacks.Callback):
    """The logs of each epoch in a CSV file, which a resumed run goes on with.

    Keras's `CSVLogger` takes its columns from the first epoch that it sees, which after a restart
    may be one with a validation, or without; and it writes an epoch twice that was not backed up.
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
        with checkpoints.replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(self.rows)

    @staticmethod
    def read(path: Path) -> dict[str, list[float]]:
        """A kept history as Keras's `History.history`; NaN where an epoch has no such value."""
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != "epoch"]
        return {name: [float(row[name] or "nan") for row in rows] for name in names}


class Dynamics(TrainingDynamics):
    """What each epoch tells of the samples, in the run's folder; for the report."""

    def on_train_end(self, logs=None):
        self.save(self.path.with_suffix(".csv"))

    @staticmethod
    def read(path: Path) -> dict[str, np.ndarray]:
        """The kept columns."""
        table = np.genfromtxt(path, delimiter=",", names=True)
        return {name: table[name] for name in table.dtype.names}


def dynamics(
    model: SelfDistillation, y: np.ndarray, folder: Path
) -> list[keras.callbacks.Callback]:
    """The callback that follows the samples, for a method that remembers each of them."""
    if "pending" not in model.sample_tables:
        return []
    return [Dynamics(y, folder / "dynamics.npz")]


def detection(
    model: SelfDistillation, x: Any, labels: np.ndarray, wrong: np.ndarray, folder: Path
) -> dict[str, dict[str, float]]:
    """How well a trained model finds wrong labels, by three rankings of the training samples.

    Args:
        model: the trained model.
        x: training inputs.
        labels: the labels it was trained with, int `[samples]`.
        wrong: which of them are wrong, bool `[samples]`.
        folder: that of the run, where `dynamics` left what all epochs told.

    Returns:
        for each ranking ROC AUC and precision at the number of wrong labels, in %.
    """
    from sklearn.metrics import roc_auc_score

    probabilities = keras.ops.softmax(model.logits_of(model.predict(x, 500, verbose=0)))
    probabilities = keras.ops.convert_to_numpy(probabilities)
    confidence = {"loss after training": probabilities[np.arange(len(labels)), labels]}
    if "pending" in model.sample_tables:
        confidence["tables"] = label_confidence(model, labels)
        confidence["all epochs"] = Dynamics.read(folder / "dynamics.csv")["confidence"]
    return {
        ranking: {
            "auc": 100 * float(roc_auc_score(wrong, -values)),
            "precision": 100 * float(wrong[ranked(values)][: wrong.sum()].mean()),
        }
        for ranking, values in confidence.items()
    }


def detection_table(results: Results, methods: Sequence[str], **name: Any) -> str:
    """What `detection` gave: of each method and ranking, beside the first one's loss."""

    def by_seed(method, ranking, figure):
        return {
            kept["run"]["seed"]: kept["detection"][ranking][figure]
            for kept in results.runs
            if kept["run"] == name | {"method": method, "seed": kept["run"]["seed"]}
            and ranking in kept.get("detection", {})
        }

    rows = []
    for method in methods:
        for ranking in ("loss after training", "tables", "all epochs"):
            row = [method, ranking]
            for figure in ("auc", "precision"):
                values = by_seed(method, ranking, figure)
                baseline = by_seed(methods[0], "loss after training", figure)
                difference = report.paired_difference(values, baseline)
                row += [report.spread(list(values.values())), difference]
            if row[2] != "-":
                rows.append(row)
    against = f"to the loss of {methods[0]} +- s.e."
    return markdown(["method", "ranked by", "ROC AUC", against, "precision", against], rows)


def detection_lines(results: Results, methods: Sequence[str], **name: Any) -> list[str]:
    """`detection_table` under its heading, for results of trainings with wrong labels."""
    if not results.settings.get("wrong_labels"):
        return []
    table = detection_table(results, methods, **name)
    return ["How well the wrong labels are found (%):", "", table, ""]


class EpochLine(keras.callbacks.Callback):
    """One line that tells the epoch in training, where a person looks on."""

    def __init__(self, run: dict):
        super().__init__()
        self.name = run_name(run, " ")

    def on_epoch_end(self, epoch, logs=None):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{self.name}: epoch {epoch + 1}/{self.params['epochs']}")
            sys.stderr.flush()

    def on_train_end(self, logs=None):
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def method_table(
    results: Results, methods: Sequence[str], paper: dict[str, float] | None = None, **name: str
) -> str:
    """Mean +- standard deviation of each method, and its paired difference to plain training."""
    baseline = results.scores(method="vanilla", **name)
    rows = []
    for method in methods:
        scores = results.scores(method=method, **name)
        row = [method, str(len(scores)), report.spread(list(scores.values()))]
        row.append("" if method == "vanilla" else report.paired_difference(scores, baseline))
        if paper is not None:
            row.append(f"{paper[method]:.2f}" if method in paper else "")
        rows.append(row)
    header = ["method", "seeds", "mean +- std", "paired difference to vanilla +- s.e."]
    return markdown(header + (["paper"] if paper is not None else []), rows)


def write_report(
    results: Results,
    title: str,
    methods: Sequence[str],
    paper: dict[str, float] | None = None,
    samples: Any = None,
    class_names: Sequence[str] | None = None,
    **name: str,
) -> None:
    """With --report, a page beside the table; its samples are those of the last method's seed."""
    if not REPORT.value:
        return
    scores = {method: results.scores(method=method, **name) for method in methods}
    histories, columns = {}, None
    for method, by_seed in scores.items():
        for seed in sorted(by_seed, reverse=True):
            # Named as the runs are: the seed stands last.
            folder = results.folder(name | {"method": method, "seed": seed})
            if (folder / "history.csv").exists():
                histories.setdefault(method, []).append(History.read(folder / "history.csv"))
            if (folder / "dynamics.csv").exists():
                columns = Dynamics.read(folder / "dynamics.csv")
    path = results.path.with_name("-".join(["report", *name.values()]) + ".html")
    report.write(
        path,
        title,
        scores=scores,
        paper=paper,
        histories=histories,
        mini_generation_epochs=MINI_GENERATION_EPOCHS,
        columns=columns,
        samples=samples,
        class_names=class_names,
    )
    print(f"Report: {path}")


def check_command(argv: Sequence[str]) -> None:
    """Refuses what stands on the command line beside flags, and a report that cannot be drawn."""
    if argv[1:]:
        raise SystemExit(f"Received: {argv[1:]}. Expected: flags alone; see --help.")
    if REPORT.value and find_spec("matplotlib") is None:
        raise SystemExit('--report draws with matplotlib: pip install "keras-lstsd[report]".')


def names(flag: str, value: str, known: Sequence[str]) -> list[str]:
    """The names in the value of a flag: comma-separated, or `all` that are known."""
    chosen = list(known) if value == "all" else value.split(",")
    if any(name not in known for name in chosen):
        raise SystemExit(
            f"No such {flag}. Received: --{flag}={value}. Expected: all, or a comma-separated "
            f"list of {', '.join(known)}."
        )
    return chosen
