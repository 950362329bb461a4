"""Which labels are wrong, and which they should be: arrays in, columns out."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lstsd import columns, label_quality
from keras_lstsd.losses import SMALLEST

if TYPE_CHECKING:
    # The models import the callbacks, which import this module.
    from keras_lstsd.distillation import Distillation


def find_label_issues(predictions: "Distillation | np.ndarray", y: Any) -> dict[str, np.ndarray]:
    """Finds labels that are probably wrong, and suggests others.

    `p_e` are the predictions of epoch e = 1..E. Two means over the epochs decide:

    - `b_i = 1/E sum_e p_e(x_i)`, the mean prediction;
    - `m_i = 1/E sum_e (ln p_e(y_i) - max_(c != y_i) ln p_e(c))`, the mean margin of label y_i.

    The columns are:

    - `label_score_i = 1 / (1 + exp(-m_i))`, in [0, 1], low for a doubtful label;
    - `is_label_issue_i`: `m_i < 0`, another class led in the mean;
    - `predicted_label_i`: `argmax_(c != y_i) b_i(c)` for an issue, and y_i otherwise;
    - `predicted_probability_i`: b_i of that label.

    The number of issues estimates how many labels are wrong; no threshold is chosen.
    `TrainingDynamics.find_label_issues` has the predictions of all epochs, and finds more than
    the tables of a trained model, which have the last ones.

    Args:
        predictions: a trained method with tables of samples: then E is 1, and p the mean of its
            tables; or probabilities `[samples, classes]`, or `[epochs, samples, classes]`. Those
            of a model that did not train on the sample are best (cross-validation); those of one
            that fits its training set find little. A row of NaN is unknown.
        y: the labels, int `[samples]` or one-hot `[samples, classes]`, in the order of the
            sample indices; for a model also `[samples, ...]`, of tokens, pixels or several labels.

    Returns:
        Columns `[samples]` by name, for `pandas.DataFrame`: `sample_index`, and with several
        positions of a sample `position`, then `is_label_issue`, `label_score`, `given_label`,
        `predicted_label` and `predicted_probability`. A sample without a label or prediction has
        no issue: its score is NaN, and its `predicted_label` -1.

    Raises:
        ValueError: for predictions that are no probabilities of two classes or more, a model
            without tables, and labels that do not fit.

    Example:
        >>> issues = keras_lstsd.find_label_issues(model, y_train)
        >>> keep = ~issues["is_label_issue"]
        >>> x_clean, y_clean = x_train[keep], y_train[keep]     # train again on these

    Source: mean margins, Pleiss et al. 2020 ("AUM"). The names of the columns are those of
    cleanlab (Northcutt et al. 2021).

    Differences from the literature: confident learning takes a threshold per class from
    out-of-sample predictions. AUM takes one from samples with an extra class. Here it is 0.
    """
    if hasattr(predictions, "sample_tables"):
        believed, labels = label_quality.labelled_beliefs(predictions, y)
        margins = label_quality.margins(_log(believed), labels)
        return issues_of(margins, believed, labels, predictions.positions.count)
    epochs = _checked(predictions)
    labels = label_quality.class_labels(y, epochs.shape[1], epochs.shape[2])
    margins = [label_quality.margins(_log(rows), labels) for rows in epochs]
    return issues_of(label_quality.known_mean(margins), label_quality.known_mean(epochs), labels)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, SMALLEST))


def _checked(predictions: Any) -> np.ndarray:
    """Probabilities, `[epochs, samples, classes]`."""
    values = np.asarray(predictions)
    if values.dtype.kind != "f":
        fault = f"{type(predictions).__name__} of dtype {values.dtype}"
    elif values.ndim not in (2, 3) or values.shape[-1] < 2:
        fault = f"shape {values.shape}"
    elif (values < 0).any() or (np.abs(values.sum(-1) - 1) > 0.01).any():
        fault = "rows that do not sum to 1, or have negative entries"
    else:
        return (values if values.ndim == 3 else values[None]).astype("float64")
    raise ValueError(
        f"The predictions are not probabilities. Received: {fault}. Expected: a trained method "
        "with tables of samples, or floats [samples, classes] or [epochs, samples, classes] that "
        "sum to 1, as `keras.ops.softmax(logits)`; of one unit `np.stack([1 - p, p], axis=-1)`."
    )


def issues_of(
    margins: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, positions: int = 1
) -> dict[str, np.ndarray]:
    """The columns of `find_label_issues`, from mean margins, mean predictions and labels."""
    rows = np.arange(len(labels))
    issue = margins < 0
    other = label_quality.best_others(probabilities, labels)
    predicted = np.where(issue, other, np.where(np.isnan(margins), -1, labels))
    with np.errstate(over="ignore"):
        scores = 1 / (1 + np.exp(-margins.astype("float64")))
    found = {"sample_index": rows // positions}
    if positions > 1:
        found["position"] = rows % positions
    return found | {
        "is_label_issue": issue,
        "label_score": scores,
        "given_label": labels,
        "predicted_label": predicted,
        "predicted_probability": label_quality.of_labels(probabilities, predicted),
    }


def issues_by_class(issues: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How many labels of each class are issues: an estimate of how many are wrong.

    Args:
        issues: what `find_label_issues` returned.

    Returns:
        Columns `[classes]`, the largest share first: `given_label`, `labels` (samples with that
        label), `issues` and `share`.

    Example:
        >>> issues = keras_lstsd.find_label_issues(model, y_train)
        >>> keras_lstsd.label_issues.issues_by_class(issues)["share"]     # [0.31, 0.2, ...]
    """
    known = ~np.isnan(issues["label_score"])
    given, issue = (issues[name][known] for name in ("given_label", "is_label_issue"))
    classes, place = np.unique(given, return_inverse=True)
    labels = np.bincount(place, minlength=len(classes))
    wrong = np.bincount(place, issue, minlength=len(classes)).astype("int64")
    share = wrong / labels
    order = np.argsort(-share, kind="stable")
    found = {"given_label": classes, "labels": labels, "issues": wrong, "share": share}
    return {name: column[order] for name, column in found.items()}


def confused_classes(issues: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which classes are taken for which, and how often.

    Args:
        issues: what `find_label_issues` returned.

    Returns:
        Columns `[pairs]`, the most frequent pair first: `given_label`, `predicted_label` and
        `issues`.

    Example:
        >>> issues = keras_lstsd.find_label_issues(model, y_train)
        >>> pairs = keras_lstsd.label_issues.confused_classes(issues)
        >>> list(zip(*pairs.values()))     # [(3, 5, 41), (7, 1, 28), ...]
    """
    issue = issues["is_label_issue"]
    both = np.stack([issues["given_label"][issue], issues["predicted_label"][issue]], axis=1)
    pairs, counts = np.unique(both, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    given, predicted = pairs[order].T
    return {"given_label": given, "predicted_label": predicted, "issues": counts[order]}


def write_issues(
    path: str | Path,
    issues: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes the issues as a CSV file for people who correct labels.

    A row for each issue, the most suspicious first, and an empty column `corrected_label` at the
    end. People write the correct class there, -1 for a sample that has none, and nothing where
    the given label is right. `corrected_labels` reads the file back.

    Args:
        path: the file, which ends in .csv.
        issues: what `find_label_issues` returned, also with more columns.
        class_names: the names of the classes, to write in place of their numbers.

    Raises:
        ValueError: for a file name with another ending, and for a class without a name.

    Example:
        >>> issues = keras_lstsd.find_label_issues(model, y_train)
        >>> names = [f"digit {number}" for number in range(10)]
        >>> keras_lstsd.label_issues.write_issues("issues.csv", issues, names)
    """
    path = Path(path)
    if path.suffix != ".csv":
        raise ValueError(
            f"The file name has no known ending. Received: {str(path)!r}. Expected: a name that "
            "ends in .csv."
        )
    issues = {name: np.asarray(column) for name, column in issues.items()}
    highest = max(issues["given_label"].max(initial=-1), issues["predicted_label"].max(initial=-1))
    if class_names is not None and highest >= len(class_names):
        raise ValueError(
            f"A class has no name. Received: {len(class_names)} names, and class {highest}. "
            "Expected: a name for each class, in the order of their numbers."
        )
    order = label_quality.ranked(issues["label_score"])
    rows = order[issues["is_label_issue"][order]]
    written = {name: column[rows] for name, column in issues.items() if name != "is_label_issue"}
    if class_names is not None:
        for name in ("given_label", "predicted_label"):
            written[name] = np.asarray(class_names, dtype=object)[written[name]]
    written["corrected_label"] = np.full(len(rows), "")
    columns.write(path, written)


def corrected_labels(
    path: str | Path, y: np.ndarray, class_names: Sequence[str] | None = None
) -> np.ndarray:
    """The labels with the corrections of a file that `write_issues` wrote.

    Args:
        path: the CSV file. Spreadsheets may have changed its separators to semicolons or tabs.
        y: the labels of the training, int `[samples]`, or `[samples, ...]` with several positions.
        class_names: as for `write_issues`.

    Returns:
        A copy of y with the corrected labels, int64; -1 where there is none.

    Raises:
        ValueError: for a file of other columns or not in UTF-8, and for a line with a sample that
            y does not have, or a class that neither y nor `class_names` has.

    Example:
        >>> issues = keras_lstsd.find_label_issues(model, y_train)
        >>> keras_lstsd.label_issues.write_issues("issues.csv", issues)
        >>> y_train = keras_lstsd.label_issues.corrected_labels("issues.csv", y_train)
    """
    labels, path = np.asarray(y), Path(path)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels must be classes. Received: dtype {labels.dtype}, shape {labels.shape}. "
            "Expected: integers [samples]; of one-hot rows `y.argmax(-1)`."
        )
    labels = labels.astype("int64")
    rows = labels.reshape(len(labels), -1)
    if class_names is None:
        numbers = {str(number): number for number in range(labels.max(initial=-1) + 1)}
    else:
        numbers = {str(name).strip(): number for number, name in enumerate(class_names)}
    numbers = {"-1": -1} | numbers
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8. Received: {error}. Expected: to save it as CSV UTF-8."
        ) from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
    expected = {"sample_index", "corrected_label"} | ({"position"} if labels.ndim > 1 else set())
    found = set(reader.fieldnames or ())
    if not expected <= found or ("position" in found) != (labels.ndim > 1):
        raise ValueError(
            f"{path} has no corrections of labels of shape {labels.shape}. Received: the columns "
            f"{reader.fieldnames}. Expected: {sorted(expected)}, as `write_issues` writes them."
        )
    for line in reader:
        written = (line["corrected_label"] or "").strip()
        if written:
            row, column = _number(line["sample_index"]), _number(line.get("position", "0"))
            # A spreadsheet writes numbers of a column with empty cells as 3.0.
            label = numbers.get(written, numbers.get(written.removesuffix(".0")))
            inside = 0 <= row < len(rows) and 0 <= column < rows.shape[1]
            if not inside or label is None:
                raise ValueError(
                    f"{path} has a correction that cannot be read, in line {reader.line_num}. "
                    f"Received: sample_index={line['sample_index']!r}, "
                    f"corrected_label={written!r}. Expected: a place in labels of shape "
                    f"{labels.shape}, and one of {list(numbers)[:20]}; -1 for no label."
                )
            rows[row, column] = label
    return labels


def _number(text: str | None) -> int:
    """A whole number; -1 for anything else."""
    try:
        return int(text or "")
    except ValueError:
        return -1
