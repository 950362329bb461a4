"""In-memory batches whose order depends on (seed, epoch) alone, the same on every backend."""

import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lstsd.arguments import count
from keras_lstsd.data.augmentation import CropAndFlip, mixes
from keras_lstsd.data.indexing import is_indexed

# What tells the hash that decides a sample's augmentation from the one that decides its place.
AUGMENTATION = 1


def mix(*words: Any) -> np.ndarray:
    """A 32-bit hash of integers: uint32, with the words broadcast against each other.

    Each word is added and the sum scrambled by the finalizer of MurmurHash3 (Appleby 2011).
    """
    state = np.uint32(0)
    for word in words:
        # Of a Python integer of any size the low bits, as of an array's.
        word = word & 0xFFFFFFFF if isinstance(word, int) else word
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

    Yields `({"inputs": x, "sample_index": int32 [batch]}, y[, sample_weight])`, and in `fit` what
    else its step must know. Nothing but `seed` and `epoch` decides the order, so an interrupted
    run that starts an epoch again sees the same batches, on TensorFlow and on JAX.
    `SelfDistillation.fit` makes one from arrays, and tells it the epoch.

    Images may be augmented on the way, by `augment` and then by `layers`. With `on_device` all
    images live on the device, the host sends their numbers alone, and `augment` runs inside the
    compiled step; it gives the same images bit for bit. `layers` run inside the step always, and
    draw a batch's random numbers anew from (seed, epoch, sample_index of its first sample). Where
    one mixes samples (CutMix, MixUp), labels, sample weights and teachers are mixed with the same
    partners and weights, and what the student says of the mixture is remembered of the sample
    that it was made for; labels must be one-hot then. (The layers of keras-cv work on TensorFlow,
    but draw from TensorFlow's own generator: a resumed run draws other numbers.)

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
        augment: None, or a `CropAndFlip` for images `[samples, height, width, channels]`.
        layers: Keras preprocessing layers, such as `keras.layers.RandAugment`.
        on_device: keeps the images on the device.

    Raises:
        ValueError: when arrays differ in length, are empty, or batch_size is not positive; for
            `augment` and `on_device`, when x is not one array of images; for a layer that mixes,
            when labels are not one-hot.

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
        augment: CropAndFlip | None = None,
        layers: Sequence[keras.Layer] = (),
        on_device: bool = False,
    ):
        super().__init__()
        if not is_indexed(x):
            rows = len(y) if np.ndim(y) else 0
            x = {"inputs": x, "sample_index": np.arange(rows, dtype=np.int32)}
        labels = (y,) if sample_weight is None else (y, sample_weight)
        # tf.data takes a list for one tensor.
        arrays = keras.tree.lists_to_tuples(keras.tree.map_structure(_as_array, (x, labels)))
        lengths = {array.shape[:1] for array in keras.tree.flatten(arrays)}
        if len(lengths) != 1 or lengths & {(), (0,)} or not keras.tree.flatten(x["inputs"]):
            raise ValueError(
                "All arrays need one row per sample. "
                f"Received arrays whose first dimensions are {sorted(lengths)}. Expected: one "
                "length, at least 1; for Python lists write `np.asarray(x)`."
            )
        (self.num_samples,) = lengths.pop()
        self.batch_size = count("batch_size", batch_size)
        self.shuffle = shuffle
        self.seed = seed
        if steps_per_epoch is not None:
            steps_per_epoch = count("steps_per_epoch", steps_per_epoch)
        self.steps_per_epoch = steps_per_epoch
        self.inputs, self.sample_index = arrays[0]["inputs"], arrays[0]["sample_index"]
        self.labels = arrays[1]
        # Then no index need be gathered.
        self.by_row = np.array_equal(self.sample_index, np.arange(self.num_samples))
        self.augment = augment
        self.layers = tuple(layers)
        self.on_device = on_device
        if on_device and augment is None:
            self.augment = CropAndFlip(pad=0, flip=False)
        if self.augment is not None:
            self.pixels = self.augment.pixels(_one_array(self.inputs))
            self.image_size = self.inputs.shape[1:3]
            # Not a second time in memory.
            self.inputs = self.pixels[:-1].reshape(self.inputs.shape)
        self._check_mixing()
        # In `fit`: whether it saw that no index comes twice in a batch or lies outside the tables.
        self.checked = False
        self.begin_epoch(0)

    @property
    def num_drawn(self) -> int:
        """Samples that an epoch draws."""
        if self.steps_per_epoch is None:
            return self.num_samples
        return self.steps_per_epoch * self.batch_size

    @property
    def num_batches(self) -> int:
        return -(-self.num_drawn // self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    @property
    def distinct(self) -> bool:
        """Whether it is certain that no batch holds an index twice."""
        one_pass = self.steps_per_epoch is None or self.num_samples % self.batch_size == 0
        # A subclass may draw otherwise.
        if not one_pass or type(self) is not SampleBatches:
            return False
        # Row numbers need no sorting to be told apart.
        return self.by_row or len(np.unique(self.sample_index)) == self.num_samples

    @property
    def in_step(self) -> bool:
        """Whether something is left to do inside the compiled step."""
        return self.on_device or bool(self.layers)

    @property
    def draws(self) -> bool:
        """Whether chance decides more than the order."""
        return self.augment is not None or bool(self.layers)

    def begin_epoch(self, epoch: int, seed: int = 0) -> None:
        """Goes to an epoch; `seed` decides its order where the batches have none of their own."""
        self.epoch = epoch
        self._seed = seed if self.seed is None else self.seed
        self._order = None

    def epoch_order(self) -> np.ndarray:
        """Rows in the order in which the present epoch draws them, int32."""
        first, last = self.epoch * self.num_drawn, (self.epoch + 1) * self.num_drawn
        passes = range(first // self.num_samples, -(-last // self.num_samples))
        stream = np.concatenate([self._pass_order(number) for number in passes])
        skipped = passes[0] * self.num_samples
        return stream[first - skipped : last - skipped]

    def epoch_draws(self, order: np.ndarray) -> np.ndarray:
        """What decides the augmentation of these rows in the present epoch, int32, from 0 on."""
        with np.errstate(over="ignore"):
            draws = mix(self._seed, self.epoch, self.sample_index[order], AUGMENTATION)
        return (draws >> np.uint32(1)).astype(np.int32)

    def __getitem__(self, step: int) -> tuple:
        if self._order is None:
            self._order = self.epoch_order()
        # A copy, as it may be the index that the batch bears.
        rows = self._order[step * self.batch_size : (step + 1) * self.batch_size].copy()
        draws = self.epoch_draws(rows) if self.draws else None
        return self._batch(self._arrays(), rows, draws, np.take, np)

    def _arrays(self) -> tuple:
        """What batches are made of on the host; None for what they are not made of."""
        pixels = None if self.augment is None or self.on_device else self.pixels
        inputs = self.inputs if self.augment is None else None
        return pixels, inputs, None if self.by_row else self.sample_index, self.labels

    def _batch(self, arrays: tuple, rows: Any, draws: Any, take: Any, numpy: Any) -> tuple:
        """The batch of some rows, of arrays on the host or of tensors in tf.data."""
        pixels, inputs, sample_index, labels = arrays

        def of_rows(array):
            return take(array, rows, axis=0)

        if self.on_device:
            inputs = rows
        elif self.augment is not None:
            inputs = self.augment(pixels, rows, draws, *self.image_size, numpy)
        else:
            inputs = keras.tree.map_structure(of_rows, inputs)
        x = {"inputs": inputs, "sample_index": rows if self.by_row else of_rows(sample_index)}
        if self.in_step:
            x["draws"] = draws
        if self.checked:
            x["checked"] = ()
        return x, *map(of_rows, labels)

    def tf_dataset(self) -> Any:
        """The same batches as a `tf.data.Dataset`: it reads `epoch` each time it is iterated."""
        import tensorflow as tf

        arrays = keras.tree.map_structure(tf.convert_to_tensor, self._arrays(), none_is_leaf=False)

        def epoch():
            order = self.epoch_order()
            return (order, self.epoch_draws(order)) if self.draws else (order,)

        # None of these needs its Python turned into a graph's, which would take half a second.
        as_it_is = tf.autograph.experimental.do_not_convert

        @as_it_is
        def drawn(_):
            parts = tf.numpy_function(epoch, [], (tf.int32,) * (1 + self.draws))
            return tuple(tf.ensure_shape(part, [self.num_drawn]) for part in parts)

        @as_it_is
        def batches(*epoch):
            # Whole rows of a matrix: cheaper than to cut a batch out of an epoch each time. Where
            # all are of one size, the step knows it before it runs.
            rest = self.num_drawn % self.batch_size
            full = self.num_drawn - rest
            batches = tf.data.Dataset.from_tensor_slices(
                tuple(tf.reshape(part[:full], [-1, self.batch_size]) for part in epoch)
            )
            if not rest:
                return batches
            last = tf.data.Dataset.from_tensors(tuple(part[full:] for part in epoch))
            return batches.concatenate(last)

        @as_it_is
        def gather(rows, draws=None):
            return self._batch(arrays, rows, draws, tf.gather, keras.ops)

        return (
            tf.data.Dataset.from_tensors(0)
            .map(drawn)
            .flat_map(batches)
            .map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .apply(tf.data.experimental.assert_cardinality(self.num_batches))
            .prefetch(tf.data.AUTOTUNE)
        )

    def _check_mixing(self) -> None:
        """Refuses labels that cannot be mixed, and a layer that mixes in half precision."""
        mixing, y = [layer for layer in self.layers if mixes(layer)], self.labels[0]
        if mixing and (y.ndim != 2 or (y.shape[1] == 1 and y.dtype.kind in "iu")):
            raise ValueError(
                "A layer that mixes samples mixes their labels. "
                f"Received: labels of shape {y.shape}. Expected: one-hot labels "
                "[samples, classes]; write `y = keras.utils.to_categorical(y)`."
            )
        for layer in mixing:
            if layer.compute_dtype != "float32":
                name = type(layer).__name__
                raise ValueError(
                    "A layer that mixes samples computes their weights in float32. "
                    f"Received: {name} with {layer.compute_dtype}. Expected: "
                    f"`{name}(dtype='float32')`."
                )

    def __str__(self) -> str:
        order = ("shuffled" if self.seed is None else f"shuffled by {self.seed}") * self.shuffle
        return (
            f"{self.num_samples} samples (checksum {self._checksum():08x}), {self.num_batches} "
            f"batches of {self.batch_size}, {order or 'in order'}, augmented by {self.augment} and "
            f"{[_told(layer) for layer in self.layers]}"
        )

    def _checksum(self) -> int:
        """Of labels, indices and weights, and of up to 256 rows of the inputs."""
        rows = np.linspace(0, self.num_samples - 1, min(self.num_samples, 256)).astype(int)
        inputs = keras.tree.map_structure(lambda array: array[rows], self.inputs)
        checksum = 0
        for array in keras.tree.flatten((inputs, self.sample_index, self.labels)):
            array = array.astype(str) if array.dtype == object else array
            checksum = zlib.crc32(f"{array.dtype}{array.shape}".encode(), checksum)
            checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
        return checksum

    def _pass_order(self, number: int) -> np.ndarray:
        if self.shuffle:
            return sample_order(self._seed, number, self.num_samples)
        return np.arange(self.num_samples, dtype=np.int32)


def fingerprint(data: Any) -> str:
    """What tells a data set and its order from another: the same after a restart.

    For `SampleBatches` it covers what decides the order, the labels and some of the inputs; for a
    `tf.data.Dataset` shapes and number of batches, for anything else what its type and length say.
    """
    if isinstance(data, SampleBatches):
        return str(data)
    if hasattr(data, "element_spec"):
        return f"a tf.data.Dataset of {int(data.cardinality())} x {data.element_spec}"
    length = f" of {len(data)} batches" if hasattr(data, "__len__") else ""
    return f"a {type(data).__name__}{length}"


def _told(layer: keras.Layer) -> str:
    """A layer's type and what of its settings is not drawn by chance when it is made."""
    config = {
        key: value
        for key, value in layer.get_config().items()
        if isinstance(value, int | float | list | tuple) and key != "seed"
    }
    return f"{type(layer).__name__}({config})"


def _one_array(inputs: Any) -> np.ndarray:
    if not isinstance(inputs, np.ndarray):
        raise ValueError(
            "Images are augmented as one array. "
            f"Received: inputs of type {type(inputs).__name__}. Expected: x to be an array "
            "[samples, height, width, channels]; put what else the student takes into a "
            "tf.data.Dataset and augment it there."
        )
    return inputs


def _as_array(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array
