import pytest
from absl import flags

from tests.recipes.loading import load

processes = load("processes")


def test_the_first_step_of_an_epoch_is_not_timed(monkeypatch):
    # Its time has the epoch boundary in it; that of the first epoch also the compilation.
    moments = iter([5.0, 5.5, 6.5, 100.0, 100.25])
    monkeypatch.setattr(processes.time, "perf_counter", lambda: next(moments))
    times = processes.StepTimes()
    for steps in (3, 2):
        times.on_epoch_begin(0)
        for step in range(steps):
            times.on_train_batch_end(step, {"loss": 1.0})
    assert times.seconds == [0.5, 1.0, 0.25]


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_process_that_fails_ends_the_measurement(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    # The batches of 128 samples cannot be divided among three devices.
    with pytest.raises(SystemExit, match=r"A process ended with an error. Received: \[1\]"):
        processes.measure("mlp", 1, 3, True)
    assert 0 < processes.measure("mlp", 2, 1, True) < 10


@pytest.mark.tensorflow
def test_another_backend_is_rejected():
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(SystemExit, match="Received: the tensorflow backend"):
        processes.main(["processes"])
