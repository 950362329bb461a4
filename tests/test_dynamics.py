import csv

import keras
import numpy as np
import pytest

import keras_lstsd
from keras_lstsd.dynamics import disagreement, label_confidence

SAMPLES, CLASSES, EPOCHS = 9, 3, 5
X = np.random.default_rng(0).normal(size=(SAMPLES, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)


class Recorder(keras.callbacks.Callback):
    """What each epoch's steps thought of each sample, taken from the table after the epoch."""

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(np.exp(self.model.pending.numpy()[0].astype("float64")))


def fresh(cls=keras_lstsd.LSTSD, **arguments):
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(CLASSES, "softmax")])
    model = cls(student, num_samples=SAMPLES, **arguments)
    model.compile(keras.optimizers.SGD(2.0), "sparse_categorical_crossentropy")
    return model


def trained(dynamics, epochs=EPOCHS, **arguments):
    model, recorder = fresh(mini_generation_epochs=2, **arguments), Recorder()
    model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[dynamics, recorder])
    return model, np.stack(recorder.epochs)


def test_each_number_is_that_of_its_formula():
    dynamics = keras_lstsd.TrainingDynamics(Y)
    _, p = trained(dynamics)
    given = p[:, np.arange(SAMPLES), Y]
    correct = p.argmax(-1) == Y
    forgotten = (correct[:-1] & ~correct[1:]).sum(0)
    assert len(p) == EPOCHS
    assert forgotten.any()  # or the test could not fail
    np.testing.assert_allclose(dynamics.confidence, given.mean(0), rtol=1e-5)
    np.testing.assert_allclose(dynamics.variability, given.std(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(dynamics.forgotten, forgotten)
    np.testing.assert_array_equal(dynamics.suspicious_labels(), np.argsort(given.mean(0)))


def test_tables_rank_labels_by_the_mean_of_what_they_believe():
    model, p = trained(keras_lstsd.TrainingDynamics(Y))
    # Epochs 0 to 4 in mini-generations of 2: pending is epoch 4's, short and long are epoch 3's.
    expected = (p[4] + 2 * p[3])[np.arange(SAMPLES), Y] / 3
    np.testing.assert_allclose(label_confidence(model, Y), expected, rtol=1e-5)
    one_hot = np.eye(CLASSES)[Y]
    np.testing.assert_array_equal(
        keras_lstsd.suspicious_labels(model, one_hot), np.argsort(expected)
    )


def test_teachers_disagree_by_total_variation():
    model, p = trained(keras_lstsd.TrainingDynamics(Y), epochs=6)
    # In epoch 5 the short-term teacher is epoch 4's and the long-term one epoch 3's.
    expected = np.abs(p[4] - p[3]).sum(-1) / 2
    np.testing.assert_allclose(disagreement(model), expected, rtol=1e-4, atol=1e-6)


def test_a_sample_never_drawn_has_no_confidence_and_comes_last():
    model, dynamics = fresh(), keras_lstsd.TrainingDynamics(Y)
    drawn = np.delete(np.arange(SAMPLES), 5)
    model.fit(
        {"inputs": X[drawn], "sample_index": drawn}, Y[drawn], verbose=0, callbacks=[dynamics]
    )
    for confidence in (dynamics.confidence, label_confidence(model, Y)):
        np.testing.assert_array_equal(np.isnan(confidence), np.arange(SAMPLES) == 5)
    assert dynamics.suspicious_labels()[-1] == keras_lstsd.suspicious_labels(model, Y)[-1] == 5
    assert np.isnan(disagreement(model)).all()


def test_labels_of_one_unit_are_two_classes():
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    model = keras_lstsd.LSTSD(student, num_samples=SAMPLES)
    model.compile("sgd", "binary_crossentropy")
    y = (Y > 0)[:, None].astype("float32")
    dynamics, recorder = keras_lstsd.TrainingDynamics(y), Recorder()
    model.fit(X, y, verbose=0, callbacks=[dynamics, recorder])
    expected = recorder.epochs[0][np.arange(SAMPLES), y[:, 0].astype(int)]
    np.testing.assert_allclose(dynamics.confidence, expected, rtol=1e-6)


# === Kept in a file ===


def test_a_resumed_training_ends_with_the_numbers_of_one_that_went_through(tmp_path):
    whole = keras_lstsd.TrainingDynamics(Y)
    trained(whole)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def resumed(*callbacks):
        # Its file is written before the backup: the stop leaves it an epoch ahead.
        dynamics = keras_lstsd.TrainingDynamics(Y, path=tmp_path / "dynamics.npz")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", double_checkpoint=True)
        fresh(mini_generation_epochs=2).fit(
            X,
            Y,
            batch_size=4,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[dynamics, *callbacks, backup],
        )
        return dynamics

    with pytest.raises(KeyboardInterrupt):
        resumed(Stop())
    dynamics = resumed()
    for name in ("confidence", "variability", "forgotten"):
        np.testing.assert_array_equal(getattr(dynamics, name), getattr(whole, name))


def test_another_training_begins_a_kept_file_anew(tmp_path):
    path = tmp_path / "dynamics.npz"
    trained(keras_lstsd.TrainingDynamics(Y, path=path))
    again, once = keras_lstsd.TrainingDynamics(Y, path=path), keras_lstsd.TrainingDynamics(Y)
    trained(again, epochs=2)
    trained(once, epochs=2)
    np.testing.assert_array_equal(again.confidence, once.confidence)
    assert np.load(path)["epoch"] == 1


def test_a_kept_file_of_other_labels_is_refused(tmp_path):
    path = tmp_path / "dynamics.npz"
    trained(keras_lstsd.TrainingDynamics(Y, path=path), epochs=1)
    with pytest.raises(ValueError, match=r"dynamics\.npz was kept with other labels.*`path`"):
        trained(keras_lstsd.TrainingDynamics(np.roll(Y, 1), path=path), epochs=1)


# === Written as a table ===


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_holds_the_columns(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    dynamics, path = keras_lstsd.TrainingDynamics(Y), tmp_path / f"dynamics{suffix}"
    trained(dynamics)
    dynamics.save(path)
    if suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        table = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    else:
        import pyarrow.parquet

        table = {k: np.array(v) for k, v in pyarrow.parquet.read_table(path).to_pydict().items()}
    columns = dynamics.columns()
    assert list(table) == list(columns)
    assert {"label", "confidence", "variability", "forgotten", "disagreement"} <= columns.keys()
    for name, column in columns.items():
        np.testing.assert_allclose(table[name], column, rtol=1e-6)


def test_a_table_of_another_kind_is_refused(tmp_path):
    dynamics = keras_lstsd.TrainingDynamics(Y)
    trained(dynamics, epochs=1)
    with pytest.raises(ValueError, match=r"table\.xls.*\.csv or \.parquet"):
        dynamics.save(tmp_path / "table.xls")


# === What cannot be followed ===


@pytest.mark.parametrize("y", [np.zeros((3, 4, 2)), np.array([0.5, 1.0])])
def test_what_is_no_label_is_refused(y):
    with pytest.raises(ValueError, match=r"Each sample has a label.*Expected: classes"):
        keras_lstsd.TrainingDynamics(y)


@pytest.mark.parametrize("y", [Y[:-1], Y + 1, Y - 1])
def test_labels_of_another_training_are_refused(y):
    with pytest.raises(ValueError, match=rf"Received: {len(y)} labels.*Expected: {SAMPLES}"):
        trained(keras_lstsd.TrainingDynamics(y))


def test_a_method_without_tables_of_samples_is_refused():
    model = fresh(keras_lstsd.MeanTeacher)
    with pytest.raises(ValueError, match=r"MeanTeacher.*long_weight=0, short_weight=0"):
        model.fit(X, Y, verbose=0, callbacks=[keras_lstsd.TrainingDynamics(Y)])
    with pytest.raises(ValueError, match=r"MeanTeacher"):
        keras_lstsd.suspicious_labels(model, Y)
    with pytest.raises(ValueError, match=r"TemporalEnsembling.*`keras_lstsd\.LSTSD`"):
        disagreement(fresh(keras_lstsd.TemporalEnsembling))
