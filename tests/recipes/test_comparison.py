import json
import random

import keras
import numpy as np
import pytest

from keras_lstsd import LSTSD, SelfDistillation
from keras_lstsd.dynamics import label_confidence
from keras_lstsd.methods.registry import METHODS
from recipes import comparison

SETTINGS = {"epochs": 3}
RUNS = [{"method": method, "seed": seed} for seed in range(3) for method in ("vanilla", "lstsd")]


def results(tmp_path):
    return comparison.Results(tmp_path / "a" / "results.json", SETTINGS)


def score(run, folder=None, callbacks=()):
    return {"score": 10 * (run["method"] == "lstsd") + run["seed"] ** 2}


def test_finished_runs_are_kept_and_not_repeated(tmp_path):
    done = []

    def stopped_by_a_person(run, folder, callbacks):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run)
        return score(run)

    assert not comparison.train_all(RUNS, results(tmp_path), stopped_by_a_person, "test")
    assert len(json.loads((tmp_path / "a/results.json").read_text())["runs"]) == 3
    again = []
    kept = results(tmp_path)
    assert comparison.train_all(RUNS, kept, lambda run, *_: again.append(run) or score(run), "test")
    assert done + again == RUNS
    assert kept.scores(method="lstsd") == {0: 10, 1: 11, 2: 14}


def test_each_run_starts_from_its_seed(tmp_path):
    drawn = []
    comparison.train_all(
        RUNS, results(tmp_path), lambda run, *_: drawn.append(random.random()) or score(run), "test"
    )
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_results_of_other_settings_are_not_mixed(tmp_path):
    results(tmp_path)
    with pytest.raises(SystemExit, match="another --output_dir"):
        comparison.Results(tmp_path / "a/results.json", {"epochs": 4})


def test_a_run_with_a_setting_of_its_own_is_another_one(tmp_path):
    kept = results(tmp_path)
    run = {"method": "lstsd", "seed": 0}
    kept.add(run | {"mini_generation_epochs": 40}, {"score": 1.0})
    assert not kept.has(run)
    kept.add(run, {"score": 2.0})
    assert kept.scores(method="lstsd") == {0: 2.0}
    assert kept.scores(method="lstsd", mini_generation_epochs=40) == {0: 1.0}


def test_what_another_process_adds_is_kept(tmp_path):
    one, other = results(tmp_path), results(tmp_path)
    one.add(RUNS[0], {"score": 1.0})
    other.add(RUNS[1], {"score": 2.0})
    assert [kept["run"] for kept in results(tmp_path).runs] == RUNS[:2]


def test_a_backup_is_kept_until_the_result_is(tmp_path):
    kept = results(tmp_path)
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    x, y = np.zeros((4, 2), "float32"), np.zeros(4)

    def train(fails):
        model = SelfDistillation(student, 4)
        model.compile("sgd", "sparse_categorical_crossentropy")
        epochs = model.fit(x, y, epochs=2, verbose=0, callbacks=[kept.backup(RUNS[0])]).epoch
        if fails:
            raise OSError("No space left")
        return {"score": len(epochs)}

    with pytest.raises(OSError, match="No space"):
        comparison.train_all(RUNS[:1], kept, lambda *_: train(True), "test")
    comparison.train_all(RUNS[:1], kept, lambda *_: train(False), "test")
    assert kept.scores(method="vanilla") == {0: 0}
    assert list((tmp_path / "a/backups").iterdir()) == []


def test_a_history_goes_on_where_the_backup_does(tmp_path):
    path = tmp_path / "history.csv"
    logs = [{"loss": 3.0}, {"loss": 2.0, "val_loss": 5.0}, {"loss": 1.0}]
    for epochs in ([0, 1, 2], [1, 2]):
        history = comparison.History(path)
        history.on_train_begin()
        for epoch in epochs:
            history.on_epoch_end(epoch, logs[epoch])
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,3.0,", "1,2.0,5.0", "2,1.0,"]


def test_the_table_shows_spread_difference_and_the_papers_number(tmp_path):
    kept = results(tmp_path)
    comparison.train_all(RUNS, kept, score, "test")
    table = comparison.method_table(kept, ["vanilla", "lstsd"], {"vanilla": 1.5})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[2] == ["vanilla", "3", "1.67 +- 2.08", "", "1.50"]
    assert rows[3] == ["lstsd", "3", "11.67 +- 2.08", "+10.00 +- 0.00", ""]


def test_names_of_a_flag():
    assert comparison.names("task", "all", ["a", "b"]) == ["a", "b"]
    assert comparison.names("task", "b", ["a", "b"]) == ["b"]
    with pytest.raises(SystemExit, match="No such task.*c.*a, b"):
        comparison.names("task", "a,c", ["a", "b"])


def test_methods_get_their_learning_rate_and_loss():
    def compiled(name, epochs):
        method = METHODS[name]
        student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model = method.cls(student, num_samples=10, **method.settings(epochs))
        return comparison.compiled(model, method, keras.optimizers.SGD, 0.1, epochs, batch_size=4)

    plain = compiled("vanilla", 20)
    assert float(plain.optimizer.learning_rate.numpy()) == pytest.approx(0.1)
    cyclic = compiled("snapshot_ensemble", 20)
    assert cyclic.mini_generation_epochs == 4
    # 5 cycles of 4 epochs of 3 steps: the floor at the end of each.
    rate = cyclic.optimizer._learning_rate
    found = [float(rate(step)) for step in range(60)]
    assert [step for step, value in enumerate(found) if value < 1e-6] == [11, 23, 35, 47, 59]
    assert compiled("dups", 160).mini_generation_epochs == 16
    assert compiled("lstsd", 20).temperature == 1.0
    smooth = compiled("label_smoothing", 20)
    y, logits = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0]])
    loss = float(smooth.compute_loss(None, y, logits, training=False))
    log_p = logits - np.log(np.exp(logits).sum())
    assert loss == pytest.approx(-(0.95 * log_p[0, 0] + 0.05 * log_p[0, 1]), rel=1e-5)


def test_detection_is_measured_against_the_labels_made_wrong(tmp_path):
    draw = np.random.default_rng(0)
    x, labels = draw.normal(size=(12, 3)).astype("float32"), draw.integers(0, 3, 12)
    wrong = np.arange(12) % 3 == 0
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model = LSTSD(student, 12)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss)
    followed = comparison.dynamics(model, labels, tmp_path)
    model.fit(x, labels, epochs=3, verbose=0, callbacks=followed)
    logits = model.predict(x, verbose=0)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rankings = {
        "loss after training": p[np.arange(12), labels],
        "tables": label_confidence(model, labels),
        "all epochs": followed[0].confidence,
    }
    found = comparison.detection(model, x, labels, wrong, tmp_path)
    assert found.keys() == rankings.keys()
    for ranking, confidence in rankings.items():
        pairs = [a < b for a in confidence[wrong] for b in confidence[~wrong]]
        first = np.argsort(confidence)[: wrong.sum()]
        assert found[ranking]["auc"] == pytest.approx(100 * np.mean(pairs))
        assert found[ranking]["precision"] == pytest.approx(100 * wrong[first].mean())


def test_rankings_are_compared_with_the_first_methods_loss(tmp_path):
    kept = results(tmp_path)
    for seed, (plain, tables) in enumerate([(80.0, 90.0), (82.0, 96.0)]):
        for method, ranking, auc in (
            ("vanilla", "loss after training", plain),
            ("lstsd", "tables", tables),
        ):
            figures = {ranking: {"auc": auc, "precision": auc - 10}}
            kept.add({"method": method, "seed": seed}, {"score": 1.0, "detection": figures})
    lines = comparison.detection_table(kept, ["vanilla", "lstsd"]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[:2] for row in cells] == [["vanilla", "loss after training"], ["lstsd", "tables"]]
    assert cells[1][2:] == ["93.00 +- 4.24", "+12.00 +- 2.00", "83.00 +- 4.24", "+12.00 +- 2.00"]
