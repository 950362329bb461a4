"""Trainings of several JAX processes.

Each is started as `python -m tests.processes TASK FOLDER PROCESSES NUMBER PORT [ARGUMENTS]` and
writes what it ended with to `FOLDER/end-NUMBER.npz`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES, EPOCHS = 26, 4
TASKS: dict[str, Callable] = {}


def task(function: Callable) -> Callable:
    TASKS[function.__name__] = function
    return function


def numbers_of(model) -> dict:
    """All weights by place, and the history of the training."""
    numbers = {f"weight_{at}": value for at, value in enumerate(model.get_weights())}
    return numbers | model.history.history


def trained(name: str, data=None, **options):
    import keras

    from tests.models import X, Y, dense_student, made

    keras.utils.set_random_seed(1)
    model = made(name, dense_student())
    # With 0.1 FeatureMatching is unstable: an error of the last bit grows to 1e-4.
    model.compile(keras.optimizers.SGD(0.03), "sparse_categorical_crossentropy")
    data = {"x": X, "y": Y, "batch_size": 8} if data is None else {"x": data}
    model.fit(**data, epochs=EPOCHS, verbose=0, **options)
    return model


@task
def methods(folder: Path, number: int, *names: str) -> dict:
    """Each method."""
    numbers = {}
    for name in names:
        numbers |= {f"{name} {key}": value for key, value in numbers_of(trained(name)).items()}
    return numbers


@task
def divided(folder: Path, number: int, *names: str) -> dict:
    """Methods with tables that are divided among the processes; also what is saved and loaded."""
    from keras_lstsd import TrainingDynamics
    from tests.models import X, Y
    from tests.test_sharding import tables_of

    numbers = {}
    for name in names:
        dynamics = [TrainingDynamics(Y)] if name.startswith("lstsd") else []
        model = trained(name, callbacks=dynamics, validation_data=(X[:8], Y[:8]))
        own = numbers_of(model) | {"evaluated": model.evaluate(X, Y, batch_size=8, verbose=0)}
        # Each process stores its own rows only.
        own["rows"] = [
            [shard.data.shape[0] for shard in table.value.addressable_shards]
            for table in tables_of(model)
        ]
        own["whole"] = [table.shape[0] for table in tables_of(model)]
        for callback in dynamics:
            own["margin"] = callback.margin
        model.save_weights(folder / f"{name}.weights.h5")
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"of-{number}.weights.h5")
        model.load_weights(folder / f"{name}.weights.h5")
        own |= {f"loaded_{at}": value for at, value in enumerate(model.get_weights())}
        numbers |= {f"{name} {key}": value for key, value in own.items()}
    return numbers


@task
def datasets(folder: Path, number: int, kind: str) -> dict:
    """tf.data that Keras divides ("whole"), or of which each process reads its own part."""
    import keras
    import tensorflow as tf

    from keras_lstsd.data import with_sample_index
    from tests.models import X, Y

    # The order of a shuffle depends on the global seed of TensorFlow.
    keras.utils.set_random_seed(1)
    data = with_sample_index(tf.data.Dataset.from_tensor_slices((X[:24], Y[:24])))
    distribution = keras.distribution.distribution()
    if kind == "parts" and distribution is not None:
        distribution.auto_shard_dataset = False
        # The order of one process: 8 samples in a batch, of which this one reads 4.
        data = data.batch(4).shard(2, number).unbatch().batch(4, drop_remainder=True)
    elif kind == "parts":
        data = data.batch(8, drop_remainder=True)
    else:
        data = data.shuffle(24, seed=3).batch(8, drop_remainder=True)
    return numbers_of(trained("lstsd", data))


@task
def resumed(folder: Path, number: int) -> dict:
    """A training that resumes from its backup."""
    import keras

    from tests.models import X, Y, dense_student, made

    keras.utils.set_random_seed(1)
    model = made("lstsd", dense_student())
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    backup = keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)
    slow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.02))
    (folder / f"began-{number}").touch()
    model.fit(X, Y, batch_size=8, epochs=12, verbose=0, callbacks=[backup, slow])
    return numbers_of(model)


@task
def faults(folder: Path, number: int) -> dict:
    """Messages of errors: other labels in each process, batches that cannot be divided."""
    import keras

    from tests.models import X, Y, dense_student, made

    def message(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except (ValueError, RuntimeError) as error:
            return str(error)
        return "no error"

    def compiled(**settings):
        model = made("lstsd", dense_student(), **settings)
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    backup = keras.callbacks.BackupAndRestore(
        folder / "backup", double_checkpoint=True, delete_checkpoint=False
    )
    compiled().fit(X, Y, batch_size=2, verbose=0, callbacks=[backup])
    model = compiled(temperature=3.0)
    of_another_run = message(model.fit, X, Y, batch_size=2, callbacks=[backup])
    numbers = {"backup": of_another_run}
    numbers["labels"] = message(model.fit, X, (Y + number) % 3, batch_size=2)
    numbers["batches"] = message(model.fit, X, Y, batch_size=3)
    numbers["predict"] = message(model.predict, X)
    keras.distribution.set_distribution(None)
    numbers["alone"] = message(model.fit, X, Y, batch_size=2)
    return numbers


def main(name: str, folder: str, processes: str, number: str, port: str, *arguments: str) -> None:
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    import keras
    import numpy as np

    from recipes.processes import distribution

    if processes != "1":
        keras.distribution.initialize(f"127.0.0.1:{port}", int(processes), int(number))
        divided_tables = name in ("divided", "resumed")
        keras.distribution.set_distribution(distribution(divided_tables))
    numbers = TASKS[name](Path(folder), int(number), *arguments)
    np.savez(Path(folder) / f"end-{number}.npz", **numbers)


def start(name: str, folder: Path, *arguments: str, processes: int = 2) -> list[subprocess.Popen]:
    """The processes of a task."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One device in each process.
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    started = []
    for number in range(processes):
        command = [sys.executable, "-m", "tests.processes", name, folder, processes, number, port]
        with (folder / f"log-{number}.txt").open("w") as log:
            started.append(
                subprocess.Popen(
                    [*map(str, command), *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )
    return started


def finish(name: str, folder: Path, *arguments: str, processes: int = 2) -> list[dict]:
    """What each process of a task ended with."""
    import numpy as np

    started = start(name, folder, *arguments, processes=processes)
    try:
        for process in started:
            process.wait(500)
    finally:
        end(started)
    for number, process in enumerate(started):
        assert process.returncode == 0, (folder / f"log-{number}.txt").read_text()[-3000:]
    loaded = []
    for number in range(processes):
        with np.load(folder / f"end-{number}.npz") as numbers:
            loaded.append(dict(numbers))
    return loaded


def end(started: list[subprocess.Popen]) -> None:
    """Kills the processes that are left."""
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
