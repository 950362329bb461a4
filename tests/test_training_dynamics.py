"""`TrainingDynamics`: a record of each sample over the epochs."""

import keras
import numpy as np
import pytest

import keras_lstsd
from tests.models import wrapped

SAMPLES, CLASSES, EPOCHS = 9, 3, 5
X = np.random.default_rng(0).normal(size=(SAMPLES, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)


class Recorder(keras.callbacks.Callback):
    """The predictions of each epoch's steps for all samples, from the table after the epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(np.exp(self.model.pending.numpy()[0].astype("float64")))


def fresh(cls=keras_lstsd.LSTSD, **arguments):
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(CLASSES, "softmax")])
    model = wrapped(cls, student, SAMPLES, **arguments)
    model.compile(keras.optimizers.SGD(2.0), "sparse_categorical_crossentropy")
    return model


def trained(dynamics, epochs=EPOCHS, **arguments):
    model, recorder = fresh(mini_generation_epochs=2, **arguments), Recorder()
    model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[dynamics, recorder])
    return model, np.stack(recorder.epochs)


def assert_of_formula(dynamics, p, labels=Y):
    """The numbers are those of these epochs' predictions."""
    p = np.stack(p)
    given = p[:, np.arange(SAMPLES), labels]
    rows = np.arange(SAMPLES)
    correct = p.argmax(-1) == labels
    np.testing.assert_array_equal(dynamics.epochs, len(p))
    np.testing.assert_allclose(dynamics.confidence, given.mean(0), rtol=1e-5)
    others = np.where(np.eye(CLASSES)[labels] > 0, 0, p).max(-1)
    margin = np.log(given / others).mean(0)
    np.testing.assert_allclose(dynamics.margin, margin, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(dynamics.suspicious_labels("margin"), np.argsort(margin))
    # With three classes, the label, the best other class and the rest are all of them.
    np.testing.assert_allclose(dynamics.probabilities, p.mean(0), rtol=1e-4, atol=1e-6)
    issues = dynamics.find_label_issues()
    np.testing.assert_array_equal(issues["is_label_issue"], margin < 0)
    np.testing.assert_allclose(issues["label_score"], 1 / (1 + np.exp(-margin)), rtol=1e-4)
    other = np.where(np.eye(CLASSES)[labels] > 0, -1, p.mean(0)).argmax(-1)
    predicted = np.where(margin < 0, other, labels)
    np.testing.assert_array_equal(issues["predicted_label"], predicted)
    np.testing.assert_allclose(
        issues["predicted_probability"], p.mean(0)[rows, predicted], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(dynamics.variability, given.std(0), rtol=1e-3, atol=1e-6)
    forgotten = (correct[:-1] & ~correct[1:]).sum(0)
    np.testing.assert_array_equal(dynamics.forgotten, forgotten)
    np.testing.assert_array_equal(dynamics.suspicious_labels(), np.argsort(given.mean(0)))
    return forgotten


def test_each_number_is_that_of_its_formula():
    dynamics = keras_lstsd.TrainingDynamics(Y)
    _, p = trained(dynamics)
    assert len(p) == EPOCHS
    assert assert_of_formula(dynamics, p).any()  # or the test could not fail


@pytest.mark.parametrize("form", ["one-hot", "soft", "float"])
def test_labels_of_all_forms_are_followed(form):
    labels = {
        "one-hot": np.eye(CLASSES)[Y],
        "soft": 0.9 * np.eye(CLASSES)[Y] + 0.1 / CLASSES,
        "float": Y.astype("float32"),
    }[form]
    dynamics = keras_lstsd.TrainingDynamics(labels)
    _, p = trained(dynamics, epochs=3)
    assert_of_formula(dynamics, p)


def test_labels_of_one_unit_are_those_of_two_classes():
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    model = keras_lstsd.LSTSD(student, num_samples=SAMPLES)
    model.compile("sgd", "binary_crossentropy")
    y = (Y > 0)[:, None].astype("float32")
    dynamics, recorder = keras_lstsd.TrainingDynamics(y), Recorder()
    model.fit(X, y, verbose=0, callbacks=[dynamics, recorder])
    expected = recorder.epochs[0][np.arange(SAMPLES), y[:, 0].astype(int)]
    np.testing.assert_allclose(dynamics.confidence, expected, rtol=1e-6)


def test_a_sample_without_a_label_has_no_numbers():
    dynamics = keras_lstsd.TrainingDynamics(np.where(np.arange(SAMPLES) == 2, -1, Y))
    trained(dynamics, epochs=2)
    without = np.arange(SAMPLES) == 2
    np.testing.assert_array_equal(np.isnan(dynamics.confidence), without)
    np.testing.assert_array_equal(np.isnan(dynamics.variability), without)
    np.testing.assert_array_equal(np.isnan(dynamics.margin), without)
    np.testing.assert_array_equal(dynamics.epochs == 0, without)
    assert dynamics.suspicious_labels()[-1] == 2


def test_a_sample_that_was_never_drawn_has_no_issue_and_comes_last():
    model, dynamics = fresh(), keras_lstsd.TrainingDynamics(Y)
    drawn = np.delete(np.arange(SAMPLES), 5)
    model.fit(
        {"inputs": X[drawn], "sample_index": drawn}, Y[drawn], verbose=0, callbacks=[dynamics]
    )
    never = np.arange(SAMPLES) == 5
    columns = dynamics.columns()
    np.testing.assert_array_equal(np.isnan(dynamics.confidence), never)
    np.testing.assert_array_equal(np.isnan(dynamics.margin), never)
    np.testing.assert_array_equal(columns["predicted_label"] == -1, never)
    np.testing.assert_array_equal(np.isnan(columns["predicted_probability"]), never)
    np.testing.assert_array_equal(np.isnan(columns["label_score"]), never)
    np.testing.assert_array_equal(np.isnan(dynamics.probabilities).all(-1), never)
    np.testing.assert_array_equal(columns["epochs"] == 0, never)
    assert dynamics.suspicious_labels()[-1] == 5


def test_held_out_samples_have_no_predicted_label(tmp_path):
    model, dynamics = fresh(), keras_lstsd.TrainingDynamics(Y)
    model.fit(X, Y, epochs=2, validation_split=0.3, verbose=0, callbacks=[dynamics])
    dynamics.save(tmp_path / "dynamics.csv")
    predicted = keras_lstsd.columns.read(tmp_path / "dynamics.csv")["predicted_label"]
    np.testing.assert_array_equal(predicted >= 0, np.arange(SAMPLES) < 6)


# === Several calls of fit, and weights that are rolled back ===


def test_a_second_fit_continues_the_record():
    model, recorder = fresh(mini_generation_epochs=2), Recorder()
    dynamics = keras_lstsd.TrainingDynamics(Y)
    for epochs in (2, 3):
        model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[dynamics, recorder])
    assert len(recorder.epochs) == 5
    assert_of_formula(dynamics, recorder.epochs)


def test_after_early_stopping_the_epochs_behind_the_best_one_are_dropped():
    model, recorder = fresh(mini_generation_epochs=2), Recorder()
    dynamics = keras_lstsd.TrainingDynamics(Y)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    model.fit(
        X,
        Y,
        batch_size=4,
        epochs=20,
        verbose=0,
        # The opposite of the training labels: the loss gets worse.
        validation_data=(X, (Y + 1) % CLASSES),
        callbacks=[stop, dynamics, recorder],
    )
    best = stop.best_epoch
    assert len(recorder.epochs) == best + 3
    assert model.epoch == best
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[dynamics, recorder])
    kept = recorder.epochs[: best + 1] + recorder.epochs[best + 3 :]
    assert_of_formula(dynamics, kept)


def test_weights_that_the_user_restored_drop_the_epochs_behind_them(tmp_path):
    model, recorder = fresh(mini_generation_epochs=2), Recorder()
    dynamics = keras_lstsd.TrainingDynamics(Y)
    options = {"batch_size": 4, "verbose": 0, "callbacks": [dynamics, recorder]}
    model.fit(X, Y, epochs=2, **options)
    model.save_weights(tmp_path / "a.weights.h5")
    model.fit(X, Y, epochs=2, **options)
    model.load_weights(tmp_path / "a.weights.h5")
    model.fit(X, Y, epochs=1, **options)
    assert_of_formula(dynamics, recorder.epochs[:2] + recorder.epochs[4:])


# === Stored in a file ===


class Fail(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.failed = False

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2 and not self.failed:
            self.failed = True
            raise KeyboardInterrupt


def resumed(folder, *callbacks):
    # Its file is written before the backup: the stop leaves it an epoch ahead.
    dynamics = keras_lstsd.TrainingDynamics(Y, path=folder / "dynamics.npz")
    backup = keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)
    fresh(mini_generation_epochs=2).fit(
        X, Y, batch_size=4, epochs=EPOCHS, verbose=0, callbacks=[dynamics, *callbacks, backup]
    )
    return dynamics


def assert_equal(dynamics, whole):
    """All numbers are the same, bit for bit."""
    expected = whole.columns()
    for name, column in dynamics.columns().items():
        np.testing.assert_array_equal(column, expected[name])
    np.testing.assert_array_equal(dynamics.probabilities, whole.probabilities)


def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(tmp_path):
    whole = keras_lstsd.TrainingDynamics(Y)
    trained(whole)
    with pytest.raises(KeyboardInterrupt):
        resumed(tmp_path, Fail())
    dynamics = resumed(tmp_path)
    assert_equal(dynamics, whole)


def test_a_run_resumed_with_the_same_objects_ends_with_the_same_numbers(tmp_path):
    """The record is in memory only, an epoch ahead of the backup."""
    whole, dynamics = keras_lstsd.TrainingDynamics(Y), keras_lstsd.TrainingDynamics(Y)
    trained(whole)
    model = fresh(mini_generation_epochs=2)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", double_checkpoint=True)
    options = {"batch_size": 4, "epochs": EPOCHS, "verbose": 0}
    callbacks = [dynamics, Fail(), backup]
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=callbacks, **options)
    assert model.fit(X, Y, callbacks=callbacks, **options).epoch == [2, 3, 4]
    assert_equal(dynamics, whole)


def test_another_run_starts_the_stored_file_again(tmp_path):
    path = tmp_path / "dynamics.npz"
    trained(keras_lstsd.TrainingDynamics(Y, path=path))
    again, once = keras_lstsd.TrainingDynamics(Y, path=path), keras_lstsd.TrainingDynamics(Y)
    trained(again, epochs=2)
    trained(once, epochs=2)
    np.testing.assert_array_equal(again.confidence, once.confidence)
    np.testing.assert_array_equal(np.load(path)["epochs"], [0, 1])


def test_a_stored_file_of_other_labels_is_rejected(tmp_path):
    path = tmp_path / "dynamics.npz"
    trained(keras_lstsd.TrainingDynamics(Y, path=path), epochs=1)
    with pytest.raises(ValueError, match=r"dynamics\.npz was stored with other labels.*`path`"):
        trained(keras_lstsd.TrainingDynamics(np.roll(Y, 1), path=path), epochs=1)


def test_a_stored_file_of_an_earlier_version_is_rejected(tmp_path):
    path = tmp_path / "dynamics.npz"
    np.savez(path, labels=Y, epochs=[0], given=np.ones((1, SAMPLES)))
    with pytest.raises(ValueError, match=r"an earlier version.*'given'.*remove the file"):
        trained(keras_lstsd.TrainingDynamics(Y, path=path), epochs=1)


# === Written as a table ===


def test_the_columns_are_saved(tmp_path):
    dynamics = keras_lstsd.TrainingDynamics(Y)
    model, _ = trained(dynamics)
    dynamics.save(tmp_path / "dynamics.csv")
    table, columns = keras_lstsd.columns.read(tmp_path / "dynamics.csv"), dynamics.columns()
    assert list(table) == list(columns)
    for name in ("confidence", "margin", "variability", "forgotten", "epochs"):
        np.testing.assert_allclose(table[name], getattr(dynamics, name), rtol=1e-6)
    disagreement = keras_lstsd.label_quality.disagreement(model)
    np.testing.assert_allclose(table["disagreement"], disagreement, rtol=1e-6)
    for name, column in dynamics.find_label_issues().items():
        np.testing.assert_allclose(table[name], column, rtol=1e-6)


# === What cannot be followed ===


@pytest.mark.parametrize("y", [Y[:-1], Y + 1, Y - 2])
def test_labels_of_another_training_set_are_rejected(y):
    with pytest.raises(ValueError, match=rf"Received: {len(y)} labels.*Expected: {SAMPLES}"):
        trained(keras_lstsd.TrainingDynamics(y))


def test_an_unknown_score_is_rejected():
    with pytest.raises(ValueError, match=r"score='loss'.*'confidence' or 'margin'"):
        keras_lstsd.TrainingDynamics(Y).suspicious_labels("loss")


def test_a_method_without_a_table_of_samples_is_rejected():
    model = fresh(keras_lstsd.MeanTeacher)
    with pytest.raises(ValueError, match=r"MeanTeacher.*long_weight=0, short_weight=0"):
        model.fit(X, Y, verbose=0, callbacks=[keras_lstsd.TrainingDynamics(Y)])
