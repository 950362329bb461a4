"""Two JAX processes train as one, with whole and with divided tables, and resume after a kill.

`KERAS_LSTSD_KILLS=20 pytest -m slow tests/test_processes.py` kills one of them 20 times.
"""

import os
import time

import keras
import numpy as np
import pytest

from keras_lstsd import processes
from recipes.methods import METHODS
from tests.processes import end, finish, start
from tests.small import X, Y, compiled, lstsd
from tests.test_sharding import TABLES, on_two_jax_devices

pytest.importorskip("jax")
KILLS = int(os.environ.get("KERAS_LSTSD_KILLS", 2))
SEVERAL = ["lstsd", "mean_teacher", "dups", "crd", "prokt", "stored_teacher", "dropping"]
# They start JAX processes of their own, whatever the backend of this one.
starts_processes = [pytest.mark.slow, pytest.mark.tensorflow]


def compared(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(SEVERAL, id="several", marks=starts_processes),
        pytest.param(
            [name for name in METHODS if name not in SEVERAL],
            id="others",
            marks=[pytest.mark.thorough, pytest.mark.tensorflow],
        ),
    ],
)
def test_two_processes_follow_one(names, tmp_path):
    (expected,) = finish("methods", tmp_path / "one", *names, processes=1)
    for found in finish("methods", tmp_path / "two", *names):
        compared(found, expected)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_divided_tables_are_stored_once_and_train_the_same(tmp_path):
    names = [name for name in TABLES if isinstance(name, str)]
    (expected,) = finish("divided", tmp_path / "one", *names, processes=1)
    both = finish("divided", tmp_path / "two", *names)
    for found in both:
        for name in names:
            rows, whole = found.pop(f"{name} rows"), found[f"{name} whole"]
            np.testing.assert_array_equal(rows, whole[:, None] // 2)
        compared(found, {name: it for name, it in expected.items() if not name.endswith("rows")})
    assert expected["lstsd margin"].shape == (26,)
    # What two processes saved is what one process saves.
    assert [path.name for path in (tmp_path / "two").glob("of-*")] == ["of-0.weights.h5"]
    for name in names:
        weights = keras.models.load_model(tmp_path / "two" / f"{name}.keras").get_weights()
        others = keras.models.load_model(tmp_path / "one" / f"{name}.keras").get_weights()
        for weight, other in zip(weights, others, strict=True):
            np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_each_process_reads_its_part_of_tf_data(kind, tmp_path):
    (expected,) = finish("datasets", tmp_path / "one", kind, processes=1)
    for found in finish("datasets", tmp_path / "two", kind):
        compared(found, expected)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_training_that_lost_a_process_ends_as_an_uninterrupted_one(tmp_path):
    began = time.monotonic()
    whole = finish("resumed", tmp_path / "whole")
    duration = time.monotonic() - began
    draw = np.random.default_rng(KILLS)
    folder = tmp_path / "killed"
    lost = 0
    while lost < KILLS:
        for file in folder.glob("began-*"):
            file.unlink()
        started = start("resumed", folder)
        while not (folder / "began-1").exists() and started[0].poll() is None:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, duration / 2))
        victim = started[draw.integers(2)]
        lost += victim.poll() is None
        victim.kill()
        end(started)
    for found, expected in zip(finish("resumed", folder), whole, strict=True):
        for name, values in expected.items():
            if name.startswith("weight"):
                np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not (folder / "backup").exists()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_processes_that_cannot_train_together_are_rejected(tmp_path):
    first, second = finish("faults", tmp_path)
    assert "is of another run" in str(first["backup"])
    assert "The first process stopped with an error" in str(second["backup"])
    for found in (first, second):
        assert "different values of data" in str(found["labels"])
        assert "batches of 3 samples, 2 devices" in str(found["batches"])
        assert "`predict` works in one process only" in str(found["predict"])
        assert "2 processes without a distribution" in str(found["alone"])


@pytest.mark.tensorflow
def test_a_strategy_of_several_tensorflow_processes_is_rejected():
    import tensorflow as tf

    cls = tf.distribute.MultiWorkerMirroredStrategy
    # A real one must be made before all else in a process.
    strategy = cls.__new__(cls)
    with pytest.raises(ValueError, match="Received: .*Strategy.*MirroredStrategy.*initialize"):
        processes.check(strategy, X, {8})
    processes.check(tf.distribute.get_strategy(), X, {8})


@on_two_jax_devices
def test_batches_that_the_devices_cannot_divide_are_rejected():
    with keras.distribution.DataParallel().scope():
        model = compiled(lstsd())
        # The last of 30 samples, in batches of 7: 2 samples.
        with pytest.raises(ValueError, match="batches of 7 samples, 2 devices.*steps_per_epoch"):
            model.fit(X, Y, batch_size=7, verbose=0)
        history = model.fit(X, Y, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_one_process_writes_reads_all_and_waits_for_none():
    rows = np.arange(6)
    assert processes.count() == 1
    assert processes.writes()
    np.testing.assert_array_equal(processes.own_part(rows), rows)
    assert processes.of_first(lambda: None) is None
    assert processes.of_first(lambda: -3) == -3
    with processes.alone([keras.Variable(rows)]) as writes:
        assert writes
