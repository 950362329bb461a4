"""GLUE's tasks of one or two sentences, from the official TSV folders or tensorflow-datasets."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from keras_lstsd.data import tfds


class Examples(NamedTuple):
    """A split of a task; the row number is the sample's index."""

    first: list[str]
    second: list[str] | None
    labels: np.ndarray
    """int32 `[rows]`; -1 in test splits, whose labels GLUE keeps to itself."""

    def head(self, rows: int | None) -> "Examples":
        """The first so many rows; None for all."""
        return Examples(self.first[:rows], self.second and self.second[:rows], self.labels[:rows])

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
    """Where a task's files keep what, and how it is scored."""

    folder: str
    sentences: tuple[str, ...]
    """Columns of the one or two sentences in the TSV files."""
    label: str
    """Column of the labels."""
    classes: tuple[str, ...]
    """Labels as the files write them, in the order of their numbers."""
    fields: tuple[str, ...]
    """Names of the sentences in tensorflow-datasets."""
    header: tuple[str, ...] | None = None
    """The columns of train and dev files that do not name them."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Of `METRICS`; the first is the one in the tables of Jiang et al. 2020."""
    kinds: tuple[str, ...] = ("",)
    """Endings of the dev and test splits, where there are several."""
    short_rows: bool = False
    """Whether the official files hold rows that a line break cut, which everyone leaves out."""

    @property
    def dev_splits(self) -> list[str]:
        return ["dev" + kind for kind in self.kinds]

    @property
    def test_splits(self) -> list[str]:
        return ["test" + kind for kind in self.kinds]


_PAIR = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")
_F1 = ("accuracy", "f1")

TASKS = {
    "cola": Task(
        "CoLA",
        ("sentence",),
        "label",
        ("0", "1"),
        ("sentence",),
        header=("source", "label", "author's label", "sentence"),
        metrics=("matthews", "accuracy"),
    ),
    "sst2": Task("SST-2", ("sentence",), "label", ("0", "1"), ("sentence",)),
    "mrpc": Task("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1"), _PAIR, metrics=_F1),
    "rte": Task("RTE", _PAIR, "label", _ENTAILED, _PAIR),
    "qnli": Task("QNLI", ("question", "sentence"), "label", _ENTAILED, ("question", "sentence")),
    "qqp": Task(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        ("0", "1"),
        ("question1", "question2"),
        metrics=_F1,
        short_rows=True,
    ),
    "mnli": Task(
        "MNLI",
        _PAIR,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        ("premise", "hypothesis"),
        kinds=("_matched", "_mismatched"),
    ),
    "wnli": Task("WNLI", _PAIR, "label", ("0", "1"), _PAIR),
}


def load(task: str, split: str = "train", data_dir: str | Path | None = None) -> Examples:
    """A split of a GLUE task.

    Args:
        task: `"cola"`, `"sst2"`, `"mrpc"`, `"rte"`, `"qnli"`, `"qqp"`, `"mnli"` or `"wnli"`.
        split: `"train"`, `"dev"` or `"test"`; for MNLI `"dev_matched"`, `"dev_mismatched"`,
            `"test_matched"` and `"test_mismatched"`.
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
    _check(task, split)
    if data_dir is None:
        return _from_tfds(task, split)
    return _from_tsv(Path(data_dir) / TASKS[task].folder / f"{split}.tsv", TASKS[task])


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The share of right predictions."""
    return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """`2 TP / (2 TP + FP + FN)` of class 1; 0 where nothing is or is called 1."""
    called = np.sum(labels == 1) + np.sum(predictions == 1)
    return 2 * float(np.sum((labels == 1) & (predictions == 1))) / float(max(called, 1))


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """`(TP TN - FP FN) / sqrt((TP+FP) (TP+FN) (TN+FP) (TN+FN))`, 0 where a factor is 0."""
    # For two classes, Matthews correlation is Pearson's.
    if np.std(labels) == 0 or np.std(predictions) == 0:
        return 0.0
    return float(np.corrcoef(labels, predictions)[0, 1])


METRICS = {"accuracy": accuracy, "f1": f1, "matthews": matthews}


def scores(task: str, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The task's metrics in %, the one of the paper's tables first.

    Matthews correlation and accuracy for CoLA, accuracy and F1 for MRPC and QQP, accuracy for the
    others.

    Args:
        task: name of the task.
        labels: int `[rows]`.
        predictions: classes, int `[rows]`.

    Example:
        >>> keras_lstsd.data.glue.scores("rte", np.array([0, 1]), np.array([0, 0]))
        # {"accuracy": 50.0}
    """
    return {name: 100 * METRICS[name](labels, predictions) for name in TASKS[task].metrics}


def write_predictions(
    folder: str | Path, task: str, split: str, predictions: Sequence[int]
) -> Path:
    """Writes a split's predictions as GLUE's server takes them, and tells where.

    The file is `RTE.tsv` and so on (`MNLI-m.tsv` and `MNLI-mm.tsv` for MNLI): a line `index
    prediction`, then the row number and the label as the task's files write it.

    Args:
        folder: where the file goes; it is made.
        task: name of the task.
        split: what was predicted, `"test"` or another one.
        predictions: classes in the order of the rows, int `[rows]`.

    Raises:
        ValueError: for an unknown task or split.

    Example:
        >>> keras_lstsd.data.glue.write_predictions("submission", "rte", "test", [0, 1, 1])
    """
    _check(task, split)
    kind = {"matched": "-m", "mismatched": "-mm"}.get(split.partition("_")[2], "")
    path = Path(folder) / f"{TASKS[task].folder}{kind}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{row}\t{TASKS[task].classes[label]}" for row, label in enumerate(predictions)]
    path.write_text("\n".join(["index\tprediction", *lines]) + "\n")
    return path


def _check(task: str, split: str) -> None:
    known = TASKS[task].dev_splits + TASKS[task].test_splits if task in TASKS else ["dev", "test"]
    if task not in TASKS or split not in ["train", *known]:
        raise ValueError(
            f"No such part of GLUE here. Received: task={task!r}, split={split!r}. "
            f"Expected: a task of {sorted(TASKS)} and a split of {['train', *known]}."
        )


def _from_tsv(path: Path, task: Task) -> Examples:
    if not path.is_file():
        raise FileNotFoundError(
            f"GLUE's file is missing. Received: {path}. Expected: `data_dir` to be the folder "
            f"with {', '.join(known.folder for known in TASKS.values())} in it, each with "
            "train.tsv and its dev and test files."
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Sentences hold lone quotation marks, which quote nothing.
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    is_test = path.stem.startswith("test")
    # The first line names the columns, but for CoLA's train and dev.
    headed = is_test or task.header is None
    header = lines.pop(0) if headed else list(task.header)
    names = [*task.sentences, *([] if is_test else [task.label])]
    if not set(names) <= set(header):
        raise ValueError(
            f"{path} is not a file of this task. Received: columns {header}. Expected: "
            f"{names} among them."
        )
    columns = [header.index(name) for name in names]
    rows = []
    for number, line in enumerate(lines, start=1 + headed):
        row = [line[column] for column in columns if column < len(line)]
        if len(row) == len(names) and (is_test or row[-1] in task.classes):
            rows.append(row)
        elif is_test or not task.short_rows:
            raise ValueError(
                f"{path}, line {number}, is not a row of this task. Received: {line}. Expected: "
                f"tab-separated columns {header}, and a label of {task.classes}."
            )
    if len(rows) < len(lines):
        logging.info("%s: %d broken rows left out.", path, len(lines) - len(rows))
    labels = [-1 if is_test else task.classes.index(row[-1]) for row in rows]
    return Examples(
        [row[0] for row in rows],
        [row[1] for row in rows] if len(task.sentences) == 2 else None,
        np.array(labels, np.int32),
    )


def _from_tfds(task: str, split: str) -> Examples:
    rows = tfds.rows(f"glue/{task}", split.replace("dev", "validation"))
    sentences = [[row[field].decode() for row in rows] for field in TASKS[task].fields]
    return Examples(
        sentences[0],
        sentences[1] if len(sentences) == 2 else None,
        np.array([row["label"] for row in rows], np.int32),
    )
