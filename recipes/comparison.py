"""What the recipes share: a list of runs, done one after the other, kept on disk, and a table.

A run is named by strings and numbers, such as `{"task": "rte", "method": "lstsd", "seed": 3}`.
Its result is written as soon as it is there, and a run whose result is there is not repeated. A
run that was interrupted goes on after the last epoch it finished.
"""

import csv
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import logging

from keras_lstsd import SelfDistillation, checkpoints
from keras_lstsd.methods.registry import Method
from keras_lstsd.schedules import CyclicCosine

INTERRUPTED = 130


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
    runs: Sequence[dict], results: Results, train: Callable[[dict, list], dict], title: str
) -> bool:
    """Does what is left of the runs; True when all are done, False when Ctrl-C came between.

    `train(run, callbacks)` gives the run's outcome, `"score"` (in %) among it; with the callbacks
    `fit` resumes an interrupted run.
    """
    left = [run for run in runs if not results.has(run)]
    if len(left) < len(runs):
        logging.info("%d of %d runs are done already.", len(runs) - len(left), len(runs))
    begun = time.monotonic()
    try:
        for number, run in enumerate(left):
            keras.utils.set_random_seed(run["seed"])
            start = time.monotonic()
            outcome = train(run, [EpochLine(run), results.backup(run)])
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


def spread(values: Sequence[float]) -> str:
    """Mean +- standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}"


def paired_difference(scores: dict[int, float], baseline: dict[int, float]) -> str:
    """Mean difference over the seeds that both have, +- its standard error."""
    seeds = sorted(scores.keys() & baseline.keys())
    differences = [scores[seed] - baseline[seed] for seed in seeds]
    if len(differences) < 2:
        return f"{differences[0]:+.2f}" if differences else "-"
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.mean(differences):+.2f} +- {error:.2f}"


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
        row = [method, str(len(scores)), spread(list(scores.values()))]
        row.append("" if method == "vanilla" else paired_difference(scores, baseline))
        if paper is not None:
            row.append(f"{paper[method]:.2f}" if method in paper else "")
        rows.append(row)
    header = ["method", "seeds", "mean +- std", "paired difference to vanilla +- s.e."]
    return markdown(header + (["paper"] if paper is not None else []), rows)


def refuse_words(argv: Sequence[str]) -> None:
    """Refuses what stands on the command line beside flags."""
    if argv[1:]:
        raise SystemExit(f"Received: {argv[1:]}. Expected: flags alone; see --help.")


def names(flag: str, value: str, known: Sequence[str]) -> list[str]:
    """The names in the value of a flag: comma-separated, or `all` that are known."""
    chosen = list(known) if value == "all" else value.split(",")
    if any(name not in known for name in chosen):
        raise SystemExit(
            f"No such {flag}. Received: --{flag}={value}. Expected: all, or a comma-separated "
            f"list of {', '.join(known)}."
        )
    return chosen
