"""Backups, atomic files and the run fingerprint."""

import contextlib
import json
import resource
import shutil

import h5py
import keras
import numpy as np
import pytest

from keras_lstsd import DUPS, LSTSD, Distillation, SingleTeacherLSTSD, saving
from keras_lstsd.data import SampleBatches
from tests.models import slow, wrapped

SAMPLES, CLASSES = 12, 3
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = np.arange(SAMPLES) % CLASSES


def trained(
    folder,
    epochs,
    cls=Distillation,
    classes=CLASSES,
    x=X,
    y=Y,
    length=6,
    dtype="float32",
    **options,
):
    """A training whose backup stays, as that of an interrupted run."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(dtype)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(classes, "softmax")])
    keras.config.set_dtype_policy("float32")
    model = wrapped(cls, student, len(y), mini_generation_epochs=length)
    model.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = []
    if folder is not None:
        callbacks = [
            keras.callbacks.BackupAndRestore(
                folder, double_checkpoint=True, delete_checkpoint=False
            )
        ]
    settings = {"batch_size": 5, "verbose": 0} | options
    history = model.fit(x, y, epochs=epochs, callbacks=callbacks, **settings)
    return model, history.epoch


def assert_resumes(folder, epochs_left, epochs=4):
    resumed, trained_epochs = trained(folder, epochs)
    assert trained_epochs == epochs_left
    whole, _ = trained(folder.with_name("whole"), epochs)
    for first, second in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "emptied":
        content.clear()
    else:
        with h5py.File(path) as file:
            sizes = {}
            file.visititems(lambda name, item: sizes.update({name: item}))
            data = next(item for item in sizes.values() if getattr(item, "shape", None) == (4, 3))
            offset = data.id.get_offset()
        content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "emptied", "one bit"])
def test_the_backup_before_a_damaged_one_is_resumed(tmp_path, how):
    trained(tmp_path / "backup", 3)
    damage(tmp_path / "backup/latest.weights.h5", how)
    assert_resumes(tmp_path / "backup", epochs_left=[2, 3])


@pytest.mark.parametrize("how", ["truncated", "emptied", "one bit"])
def test_damage_is_reported_with_the_name_of_the_file(tmp_path, how):
    model, _ = trained(tmp_path / "backup", 2)
    model.save_weights(tmp_path / "mine.weights.h5")
    damage(tmp_path / "mine.weights.h5", how)
    with pytest.raises(OSError, match=r"mine\.weights\.h5 is damaged"):
        model.load_weights(tmp_path / "mine.weights.h5")
    for name in ("latest.weights.h5", "latest.weights.h5.bkp"):
        damage(tmp_path / "backup" / name, how)
    with pytest.raises(OSError, match=r"latest\.weights\.h5 is damaged.*\.bkp is damaged"):
        trained(tmp_path / "backup", 3)


@pytest.mark.parametrize("cls", [LSTSD, DUPS, SingleTeacherLSTSD])
def test_rows_of_another_temperature_are_rejected(tmp_path, cls):
    """A method whose teachers are networks has no such rows."""
    path = tmp_path / "mine.weights.h5"
    saved, other = trained(tmp_path / "saved", 1, cls)[0], trained(tmp_path / "other", 1, cls)[0]
    other.temperature = 3.0
    saved.save_weights(path)
    if cls is not SingleTeacherLSTSD:
        with pytest.raises(ValueError, match=rf"temperature {saved.temperature} for .* of 3\.0"):
            other.load_weights(path)
        other.temperature = saved.temperature
    other.load_weights(path)
    for first, second in zip(saved.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("metadata", ["", '{"epoch": 2', '{"epoch": 1, "batch": 0}', None])
def test_the_epoch_of_a_backup_is_that_of_its_weights(tmp_path, metadata):
    trained(tmp_path / "backup", 2)
    path = tmp_path / "backup/training_metadata.json"
    path.unlink()
    if metadata is not None:
        path.write_text(metadata)
    assert_resumes(tmp_path / "backup", epochs_left=[2, 3])


def test_files_that_a_finished_run_left_are_not_resumed(tmp_path):
    trained(tmp_path / "backup", 4)
    for name in ("latest.weights.h5", "latest.weights.h5.bkp"):
        (tmp_path / "backup" / name).unlink()
    assert_resumes(tmp_path / "backup", epochs_left=[0, 1, 2, 3])


def test_a_later_fit_is_resumed_at_its_own_epoch(tmp_path):
    """The backup counts the epochs of a call of `fit`, the model those of all calls."""
    model, _ = trained(tmp_path / "backup", 3)
    shutil.rmtree(tmp_path / "backup")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    model.fit(X, Y, batch_size=5, epochs=2, verbose=0, callbacks=[backup])
    again, _ = trained(tmp_path / "unused", 3)
    history = again.fit(X, Y, batch_size=5, epochs=3, verbose=0, callbacks=[backup])
    assert history.epoch == [2]
    assert again.epoch == 5


def test_a_fit_does_not_resume_the_backup_of_a_later_one(tmp_path):
    model, _ = trained(tmp_path / "backup", 3)
    shutil.rmtree(tmp_path / "backup")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    model.fit(X, Y, batch_size=5, epochs=2, verbose=0, callbacks=[backup])
    with pytest.raises(ValueError, match="start_epoch=0.*start_epoch=3"):
        trained(tmp_path / "backup", 3)


@pytest.mark.tensorflow
def test_a_remote_folder_is_left_to_keras(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    backup = keras.callbacks.BackupAndRestore("memory://bucket/x")
    saving.prepare(backup, {})
    assert list(tmp_path.iterdir()) == []
    assert "only Keras restores from it" in caplog.text


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"x": X[:9], "y": Y[:9]}, ["'samples': 9", "'samples': 12"]),
        slow({"classes": 5}, ["num_classes=5", "num_classes=3"]),
        ({"y": Y[::-1]}, ["'samples': 12, 'checksum': "]),
        slow({"x": X + 1}, ["'samples': 12, 'checksum': "]),
        slow({"batch_size": 4}, ["'batch_size': 4", "'batch_size': 5"]),
        slow({"shuffle": False}, ["'shuffle': False", "'shuffle': True"]),
        ({"cls": LSTSD}, ["method=LSTSD", "method=Distillation"]),
        slow({"length": 3}, ["'mini_generation_epochs': 3", "'mini_generation_epochs': 6"]),
        ({"dtype": "mixed_bfloat16"}, ["precision=mixed_bfloat16", "precision=float32"]),
    ],
)
def test_the_backup_of_another_run_is_rejected(tmp_path, change, parts):
    trained(tmp_path / "backup", 2)
    with pytest.raises(ValueError, match="is of another run") as error:
        trained(tmp_path / "backup", 4, **change)
    assert all(part in str(error.value) for part in [*parts, "Received", "Expected"])
    assert_resumes(tmp_path / "backup", epochs_left=[2, 3])


def test_the_backup_of_another_kind_of_data_is_rejected(tmp_path):
    class Lazy(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, step):
            index = np.arange(6 * step, 6 * step + 6)
            return {"inputs": X[index], "sample_index": index}, Y[index]

    first, _ = trained(tmp_path / "backup", 2)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ValueError, match="data={'type': 'Lazy', 'length': 2}"):
        first.fit(Lazy(), epochs=3, verbose=0, callbacks=[backup])


def test_the_run_fingerprint_has_settings_and_data_and_is_json():
    model, _ = trained(None, 2, cls=LSTSD)
    found = model.fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["method"] == "LSTSD"
    assert found["settings"]["num_samples"] == SAMPLES
    assert found["settings"]["mini_generation_epochs"] == 6
    assert found["settings"]["temperature"] == 2.0
    assert "student" not in found["settings"]
    assert found["data"]["samples"] == SAMPLES
    assert (found["num_classes"], found["start_epoch"]) == (CLASSES, 0)
    assert found["positions"] == [[], False]


@pytest.mark.parametrize("save_freq", [3, False])
def test_a_backup_in_the_middle_of_an_epoch_is_rejected(tmp_path, save_freq):
    model, _ = trained(tmp_path / "unused", 1)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=save_freq)
    for callbacks in ([backup], keras.callbacks.CallbackList([backup], model=model)):
        with pytest.raises(ValueError, match="cannot be resumed exactly"):
            model.fit(X, Y, callbacks=callbacks)


def test_a_folder_that_cannot_be_written_is_reported_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Backups cannot be written to .*file/backup"):
        trained(tmp_path / "file/backup", 1)


@contextlib.contextmanager
def full_disk(room):
    """Files longer than so many bytes cannot be written, the log of pytest included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 3000, 12_000])
@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_a_full_disk_leaves_the_old_file_intact(tmp_path, name, room):
    model, _ = trained(tmp_path / "backup", 2)
    save = model.save if name.endswith(".keras") else model.save_weights
    save(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with (
        pytest.raises(OSError, match=f"{name} could not be written.*the old file is intact"),
        full_disk(room),
    ):
        save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]


def test_a_run_that_a_full_disk_stopped_is_resumed(tmp_path):
    trained(tmp_path / "backup", 2)
    with pytest.raises(OSError, match=r"latest\.weights\.h5"), full_disk(3000):
        trained(tmp_path / "backup", 4)
    assert_resumes(tmp_path / "backup", epochs_left=[2, 3])


def test_a_saved_model_runs_no_code(tmp_path):
    """Keras's safe mode stays on: functions in a file are rejected unless the user allows them."""
    student = keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(lambda x: x[:, :3]), keras.layers.Softmax()]
    )
    model = Distillation(student)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="arbitrary code execution"):
        keras.saving.load_model(tmp_path / "model.keras")


def test_facts_are_stored_with_the_weights(tmp_path):
    model, _ = trained(tmp_path / "backup", 2)
    facts = saving.facts_of(tmp_path / "backup/latest.weights.h5")
    assert (facts["epoch"], facts["num_classes"]) == (2, CLASSES)
    assert facts["settings"] == model.settings()
    assert facts["data"]["samples"] == SAMPLES
    model.student.save_weights(tmp_path / "plain.weights.h5")
    assert saving.facts_of(tmp_path / "plain.weights.h5") == {}
    assert json.loads((tmp_path / "backup/training_metadata.json").read_text())["epoch"] == 2


def test_a_model_that_was_never_fitted_is_saved(tmp_path):
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    LSTSD(student, 5).save_weights(tmp_path / "a.weights.h5")
    assert saving.facts_of(tmp_path / "a.weights.h5")["num_classes"] == 3


def test_images_on_the_device_are_not_saved(tmp_path, monkeypatch):
    student = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    model = Distillation(student)
    model.compile("sgd", "sparse_categorical_crossentropy")
    images = np.zeros((2000, 8, 8, 3), "uint8")
    model.fit(SampleBatches(images, np.zeros(2000), batch_size=500, on_device=True), verbose=0)
    reserved = []
    replacing = saving.replacing
    monkeypatch.setattr(
        saving, "replacing", lambda path, room=0: reserved.append(room) or replacing(path, room)
    )
    model.save_weights(tmp_path / "a.weights.h5")
    assert (tmp_path / "a.weights.h5").stat().st_size < reserved[0] < images.nbytes
