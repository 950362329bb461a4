"""The sample index: its layout in model inputs, `{"inputs": x, "sample_index": i}`."""

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_one_index_each, static_shape
from keras_lstsd.tables import row_numbers

KEYS = {"inputs", "sample_index"}
# Entries that `fit` adds for the training step: random numbers for the augmentation, weights of
# mixed samples, and an empty entry if the host has validated the indices.
STEP_KEYS = {"draws", "mixing", "index_validated"}


def is_indexed(x: Any) -> bool:
    """Whether model inputs (tensors, arrays or specs) have the layout with a sample index.

    Example:
        >>> keras_lstsd.data.index.is_indexed({"inputs": x, "sample_index": np.arange(len(x))})
        # True
    """
    if not isinstance(x, dict) or not KEYS <= set(x) <= KEYS | STEP_KEYS:
        return False
    return isinstance(x.get("index_validated", ()), tuple)


def without_index(x: Any) -> Any:
    """Model inputs, or their shapes, in the layout that the student takes."""
    return x["inputs"] if is_indexed(x) else x


def with_sample_index(dataset: Any) -> Any:
    """Adds a sample index to each element of an unbatched `tf.data.Dataset`.

    `(x, y[, sample_weight]) -> ({"inputs": x, "sample_index": i}, y[, sample_weight])`, where `i`
    is an int32 scalar that counts from 0. Call it before `shuffle`, `batch` and every random
    operation: a sample needs the same index in every epoch.

    Args:
        dataset: a dataset of single samples `(x, y)` or `(x, y, sample_weight)` in a fixed order
            (from files: `shuffle_files=False`). `x` may be a tensor, a dict or a tuple.

    Returns:
        A `tf.data.Dataset` for `fit`.

    Raises:
        ValueError: when elements are not such tuples, when they have an index already, or when
            the dataset is shuffled differently in each epoch.

    Example:
        >>> train = keras_lstsd.data.with_sample_index(train)
        >>> model.fit(train.shuffle(50_000).batch(128), epochs=164)
    """
    import tensorflow as tf

    spec = getattr(dataset, "element_spec", type(dataset).__name__)
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(
            "`with_sample_index` needs labelled samples. "
            f"Received: elements of the form {spec}. Expected: a tf.data.Dataset of tuples (x, y) "
            "or (x, y, sample_weight); for a dict write `dataset.map(lambda d: (d['x'], d['y']))`."
        )
    if is_indexed(spec[0]):
        raise ValueError(
            "The dataset has a sample index already. "
            f"Received: elements of the form {spec}. Expected: (x, y) without an index; call "
            "`with_sample_index` once, before `shuffle` and `batch`."
        )
    if _is_reshuffled(dataset):
        raise ValueError(
            "The dataset is shuffled before its samples get their index, so an index means "
            "another sample in each epoch. Received: a dataset with `shuffle(..., "
            "reshuffle_each_iteration=True)`. Expected: the index first; write "
            "`with_sample_index(dataset).shuffle(...)`."
        )

    def join(index, element):
        x, *rest = element
        return ({"inputs": x, "sample_index": tf.cast(index, tf.int32)}, *rest)

    return dataset.enumerate().map(join, num_parallel_calls=tf.data.AUTOTUNE)


def num_samples_of(dataset: Any) -> int | None:
    """The number of samples in a dataset that was made with `with_sample_index`.

    It is found after `shuffle`, `batch`, `map`, `filter`, `repeat`, `prefetch` and so on, as it is
    the cardinality of the dataset that `with_sample_index` returned.

    Args:
        dataset: a `tf.data.Dataset`, or any other data.

    Returns:
        The number of samples. None where it is unknown: for a dataset of unknown or infinite
        cardinality (a generator), for a `DistributedDataset`, for indices that come with the data
        (`from_tensor_slices`), and for other types.

    Example:
        >>> train = tf.data.Dataset.from_tensor_slices((np.zeros((50, 4)), np.zeros(50)))
        >>> train = keras_lstsd.data.with_sample_index(train).shuffle(50).batch(8).repeat()
        >>> keras_lstsd.data.index.num_samples_of(train)
        # 50
    """
    counts = []
    for numbered in _first_numbered(dataset):
        # Indices of a source are the user's own: their largest value is unknown.
        cardinality = int(numbered.cardinality()) if _inputs_of(numbered) else -1
        if cardinality < 0:
            return None
        counts.append(cardinality)
    return max(counts, default=None)


def _inputs_of(dataset: Any) -> list:
    """The datasets that a `tf.data.Dataset` reads; `_inputs` is private in TensorFlow."""
    inputs = getattr(dataset, "_inputs", None)
    return list(inputs()) if callable(inputs) and hasattr(dataset, "element_spec") else []


def _first_numbered(dataset: Any) -> Iterator[Any]:
    """The furthest ancestors whose elements are single samples with an index."""
    found = False
    for ancestor in _inputs_of(dataset):
        for numbered in _first_numbered(ancestor):
            found = True
            yield numbered
    if not found and _is_numbered(dataset):
        yield dataset


def _is_numbered(dataset: Any) -> bool:
    spec = getattr(dataset, "element_spec", None)
    if not isinstance(spec, tuple) or not spec or not is_indexed(spec[0]):
        return False
    shape = getattr(spec[0]["sample_index"], "shape", None)
    return shape is not None and shape.rank == 0 and hasattr(dataset, "cardinality")


def _is_reshuffled(dataset: Any) -> bool:
    """Whether a `shuffle` upstream gives another order in each epoch."""
    # A cache keeps the order of the first epoch.
    if type(dataset).__name__ == "CacheDataset":
        return False
    if getattr(dataset, "_reshuffle_each_iteration", False):
        return True
    return any(map(_is_reshuffled, _inputs_of(dataset)))


def sample_rows(index: Any, logits: Any, num_samples: int) -> Any:
    """An index that was not validated as int32 `[batch]`; out-of-range values stay out of range.

    Raises:
        ValueError: for another dtype or shape, or another number of indices than samples.
    """
    shape = static_shape(index)
    if not keras.backend.is_int_dtype(index.dtype) or shape is None or len(shape) != 1:
        raise ValueError(
            "`sample_index` must be a vector of integers. "
            f"Received: shape={shape}, "
            f"dtype={keras.backend.standardize_dtype(index.dtype)}. "
            "Expected: shape=(batch,), dtype=int32; call `with_sample_index` on single "
            "samples, then `batch`."
        )
    index = row_numbers(index, num_samples)
    if None in (*shape, logits.shape[0]):
        # A single index would be broadcast to all samples where sizes are known only at run time.
        return ops.where(ops.shape(index)[0] == ops.shape(logits)[0], index, -1)
    check_one_index_each(shape[0], logits.shape[0])
    return index
