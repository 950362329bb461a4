import json
import random
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_lstsd import LSTSD, Distillation, MeanTeacher
from keras_lstsd.label_quality import label_confidence
from recipes import runs
from recipes.machine import environment
from recipes.methods import METHODS

SETTINGS = {"epochs": 3}
RUNS = [{"method": method, "seed": seed} for seed in range(3) for method in ("vanilla", "lstsd")]


def results(tmp_path):
    return runs.Results(tmp_path / "a" / "results.json", SETTINGS)


def score(run, folder=None, callbacks=()):
    return {"score": 10 * (run["method"] == "lstsd") + run["seed"] ** 2}


def test_finished_runs_are_kept_and_not_repeated(tmp_path, capsys):
    done = []

    def interrupted(run, folder, callbacks):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run)
        return score(run)

    assert not runs.train_all(RUNS, results(tmp_path), interrupted)
    assert len(json.loads((tmp_path / "a/results.json").read_text())["runs"]) == 3
    again = []
    stored = results(tmp_path)
    assert runs.train_all(RUNS, stored, lambda run, *_: again.append(run) or score(run))
    assert done + again == RUNS
    assert f"3 of {len(RUNS)} runs are finished already." in capsys.readouterr().err
    assert stored.scores(method="lstsd") == {0: 10, 1: 11, 2: 14}


def test_each_run_starts_from_its_seed(tmp_path):
    drawn = []
    runs.train_all(
        RUNS, results(tmp_path), lambda run, *_: drawn.append(random.random()) or score(run)
    )
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_results_of_other_settings_are_rejected(tmp_path):
    results(tmp_path)
    with pytest.raises(SystemExit, match="another --output_dir"):
        runs.Results(tmp_path / "a/results.json", {"epochs": 4})


def test_a_run_with_an_additional_setting_is_another_run(tmp_path):
    stored = results(tmp_path)
    run = {"method": "lstsd", "seed": 0}
    stored.add(run | {"mini_generation_epochs": 40}, {"score": 1.0})
    assert not stored.has(run)
    stored.add(run, {"score": 2.0})
    assert stored.scores(method="lstsd") == {0: 2.0}
    assert stored.scores(method="lstsd", mini_generation_epochs=40) == {0: 1.0}


def test_runs_that_another_process_adds_are_kept(tmp_path):
    one, other = results(tmp_path), results(tmp_path)
    one.add(RUNS[0], {"score": 1.0})
    other.add(RUNS[1], {"score": 2.0})
    assert [stored["run"] for stored in results(tmp_path).runs] == RUNS[:2]


def test_a_run_is_stored_with_its_environment(tmp_path):
    stored = results(tmp_path)
    stored.add(RUNS[0], {"score": 1.0})
    assert stored.runs == [{"run": RUNS[0], "score": 1.0, "environment": environment()}]


def test_a_backup_is_kept_until_the_result_is_stored(tmp_path):
    stored = results(tmp_path)
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    x, y = np.zeros((4, 2), "float32"), np.zeros(4)

    def train(fails):
        model = Distillation(student)
        model.compile("sgd", "sparse_categorical_crossentropy")
        epochs = model.fit(x, y, epochs=2, verbose=0, callbacks=[stored.backup(RUNS[0])]).epoch
        if fails:
            raise OSError("No space left")
        return {"score": len(epochs)}

    with pytest.raises(OSError, match="No space"):
        runs.train_all(RUNS[:1], stored, lambda *_: train(True))
    runs.train_all(RUNS[:1], stored, lambda *_: train(False))
    assert stored.scores(method="vanilla") == {0: 0}
    assert list((tmp_path / "a/backups").iterdir()) == []


def test_a_history_continues_where_the_backup_does(tmp_path):
    path = tmp_path / "history.csv"
    logs = [{"loss": 3.0}, {"loss": 2.0, "val_loss": 5.0}, {"loss": 1.0}]
    for epochs in ([0, 1, 2], [1, 2]):
        history = runs.History(path)
        history.on_train_begin()
        for epoch in epochs:
            history.on_epoch_end(epoch, logs[epoch])
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,3.0,", "1,2.0,5.0", "2,1.0,"]
    read = runs.History.read(path)
    np.testing.assert_array_equal(read["val_loss"], [np.nan, 5.0, np.nan])
    assert read["loss"] == [3.0, 2.0, 1.0]


def test_runs_have_a_folder_name_and_a_description():
    run = {"network": "resnet20", "method": "lstsd", "seed": 3, "mini_generation_epochs": 4}
    assert runs.run_name(run) == "resnet20-lstsd-3-4"
    assert runs.description(run) == "resnet20, lstsd, seed 3, mini_generation_epochs 4"


def test_methods_get_their_learning_rate_and_loss():
    def compiled(name, epochs):
        method = METHODS[name]
        student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model = method.wrap(student, 10, **method.settings(epochs))
        return runs.compiled(
            model, method, keras.optimizers.SGD, 0.1, num_samples=10, epochs=epochs, batch_size=4
        )

    plain = compiled("vanilla", 20)
    assert float(plain.optimizer.learning_rate.numpy()) == pytest.approx(0.1)
    cyclic = compiled("snapshot_ensemble", 20)
    assert cyclic.mini_generation_epochs == 4
    # 5 cycles of 4 epochs of 3 steps: the lowest rate is at the end of each.
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


def test_a_teacher_that_is_trained_has_its_own_rate():
    layers = keras.layers.Dense(4), keras.layers.Dense(3)
    network = keras.Sequential([keras.Input((2,)), *layers])
    sizes = {"num_samples": 4, "epochs": 1, "batch_size": 2}

    def compiled(name, rate, **arguments):
        model = METHODS[name].wrap(network, 4, **arguments)
        teacher = arguments.get("teacher")
        return runs.compiled(
            model, METHODS[name], keras.optimizers.SGD, rate, **sizes, teacher=teacher
        )

    teacher = runs.teacher_of(
        METHODS["prokt"], Path("unused"), 0, lambda: compiled("vanilla", 0.5), None
    )
    model = compiled("prokt", 0.25, teacher=teacher)
    rates = [float(it.learning_rate) for it in (model.optimizer, model.teacher.optimizer)]
    assert rates == [0.25, 0.5]


def test_detection_is_measured_against_the_wrong_labels(tmp_path):
    draw = np.random.default_rng(0)
    x, labels = draw.normal(size=(12, 3)).astype("float32"), draw.integers(0, 3, 12)
    wrong = np.arange(12) % 3 == 0
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model = LSTSD(student, 12)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss)
    callbacks = runs.dynamics(model, labels, tmp_path)
    model.fit(x, labels, epochs=3, verbose=0, callbacks=callbacks)
    logits = model.predict(x, verbose=0)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rankings = {
        "loss after training": p[np.arange(12), labels],
        "tables": label_confidence(model, labels),
        "all epochs": callbacks[0].confidence,
        "margin, all epochs": callbacks[0].margin,
    }
    found = runs.detection(model, x, labels, wrong, tmp_path)
    assert found.keys() == rankings.keys()
    for ranking, confidence in rankings.items():
        pairs = [a < b for a in confidence[wrong] for b in confidence[~wrong]]
        first = np.argsort(confidence)[: wrong.sum()]
        assert found[ranking]["auc"] == pytest.approx(100 * np.mean(pairs))
        assert found[ranking]["precision"] == pytest.approx(100 * wrong[first].mean())


def test_methods_without_a_memory_per_sample_have_no_dynamics(tmp_path):
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    assert runs.dynamics(MeanTeacher(student), np.zeros(12, int), tmp_path) == []
