"""The one layout in which a sample's index travels: `{"inputs": x, "sample_index": i}`."""

from typing import Any

KEYS = {"inputs", "sample_index"}
# What `fit` tells the step besides: what decides how it augments a batch, which samples make up an
# image, and, by an entry that holds nothing, that it looked at the indices.
STEP_KEYS = {"draws", "mixing", "checked"}


def is_indexed(x: Any) -> bool:
    """Whether model inputs carry their sample index (tensors, arrays or specs alike)."""
    if not isinstance(x, dict) or not KEYS <= set(x) <= KEYS | STEP_KEYS:
        return False
    return isinstance(x.get("checked", ()), tuple)


def without_index(x: Any) -> Any:
    """Model inputs (or their shapes) as the student takes them."""
    return x["inputs"] if is_indexed(x) else x


def with_sample_index(dataset: Any) -> Any:
    """Adds to each element of an unbatched `tf.data.Dataset` the number of its row.

    `(x, y[, sample_weight]) -> ({"inputs": x, "sample_index": i}, y[, sample_weight])` with i an
    int32 scalar counting from 0. Call it before `shuffle`, `batch` and every random step: a
    sample must bear the same number in each epoch. `x` may be a tensor, a dict or a tuple.

    Args:
        dataset: elements are tuples `(x, y)` or `(x, y, sample_weight)` of single samples, in a
            fixed order (from files: `shuffle_files=False`).

    Returns:
        A `tf.data.Dataset` for `keras_lstsd.LSTSD.fit`.

    Raises:
        ValueError: when elements are not such tuples, or bear an index already.

    Example:
        >>> train = keras_lstsd.data.with_sample_index(train)
        >>> model.fit(train.shuffle(50_000).batch(128), epochs=164)
    """
    import tensorflow as tf

    spec = getattr(dataset, "element_spec", type(dataset).__name__)
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(
            "`with_sample_index` numbers labelled samples. "
            f"Received elements of the form {spec}. Expected: a tf.data.Dataset of tuples (x, y) "
            "or (x, y, sample_weight); for a dict write `dataset.map(lambda d: (d['x'], d['y']))`."
        )
    if is_indexed(spec[0]):
        raise ValueError(
            "The dataset has its sample index already. "
            f"Received elements of the form {spec}. Expected: (x, y) without an index; call "
            "`with_sample_index` once, before `shuffle` and `batch`."
        )

    def join(index, element):
        x, *rest = element
        return ({"inputs": x, "sample_index": tf.cast(index, tf.int32)}, *rest)

    return dataset.enumerate().map(join, num_parallel_calls=tf.data.AUTOTUNE)
