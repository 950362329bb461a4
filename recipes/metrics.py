"""Metrics of GLUE's tasks, and files of predictions for its server."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_lstsd.data import glue
from keras_lstsd.label_quality import ranked


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The share of correct predictions.

    Args:
        labels: int `[rows]`.
        predictions: int `[rows]`.

    Example:
        >>> recipes.metrics.accuracy(np.array([0, 1]), np.array([0, 0]))
        # 0.5
    """
    return float(np.mean(labels == predictions))


def top_accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """The share of labels that fewer than k other classes exceed.

    Args:
        labels: int `[rows]`.
        probabilities: float `[rows, classes]`.
        k: how many guesses count.

    Example:
        >>> recipes.metrics.top_accuracy(np.array([1, 2]), np.array([[0.5, 0.3, 0.2]] * 2), 2)
        # 0.5
    """
    given = probabilities[np.arange(len(labels)), labels]
    return float(np.mean((probabilities > given[:, None]).sum(-1) < k))


def ranking(scores: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """How well scores rank wrong labels first, in %.

    Args:
        scores: of the labels, float `[samples]`, low for a suspicious one.
        wrong: which labels are wrong, bool `[samples]`.

    Returns:
        `"auc"`, the ROC AUC, and `"precision"`, the share of wrong labels among the first n, where
        n labels are wrong.

    Example:
        >>> recipes.metrics.ranking(np.array([0.9, 0.1]), np.array([False, True]))
        # {"auc": 100.0, "precision": 100.0}
    """
    from sklearn.metrics import roc_auc_score

    return {
        "auc": 100 * float(roc_auc_score(wrong, -scores)),
        "precision": 100 * float(wrong[ranked(scores)][: wrong.sum()].mean()),
    }


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The F1 score of class 1: `2 TP / (2 TP + FP + FN)`; 0 if no label or prediction is 1.

    Args:
        labels: int `[rows]`, 0 or 1.
        predictions: int `[rows]`, 0 or 1.

    Example:
        >>> recipes.metrics.f1(np.array([0, 1]), np.array([1, 1]))
        # 0.6666666666666666
    """
    positive = np.sum(labels == 1) + np.sum(predictions == 1)
    return 2 * float(np.sum((labels == 1) & (predictions == 1))) / float(max(positive, 1))


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The Matthews correlation of two classes; 0 if a factor of the denominator is 0.

    `(TP TN - FP FN) / sqrt((TP+FP) (TP+FN) (TN+FP) (TN+FN))`

    Args:
        labels: int `[rows]`, 0 or 1.
        predictions: int `[rows]`, 0 or 1.

    Example:
        >>> recipes.metrics.matthews(np.array([0, 1]), np.array([0, 1]))
        # 1.0
    """
    # For two classes it equals Pearson's correlation.
    if np.std(labels) == 0 or np.std(predictions) == 0:
        return 0.0
    return float(np.corrcoef(labels, predictions)[0, 1])


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> dict[str, float]:
    """Negative log-likelihood and expected calibration error of probabilities.

    `nll = -1/n sum_i ln p_i(y_i)` in nats. With the samples in equal bins of their largest
    probability, `ece = sum_b n_b / n |accuracy_b - mean largest probability_b|`, in %.

    Args:
        labels: int `[rows]`.
        probabilities: float `[rows, classes]`.
        bins: how many bins.

    Example:
        >>> recipes.metrics.calibration(np.array([0]), np.array([[0.5, 0.5]]))
        # {"nll": 0.6931471805599453, "ece": 50.0}

    Source: Guo et al. 2017, Eq. 2 and 3.
    """
    given = probabilities[np.arange(len(labels)), labels]
    nll = -np.mean(np.log(np.maximum(given.astype("float64"), np.finfo("float32").tiny)))
    largest, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    # A network that diverged puts out NaN, and both measures are NaN.
    places = np.minimum(np.nan_to_num(largest * bins).astype(int), bins - 1)
    gaps = np.bincount(places, correct - largest.astype("float64"), minlength=bins)
    return {"nll": float(nll), "ece": 100 * float(np.abs(gaps).sum() / len(labels))}


def measures(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The accuracy in % as `"score"`, and `calibration`; the arguments are those of it."""
    score = 100 * accuracy(labels, probabilities.argmax(-1))
    return {"score": score} | calibration(labels, probabilities)


METRICS = {"accuracy": accuracy, "f1": f1, "matthews": matthews}
_OF_TASKS = {
    "cola": ("matthews", "accuracy"),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
}


def metric_names(task: str) -> tuple[str, ...]:
    """Names in `METRICS` for a task; the first is the one in the tables of Jiang et al. 2020.

    Matthews correlation and accuracy for CoLA, accuracy and F1 for MRPC and QQP, accuracy for the
    other tasks.

    Raises:
        ValueError: for an unknown task.

    Example:
        >>> recipes.metrics.metric_names("mrpc")
        # ("accuracy", "f1")
    """
    glue.check_split(task, "train")
    return _OF_TASKS.get(task, ("accuracy",))


def scores(task: str, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The metrics of a task in %, in the order of `metric_names`.

    Args:
        task: name of the task.
        labels: int `[rows]`.
        predictions: classes, int `[rows]`.

    Raises:
        ValueError: for an unknown task.

    Example:
        >>> recipes.metrics.scores("rte", np.array([0, 1]), np.array([0, 0]))
        # {"accuracy": 50.0}
    """
    return {name: 100 * METRICS[name](labels, predictions) for name in metric_names(task)}


def write_predictions(
    folder: str | Path, task: str, split: str, predictions: Sequence[int]
) -> Path:
    """Writes the predictions of a split in the format of GLUE's server.

    The file is `RTE.tsv` and so on (`MNLI-m.tsv` and `MNLI-mm.tsv` for MNLI). Its first line is
    `index prediction`; then each line contains the row number and the label as in the task's
    files.

    Args:
        folder: folder of the file; it is created.
        task: name of the task.
        split: the predicted split, such as `"test"`.
        predictions: classes in the order of the rows, int `[rows]`.

    Returns:
        The path of the file.

    Raises:
        ValueError: for an unknown task or split.

    Example:
        >>> recipes.metrics.write_predictions("submission", "rte", "test", [0, 1, 1])
    """
    glue.check_split(task, split)
    kind = {"matched": "-m", "mismatched": "-mm"}.get(split.partition("_")[2], "")
    path = Path(folder) / f"{glue.TASKS[task].folder}{kind}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{row}\t{glue.TASKS[task].classes[label]}" for row, label in enumerate(predictions)]
    path.write_text("\n".join(["index\tprediction", *lines]) + "\n")
    return path
