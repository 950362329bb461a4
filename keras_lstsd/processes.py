"""Several processes that train one model (JAX): the part of each, values of all, one writer."""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd import compat

# Entries of a divided variable that are gathered at a time: each device stores them meanwhile.
GATHERED = 2**24


def count() -> int:
    """How many processes train together."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.num_processes


def writes() -> bool:
    """Whether this process writes files: one that trains alone, or the first of several."""
    if count() == 1:
        return True
    import jax

    return jax.process_index() == 0


def own_part(rows: Any) -> Any:
    """The part of a batch that this process reads, all of it where processes share a replica."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return rows
    parts = min(distribution.num_processes, distribution.num_model_replicas)
    size = len(rows) // parts
    first = distribution.data_shard_id * size
    return rows[first : first + size]


def numpy(value: Any) -> np.ndarray:
    """A variable or tensor on the host, the rows of other processes included.

    All processes must call it, in the same order.
    """
    if _is_whole(value):
        return ops.convert_to_numpy(value)
    from jax.experimental import multihost_utils

    tensor = ops.convert_to_tensor(value)
    size = max(1, GATHERED // max(1, tensor[:1].size))
    parts = [tensor[first : first + size] for first in range(0, len(tensor), size)]
    return np.concatenate([multihost_utils.process_allgather(part, tiled=True) for part in parts])


def _is_whole(value: Any) -> bool:
    """Whether this process has all rows of a variable or tensor."""
    if count() == 1:
        return True
    tensor = ops.convert_to_tensor(value)
    return tensor.is_fully_addressable or tensor.is_fully_replicated


@contextmanager
def alone(variables: list[keras.Variable]) -> Iterator[bool]:
    """The first process acts alone inside, with all rows of these variables on its host.

    Yields whether this process is the first one: others leave at once. Keras makes variables even
    where it writes files; with a distribution each of them would wait for all processes.
    """
    divided = [variable for variable in variables if not _is_whole(variable)]
    values, is_first = [variable.value for variable in divided], writes()
    distribution = keras.distribution.distribution()
    try:
        for variable in divided:
            rows = numpy(variable)
            if is_first:
                compat.set_value(variable, rows)
        if is_first:
            keras.distribution.set_distribution(None)
        yield is_first
    finally:
        keras.distribution.set_distribution(distribution)
        for variable, value in zip(divided, values, strict=True):
            compat.set_value(variable, value)


@contextmanager
def as_given(active: bool) -> Iterator[None]:
    """Keras takes the data of each process as it is inside; it can divide tf.data only."""
    distribution = keras.distribution.distribution() if active else None
    if distribution is None:
        yield
        return
    divides = distribution.auto_shard_dataset
    distribution.auto_shard_dataset = False
    try:
        yield
    finally:
        distribution.auto_shard_dataset = divides


def of_first(function: Callable[[], int | None]) -> int | None:
    """What a function returns in the first process; the others do not call it, and wait.

    Raises:
        RuntimeError: in the others, where it failed in the first one.
    """
    if count() == 1:
        return function()
    from jax.experimental import multihost_utils

    result = failure = None
    try:
        result = function() if writes() else None
    except Exception as error:
        failure = error
    sent = np.array([failure is not None, result is not None, result or 0], "int32")
    failed, has_result, result = multihost_utils.broadcast_one_to_all(sent).tolist()
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError(
            "The first process stopped with an error. Received: an error there. Expected: the "
            "cause in its output; then start all processes again."
        )
    return result if has_result else None


def check_equal(facts: dict[str, Any]) -> None:
    """Rejects processes that have different facts, such as data; waits for all processes.

    Raises:
        ValueError: naming the facts that differ.
    """
    if count() == 1:
        return
    from jax.experimental import multihost_utils

    own = [zlib.crc32(json.dumps(fact, default=float).encode()) for fact in facts.values()]
    columns = multihost_utils.process_allgather(np.array(own, "uint32")).T
    differing = [
        name for name, column in zip(facts, columns, strict=True) if len(np.unique(column)) > 1
    ]
    if differing:
        raise ValueError(
            "The processes do not train the same model on the same data. Received: different "
            f"values of {', '.join(differing)}. Expected: the same program in all processes, with "
            "all training samples, and folders of backups that all of them see."
        )


def check_alone(action: str) -> None:
    """Rejects what Keras does in one process only.

    Raises:
        ValueError: where several processes train together.
    """
    if count() > 1:
        raise ValueError(
            f"`{action}` works in one process only, in Keras as well. "
            f"Received: {count()} processes. Expected: the trained model in a process of its "
            "own; write `model.save('model.keras')` in all processes, then "
            "`keras.models.load_model('model.keras')` in one without a distribution."
        )


def check(strategy: Any, data: Any, sizes: set[int | None]) -> None:
    """Rejects what several devices or processes cannot train on.

    Args:
        strategy: the strategy of `tf.distribute`, or None.
        data: the training data.
        sizes: sizes of its batches; None for one that is not known before it is read.

    Raises:
        ValueError: for a strategy of several TensorFlow processes, for several JAX processes
            without a distribution, and for batches that cannot be divided.
    """
    if type(strategy).__name__ in ("CollectiveAllReduceStrategy", "MultiWorkerMirroredStrategy"):
        raise ValueError(
            "Keras 3 does not train on dicts of inputs in several TensorFlow processes. "
            f"Received: {type(strategy).__name__}. Expected: `tf.distribute.MirroredStrategy()` "
            "in one process; or Keras's JAX backend, with `keras.distribution.initialize(...)` "
            "and `keras.distribution.set_distribution(keras.distribution.DataParallel())`."
        )
    if keras.backend.backend() != "jax":
        return
    distribution = keras.distribution.distribution()
    if distribution is None:
        import jax

        if jax.process_count() > 1:
            raise ValueError(
                "The processes would train one model each. "
                f"Received: {jax.process_count()} processes without a distribution. Expected: "
                "`keras.distribution.set_distribution(keras.distribution.DataParallel())`, "
                "before the student is made."
            )
        return
    devices = distribution.num_model_replicas
    if hasattr(data, "element_spec") and not distribution.auto_shard_dataset:
        devices = max(1, devices // distribution.num_processes)
    wrong = [size for size in sizes if (count() > 1 if size is None else size % devices)]
    if wrong:
        code = "`steps_per_epoch=...`, which draws full batches from an endless stream of passes"
        if hasattr(data, "element_spec"):
            code = "`dataset.batch(batch_size, drop_remainder=True)`"
        received = "unknown sizes" if None in wrong else f"{max(wrong)} samples"
        raise ValueError(
            "Batches cannot be divided among the devices. "
            f"Received: batches of {received}, {devices} devices. Expected: batches of a multiple "
            f"of {devices} samples, the last one too; write {code}."
        )
