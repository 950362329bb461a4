"""GLUE's tasks of one or two sentences, from the official TSV folders or tensorflow-datasets."""

import codecs
import csv
import io
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
    """int32 `[rows]`; -1 in test splits, whose labels GLUE does not publish."""

    def head(self, rows: int | None) -> "Examples":
        """The first `rows` rows; None for all."""
        return Examples(self.first[:rows], self.second and self.second[:rows], self.labels[:rows])

    @property
    def texts(self) -> list[str]:
        """Texts for display: a sentence, or the two sentences of a pair separated by a bar."""
        if self.second is None:
            return self.first
        return [
            f"{first} | {second}" for first, second in zip(self.first, self.second, strict=True)
        ]


@dataclass(frozen=True)
class Task:
    """The files, columns and labels of a task."""

    folder: str
    sentences: tuple[str, ...]
    """Columns of the one or two sentences in the TSV files."""
    label: str
    """Column of the labels."""
    classes: tuple[str, ...]
    """Labels as in the files, in the order of their class numbers."""
    fields: tuple[str, ...]
    """Names of the sentences in tensorflow-datasets."""
    header: tuple[str, ...] | None = None
    """The columns of train and dev files without a header; None if they have one."""
    kinds: tuple[str, ...] = ("",)
    """Suffixes of the dev and test splits, if there are several."""
    short_rows: bool = False
    """Whether official files contain rows broken by a line break, which are always skipped."""

    @property
    def dev_splits(self) -> list[str]:
        return ["dev" + kind for kind in self.kinds]

    @property
    def test_splits(self) -> list[str]:
        return ["test" + kind for kind in self.kinds]


_PAIR = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")

TASKS = {
    "cola": Task(
        "CoLA",
        ("sentence",),
        "label",
        ("0", "1"),
        ("sentence",),
        header=("source", "label", "author's label", "sentence"),
    ),
    "sst2": Task("SST-2", ("sentence",), "label", ("0", "1"), ("sentence",)),
    "mrpc": Task("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1"), _PAIR),
    "rte": Task("RTE", _PAIR, "label", _ENTAILED, _PAIR),
    "qnli": Task("QNLI", ("question", "sentence"), "label", _ENTAILED, ("question", "sentence")),
    "qqp": Task(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        ("0", "1"),
        ("question1", "question2"),
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
    """Loads a split of a GLUE task.

    Args:
        task: `"cola"`, `"sst2"`, `"mrpc"`, `"rte"`, `"qnli"`, `"qqp"`, `"mnli"` or `"wnli"`.
        split: `"train"`, `"dev"` or `"test"`; for MNLI `"dev_matched"`, `"dev_mismatched"`,
            `"test_matched"` and `"test_mismatched"`.
        data_dir: the folder of the official download, with `RTE/train.tsv` and so on. None takes
            tensorflow-datasets, which may download.

    Raises:
        ValueError: for an unknown task or split, or a damaged file; it names file and line.
        FileNotFoundError: when the file is not in `data_dir`.
        ImportError: without `data_dir` and without tensorflow-datasets.

    Example:
        >>> train = keras_lstsd.data.glue.load("rte", "train", data_dir="glue")
        >>> train.first[0], train.second[0], train.labels[0]

    Source: Wang et al. 2019; class numbers as in tensorflow-datasets.
    """
    check_split(task, split)
    if data_dir is None:
        return _from_tfds(task, split)
    return _from_tsv(Path(data_dir) / TASKS[task].folder / f"{split}.tsv", TASKS[task])


def check_split(task: str, split: str) -> None:
    """Checks the names of a task and of its split.

    Raises:
        ValueError: for an unknown task or split.
    """
    known = TASKS[task].dev_splits + TASKS[task].test_splits if task in TASKS else ["dev", "test"]
    if task not in TASKS or split not in ["train", *known]:
        raise ValueError(
            f"The task or its split is unknown. Received: task={task!r}, split={split!r}. "
            f"Expected: a task of {sorted(TASKS)} and a split of {['train', *known]}."
        )


def _from_tsv(path: Path, task: Task) -> Examples:
    if not path.is_file():
        raise FileNotFoundError(
            f"A file of GLUE is missing. Received: {path}. Expected: `data_dir` is the folder "
            f"with {', '.join(known.folder for known in TASKS.values())} in it, each with "
            "train.tsv and its dev and test files."
        )
    lines = _lines(path)
    is_test = path.stem.startswith("test")
    # The first line contains the column names, except in CoLA's train and dev files.
    headed = is_test or task.header is None
    header = (lines.pop(0) if lines else []) if headed else list(task.header)
    names = [*task.sentences, *([] if is_test else [task.label])]
    if not lines:
        received = "a header without rows" if headed and header else "an empty file"
        raise ValueError(
            f"{path} has no samples. Received: {received}. Expected: a line per sample with the "
            f"columns {names}; download GLUE again."
        )
    if not set(names) <= set(header):
        raise ValueError(
            f"{path}, line 1, is not the header of this task. Received: columns {_cut(header)}. "
            f"Expected: {names} among them."
        )
    columns = [header.index(name) for name in names]
    rows = []
    for number, line in enumerate(lines, start=1 + headed):
        row = [line[column] for column in columns if column < len(line)]
        if len(row) == len(names) and (is_test or row[-1] in task.classes):
            rows.append(row)
        elif is_test or not task.short_rows:
            raise ValueError(
                f"{path}, line {number}, is not a row of this task. Received: {_cut(line)}. "
                f"Expected: tab-separated columns {header}, and a label of {task.classes}."
            )
    if not rows:
        raise ValueError(
            f"{path} has no complete row. Received: {len(lines)} lines after the header, line 2: "
            f"{_cut(lines[0])}. Expected: tab-separated columns {header}, and a label of "
            f"{task.classes}."
        )
    if len(rows) < len(lines):
        logging.info("%s: %d incomplete rows skipped.", path, len(lines) - len(rows))
    labels = [-1 if is_test else task.classes.index(row[-1]) for row in rows]
    return Examples(
        [row[0] for row in rows],
        [row[1] for row in rows] if len(task.sentences) == 2 else None,
        np.array(labels, np.int32),
    )


def _lines(path: Path) -> list[list[str]]:
    """The lines of a file, each split at its tabs."""
    content = path.read_bytes()
    expected = "Expected: text in UTF-8; download GLUE again."
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if content.startswith(mark):
            raise ValueError(f"{path}, line 1, is not UTF-8. Received: UTF-16. {expected}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}, is not UTF-8. Received: {error.reason} (byte "
            f"0x{error.object[error.start]:02x}). {expected}"
        ) from error
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{path}, line {number}, contains a null character. Received: UTF-16 without a mark, "
            f"or a damaged file. {expected}"
        )
    # Quotation marks in sentences are unpaired; they quote nothing.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        return list(reader)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}, is not a row. Received: {error}. Expected: "
            "tab-separated columns of usual length; download GLUE again."
        ) from error


def _cut(columns: list[str]) -> list[str]:
    """Columns as an error shows them."""
    return [column if len(column) < 80 else f"{column[:77]}..." for column in columns[:20]]


def _from_tfds(task: str, split: str) -> Examples:
    rows = tfds.rows(f"glue/{task}", split.replace("dev", "validation"))
    sentences = [[row[field].decode() for row in rows] for field in TASKS[task].fields]
    return Examples(
        sentences[0],
        sentences[1] if len(sentences) == 2 else None,
        np.array([row["label"] for row in rows], np.int32),
    )
