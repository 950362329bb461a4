import numpy as np
import pytest

from keras_lstsd.data import glue
from recipes import metrics


def test_scores_are_in_percent_and_the_metric_of_the_paper_is_first():
    labels, predictions = np.array([1, 1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 0, 1])
    # TP 2, TN 1, FP 1, FN 2.
    accuracy, f1, matthews = 100 * 3 / 6, 100 * 4 / 7, 100 * (2 - 2) / 72**0.5
    assert metrics.scores("rte", labels, predictions) == pytest.approx({"accuracy": accuracy})
    for task in ("mrpc", "qqp"):
        found = metrics.scores(task, labels, predictions)
        assert found == pytest.approx({"accuracy": accuracy, "f1": f1})
        assert next(iter(found)) == "accuracy"
    found = metrics.scores("cola", labels, predictions)
    assert found == pytest.approx({"matthews": matthews, "accuracy": accuracy})
    assert next(iter(found)) == "matthews"
    # TP 3, TN 2, FP 0, FN 1.
    found = metrics.scores("cola", labels, np.array([1, 1, 1, 0, 0, 0]))
    assert found["matthews"] == pytest.approx(100 * 6 / 72**0.5)
    assert metrics.scores("cola", labels, np.ones(6))["matthews"] == 0
    assert metrics.scores("mrpc", np.zeros(6), np.zeros(6))["f1"] == 0


@pytest.mark.parametrize(
    ("task", "split", "name", "predictions", "lines"),
    [
        ("rte", "test", "RTE.tsv", [1, 0], ["0\tnot_entailment", "1\tentailment"]),
        ("cola", "test", "CoLA.tsv", np.array([1, 0]), ["0\t1", "1\t0"]),
        ("mnli", "test_matched", "MNLI-m.tsv", [2], ["0\tcontradiction"]),
        ("mnli", "test_mismatched", "MNLI-mm.tsv", [1], ["0\tneutral"]),
    ],
)
def test_predictions_are_written_in_the_format_of_the_server(
    tmp_path, task, split, name, predictions, lines
):
    path = metrics.write_predictions(tmp_path / "new", task, split, predictions)
    assert path == tmp_path / "new" / name
    assert path.read_text() == "\n".join(["index\tprediction", *lines, ""])


def test_each_task_has_known_metrics():
    for task in glue.TASKS:
        names = metrics.metric_names(task)
        assert set(names) <= set(metrics.METRICS)
        assert "accuracy" in names
    assert metrics.metric_names("cola") == ("matthews", "accuracy")
    assert metrics.metric_names("mrpc") == metrics.metric_names("qqp") == ("accuracy", "f1")


def test_unknown_tasks_and_splits_are_rejected(tmp_path):
    for unknown in (
        lambda: metrics.metric_names("imdb"),
        lambda: metrics.scores("imdb", np.zeros(2), np.zeros(2)),
        lambda: metrics.write_predictions(tmp_path, "imdb", "test", [0]),
    ):
        with pytest.raises(ValueError, match="Received: task='imdb'.*Expected: a task of"):
            unknown()
    with pytest.raises(ValueError, match="split='test'.*'test_matched', 'test_mismatched'"):
        metrics.write_predictions(tmp_path, "mnli", "test", [0])


def test_calibration_compares_confidence_and_accuracy_in_bins():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.85, 0.15], [0.4, 0.6]], "float32")
    labels = np.array([0, 1, 0, 1])
    found = metrics.calibration(labels, p, bins=2)
    # All confidences are in the upper bin: their mean is 0.7875, the accuracy 0.75.
    assert found["ece"] == pytest.approx(3.75)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.2, 0.85, 0.6]).mean())
    # In 10 bins: 0.9 | 0.8 and 0.85 | 0.6.
    expected = (0.1 + abs(0.5 * 2 - 1.65) + 0.4) / 4
    assert metrics.calibration(labels, p, bins=10)["ece"] == pytest.approx(100 * expected)


def test_rankings_are_measured():
    wrong = np.array([True, False, True, False, False])
    # Of six pairs of a wrong and a correct label, five are in order.
    found = metrics.ranking(np.array([0.1, 0.3, 0.4, 0.8, 0.9]), wrong)
    np.testing.assert_allclose([found["auc"], found["precision"]], [100 * 5 / 6, 50])
