"""In-memory batches whose order depends on (seed, epoch) alone, the same on every backend."""

from typing import Any

import keras
import numpy as np

from keras_lstsd.data.indexing import is_indexed


def mix(*words: Any) -> np.ndarray:
    """A 32-bit hash of integers: uint32, with the words broadcast against each other.

    Each word is added and the sum scrambled by the finalizer of MurmurHash3 (Appleby 2011).
    """
    state = np.uint32(0)
    for word in words:
        state = np.asarray(state + np.asarray(word).astype(np.uint32) + np.uint32(0x9E3779B9))
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        state = state ^ (state >> np.uint32(16))
    return state


def sample_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order in which an epoch draws its samples: a permutation, int32 `[num_samples]`.

    Samples are sorted by a hash of (seed, epoch, sample_index), so an order can be had again at
    any time without the ones before it.

    Example:
        >>> keras_lstsd.data.sample_order(seed=0, epoch=3, num_samples=900)
    """
    with np.errstate(over="ignore"):
        keys = mix(seed, epoch, np.arange(num_samples))
    return np.argsort(keys, kind="stable").astype(np.int32)


class SampleBatches(keras.utils.PyDataset):
    """Batches of arrays with their sample index, in an order that (seed, epoch) fixes.

    Yields `({"inputs": x, "sample_index": int32 [batch]}, y[, sample_weight])`. Nothing but
    `seed` and `epoch` decides the order, so an interrupted run that starts an epoch again sees
    the same batches, on TensorFlow and on JAX. `SelfDistillation.fit` makes one from arrays, and
    tells it the epoch.

    Args:
        x: array `[samples, ...]`, or a dict, list or tuple of such arrays, numbered by row; or
            `{"inputs": x, "sample_index": integers}`. float64 becomes Keras's float type.
        y: array of labels, one row a sample.
        sample_weight: None or array `[samples]`.
        batch_size: samples a batch; the last one may be smaller.
        shuffle: False keeps the order of the arrays in every epoch.
        seed: integer; None takes the seed of the model that is fitted.
        steps_per_epoch: None for one pass over the samples; else an epoch is that many full
            batches of an endless stream of passes.

    Raises:
        ValueError: when arrays differ in length, are empty, or batch_size is not positive.

    Example:
        >>> batches = keras_lstsd.data.SampleBatches(x_train, y_train, batch_size=128, seed=1)
        >>> model.fit(batches, epochs=164)
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        steps_per_epoch: int | None = None,
    ):
        super().__init__()
        if not is_indexed(x):
            x = {"inputs": x, "sample_index": np.arange(len(y), dtype=np.int32)}
        arrays = (x, y) if sample_weight is None else (x, y, sample_weight)
        # tf.data takes a list for one tensor.
        self.arrays = keras.tree.lists_to_tuples(keras.tree.map_structure(_as_array, arrays))
        lengths = {array.shape[:1] for array in keras.tree.flatten(self.arrays)}
        if len(lengths) != 1 or lengths & {(), (0,)}:
            raise ValueError(
                "All arrays need one row per sample. "
                f"Received arrays whose first dimensions are {sorted(lengths)}. Expected: one "
                "length, at least 1; for Python lists write `np.asarray(x)`."
            )
        if batch_size < 1:
            raise ValueError(
                "`batch_size` counts the samples of a step. "
                f"Received: batch_size={batch_size}. Expected: at least 1."
            )
        (self.num_samples,) = lengths.pop()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.begin_epoch(0)

    @property
    def num_batches(self) -> int:
        return self.steps_per_epoch or -(-self.num_samples // self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def begin_epoch(self, epoch: int, seed: int = 0) -> None:
        """Goes to an epoch; `seed` decides its order where the batches have none of their own."""
        self.epoch = epoch
        self._seed = seed if self.seed is None else self.seed
        self._order = None

    def epoch_order(self) -> np.ndarray:
        """Rows in the order in which the present epoch draws them, int32."""
        if self.steps_per_epoch is None:
            return self._pass_order(self.epoch)
        drawn = self.steps_per_epoch * self.batch_size
        first, last = self.epoch * drawn, (self.epoch + 1) * drawn
        passes = range(first // self.num_samples, -(-last // self.num_samples))
        stream = np.concatenate([self._pass_order(number) for number in passes])
        skipped = passes[0] * self.num_samples
        return stream[first - skipped : last - skipped]

    def __getitem__(self, step: int) -> tuple:
        if self._order is None:
            self._order = self.epoch_order()
        index = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[index], self.arrays)

    def tf_dataset(self) -> Any:
        """The same batches as a `tf.data.Dataset`: it reads `epoch` each time it is iterated."""
        import tensorflow as tf

        arrays = keras.tree.map_structure(tf.convert_to_tensor, self.arrays)
        drawn = tf.data.Dataset.from_tensors(0).map(
            lambda _: tf.ensure_shape(tf.numpy_function(self.epoch_order, [], tf.int32), [None])
        )

        def batches(order):
            starts = tf.data.Dataset.range(0, self.num_batches * self.batch_size, self.batch_size)
            return starts.map(lambda start: order[start : start + self.batch_size])

        def gather(index):
            return tf.nest.map_structure(lambda array: tf.gather(array, index), arrays)

        return (
            drawn.flat_map(batches)
            .map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .apply(tf.data.experimental.assert_cardinality(self.num_batches))
            .prefetch(tf.data.AUTOTUNE)
        )

    def _pass_order(self, number: int) -> np.ndarray:
        if self.shuffle:
            return sample_order(self._seed, number, self.num_samples)
        return np.arange(self.num_samples, dtype=np.int32)


def _as_array(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array
