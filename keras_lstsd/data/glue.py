"""GLUE tasks with one or two sentences, from the official TSV folders or tensorflow-datasets."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_lstsd.data import tfds


class Examples(NamedTuple):
    """A split of a task; the row number is the sample's index."""

    first: list[str]
    second: list[str] | None
    labels: np.ndarray
    """int32 `[rows]`."""

    @property
    def texts(self) -> list[str]:
        """What a person reads: a sentence, or the two of a pair with a bar between."""
        if self.second is None:
            return self.first
        return [
            f"{first} | {second}" for first, second in zip(self.first, self.second, strict=True)
        ]


@dataclass(frozen=True)
class Task:
    """Where a task's files keep what."""

    first: int
    """Column of the first sentence in the TSV files."""
    second: int | None
    label: int
    classes: tuple[str, ...]
    """Labels as the files write them, in the order of their numbers."""
    train_size: int
    fields: tuple[str, ...]
    """Names of the sentences in tensorflow-datasets."""
    header: bool = True
    metric: str = "accuracy"


TASKS = {
    "rte": Task(1, 2, 3, ("entailment", "not_entailment"), 2490, ("sentence1", "sentence2")),
    "mrpc": Task(3, 4, 0, ("0", "1"), 3668, ("sentence1", "sentence2")),
    "cola": Task(3, None, 1, ("0", "1"), 8551, ("sentence",), header=False, metric="matthews"),
    "sst2": Task(0, None, 1, ("0", "1"), 67349, ("sentence",)),
}
FOLDERS = {"rte": "RTE", "mrpc": "MRPC", "cola": "CoLA", "sst2": "SST-2"}


def load(task: str, split: str = "train", data_dir: str | Path | None = None) -> Examples:
    """A split of a GLUE task.

    Args:
        task: `"rte"`, `"mrpc"`, `"cola"` or `"sst2"`.
        split: `"train"` or `"dev"`.
        data_dir: the folder that holds `RTE/train.tsv` and so on, as the official download lays
            them out. None takes tensorflow-datasets, which may download.

    Raises:
        ValueError: for an unknown task or split, or a file whose rows are not as expected.
        FileNotFoundError: when the file is not in `data_dir`.
        ImportError: without `data_dir` and without tensorflow-datasets.

    Example:
        >>> train = keras_lstsd.data.glue.load("rte", "train", data_dir="glue")
        >>> train.first[0], train.second[0], train.labels[0]

    Source: Wang et al. 2019; class numbers as in tensorflow-datasets.
    """
    if task not in TASKS or split not in ("train", "dev"):
        raise ValueError(
            f"No such part of GLUE here. Received: task={task!r}, split={split!r}. "
            f"Expected: a task of {sorted(TASKS)} and a split 'train' or 'dev'."
        )
    if data_dir is None:
        return _from_tfds(task, split)
    return _from_tsv(Path(data_dir) / FOLDERS[task] / f"{split}.tsv", TASKS[task])


def score(task: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """The task's metric in %: accuracy, or Matthews correlation for CoLA.

    `matthews = (TP TN - FP FN) / sqrt((TP+FP) (TP+FN) (TN+FP) (TN+FN))`, 0 where a factor is 0.

    Args:
        task: name of the task.
        labels: int `[rows]`.
        predictions: classes, int `[rows]`.

    Example:
        >>> keras_lstsd.data.glue.score("rte", np.array([0, 1]), np.array([0, 0]))   # 50.0
    """
    if TASKS[task].metric == "accuracy":
        return 100 * float(np.mean(labels == predictions))
    # For two classes, Matthews correlation is Pearson's.
    if np.std(labels) == 0 or np.std(predictions) == 0:
        return 0.0
    return 100 * float(np.corrcoef(labels, predictions)[0, 1])


def _from_tsv(path: Path, task: Task) -> Examples:
    if not path.is_file():
        raise FileNotFoundError(
            f"GLUE's file is missing. Received: {path}. Expected: `data_dir` to be the folder "
            f"with {', '.join(FOLDERS.values())} in it, each with train.tsv and dev.tsv."
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Sentences hold lone quotation marks, which quote nothing.
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[int(task.header) :]
    columns = [column for column in (task.first, task.second, task.label) if column is not None]
    for number, row in enumerate(rows, start=1 + task.header):
        if len(row) <= max(columns) or row[task.label] not in task.classes:
            raise ValueError(
                f"{path}, line {number}, is not a row of this task. Received: {row}. Expected: "
                f"more than {max(columns)} tab-separated columns, and in column {task.label} a "
                f"label of {task.classes}."
            )
    return Examples(
        [row[task.first] for row in rows],
        None if task.second is None else [row[task.second] for row in rows],
        np.array([task.classes.index(row[task.label]) for row in rows], np.int32),
    )


def _from_tfds(task: str, split: str) -> Examples:
    rows = tfds.rows(f"glue/{task}", "validation" if split == "dev" else split)
    sentences = [[row[field].decode() for row in rows] for field in TASKS[task].fields]
    return Examples(
        sentences[0],
        sentences[1] if len(sentences) == 2 else None,
        np.array([row["label"] for row in rows], np.int32),
    )
