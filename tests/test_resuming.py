"""Runs that continue: from a saved model, from a backup, with the same objects or new ones."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import LSTSD, MeanTeacher
from tests.models import slow, wrapped

SAMPLES, CLASSES, EPOCHS = 30, 3, 6
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, CLASSES, SAMPLES)
SETTINGS = {"batch_size": 7, "verbose": 0}


def made(cls=LSTSD, **settings):
    keras.utils.set_random_seed(3)
    student = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    settings = {"mini_generation_epochs": 2} | settings if cls is LSTSD else settings
    model = wrapped(cls, student, SAMPLES, **settings)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def trained():
    model = made(mini_generation_epochs=1, temperature=3.0)
    model.fit(X, Y, epochs=3, **SETTINGS)
    return model


def weights_equal(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def backup_in(folder):
    return keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)


class Fail(keras.callbacks.Callback):
    """Raises an error at the start of an epoch, or of its second batch; each of them once."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = dict(errors)

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        self.raise_of(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            self.raise_of((self.now, "batch"))

    def raise_of(self, place):
        if place in self.errors:
            raise self.errors.pop(place)


# === The same objects again ===


@pytest.mark.parametrize(
    ("cls", "errors"),
    [
        slow(LSTSD, [(3, ConnectionError())]),
        (LSTSD, [((3, "batch"), KeyboardInterrupt())]),
        (MeanTeacher, [((2, "batch"), KeyboardInterrupt()), (4, ConnectionError())]),
    ],
)
def test_the_same_call_of_fit_after_an_error_resumes_the_run(tmp_path, cls, errors):
    whole, model = made(cls), made(cls)
    expected = whole.fit(X, Y, epochs=EPOCHS, **SETTINGS).history
    callbacks = [backup_in(tmp_path), Fail(*errors)]
    for place, error in errors:
        with pytest.raises(type(error)):
            model.fit(X, Y, epochs=EPOCHS, callbacks=callbacks, **SETTINGS)
        first = place[0] if isinstance(place, tuple) else place
    history = model.fit(X, Y, epochs=EPOCHS, callbacks=callbacks, **SETTINGS)
    assert history.epoch == list(range(first, EPOCHS))
    for name, values in expected.items():
        assert history.history[name] == values[first:], name
    weights_equal(model, whole)
    assert model.epoch == EPOCHS - 1
    assert not (tmp_path / "backup").exists()


def test_a_later_fit_of_the_same_model_is_resumed_after_an_error(tmp_path):
    whole, model = made(), made()
    for one in (whole, model):
        one.fit(X, Y, epochs=2, **SETTINGS)
    whole.fit(X, Y, epochs=4, **SETTINGS)
    callbacks = [backup_in(tmp_path), Fail((2, ConnectionError()))]
    with pytest.raises(ConnectionError):
        model.fit(X, Y, epochs=4, callbacks=callbacks, **SETTINGS)
    assert model.fit(X, Y, epochs=4, callbacks=callbacks, **SETTINGS).epoch == [2, 3]
    weights_equal(model, whole)


def test_the_backup_of_an_interrupted_run_is_not_resumed_with_other_data(tmp_path):
    model = made()
    callbacks = [backup_in(tmp_path), Fail((2, ConnectionError()))]
    with pytest.raises(ConnectionError):
        model.fit(X, Y, epochs=4, callbacks=callbacks, **SETTINGS)
    with pytest.raises(ValueError, match="is of another run.*Received.*Expected"):
        model.fit(X + 1, Y, epochs=4, callbacks=callbacks, **SETTINGS)


# === New objects ===


def test_a_run_resumed_from_a_backup_equals_an_uninterrupted_one(tmp_path):
    whole, stopped = made(), made()
    whole.fit(X, Y, epochs=4, **SETTINGS)
    callbacks = [backup_in(tmp_path), Fail((2, KeyboardInterrupt()))]
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, Y, epochs=4, callbacks=callbacks, **SETTINGS)
    resumed = made()
    keras.utils.set_random_seed(99)
    resumed.fit(X, Y, epochs=4, callbacks=[backup_in(tmp_path)], **SETTINGS)
    weights_equal(resumed, whole)
    assert len(resumed.fit(X, Y, epochs=2, verbose=0).epoch) == 2


def test_a_loaded_model_continues_as_the_saved_one(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again, LSTSD)
    assert (again.temperature, again.num_samples, again.epoch) == (3.0, SAMPLES, 2)
    weights_equal(again, model)
    for first, second in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    continued = [m.fit(X, Y, epochs=2, **SETTINGS).history for m in (model, again)]
    assert continued[0] == continued[1]
    weights_equal(again, model)


def test_a_model_whose_samples_fit_counted_is_loaded_with_its_tables(tmp_path):
    keras.utils.set_random_seed(3)
    student = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES, activation="softmax")])
    model = LSTSD(student, mini_generation_epochs=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=2, **SETTINGS)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.num_samples == SAMPLES
    weights_equal(again, model)
    # Weights alone.
    model.save_weights(tmp_path / "model.weights.h5")
    student = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES, activation="softmax")])
    other = LSTSD(student, mini_generation_epochs=1)
    other.load_weights(tmp_path / "model.weights.h5")
    assert other.num_samples == SAMPLES
    weights_equal(other, model)


def test_the_student_is_loaded_without_this_library(tmp_path):
    model = trained()
    model.student.save(tmp_path / "student.keras")
    np.save(tmp_path / "x.npy", X)
    code = """if True:
        import sys
        sys.modules["keras_lstsd"] = None
        import keras, numpy
        student = keras.saving.load_model(sys.argv[1] + "/student.keras")
        numpy.save(sys.argv[1] + "/out.npy", student.predict(numpy.load(sys.argv[1] + "/x.npy")))
    """
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), model.predict(X, verbose=0), atol=1e-6
    )


# === Formats ===


@pytest.mark.parametrize("name", ["model.h5", slow("model.hdf5")])
def test_the_legacy_hdf5_format_is_rejected(tmp_path, name):
    with pytest.raises(ValueError, match=rf"HDF5.*Received: .*{name}.*Expected: .*\.keras"):
        trained().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_weights_in_several_files_are_loaded(tmp_path):
    model, other = trained(), made(mini_generation_epochs=1, temperature=3.0)
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=1.0)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.json")
    weights_equal(other, model)
