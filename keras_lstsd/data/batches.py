"""Batches of arrays in memory. Their order depends on (seed, epoch) only, on every backend."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lstsd import processes
from keras_lstsd.checks import count
from keras_lstsd.data import arrays
from keras_lstsd.data.augmentation import CropAndFlip, check_mixing
from keras_lstsd.data.index import is_indexed
from keras_lstsd.data.order import mix, sample_order

# Keeps the hash of the augmentation apart from the hash of the order.
AUGMENTATION = 1
# Samples of which checksums are computed, at most.
CHECKED_SAMPLES = 256


class SampleBatches(keras.utils.PyDataset):
    """Batches of arrays with a sample index, in an order that depends on (seed, epoch) only.

    Yields `({"inputs": x, "sample_index": int32 [batch]}, y[, sample_weight])`; in `fit` also the
    entries that its training step needs. A run that is interrupted and starts an epoch again gets
    the same batches, on TensorFlow and on JAX. `Distillation.fit` makes one from arrays and sets
    the epoch. Each of several processes (JAX) has all arrays and reads its part of each batch.

    Images may be augmented by `augment` and then by `layers`. With `on_device`, all images are
    stored on the device, the host sends row numbers only, and `augment` runs inside the compiled
    step; the images are the same bit for bit. `layers` always run inside the step. Their random
    numbers follow from (seed, epoch, sample_index of the first sample in the batch).

    If a layer mixes samples (CutMix, MixUp), labels, sample weights and teachers are mixed with
    the same partners and weights; labels must be one-hot. The student's output for a mixed input
    is recorded for the sample that the input was made for. The layers of keras-cv work on
    TensorFlow, but use TensorFlow's own random generator: a resumed run draws other numbers.

    Args:
        x: array `[samples, ...]`, or a dict, list or tuple of such arrays, indexed by row; or
            `{"inputs": x, "sample_index": integers}`. float64 becomes Keras's float type.
            DataFrames and Series are converted; sparse and ragged data are rejected.
        y: array of labels, one row per sample.
        sample_weight: None or array `[samples]`.
        batch_size: samples per batch; the last batch may be smaller.
        shuffle: True shuffles samples; `"batch"` shuffles whole batches of consecutive rows, and a
            smaller last one stays last; False keeps the order of the arrays.
        seed: integer; None takes the seed of the model in `fit`.
        steps_per_epoch: None for one pass over the samples; otherwise the number of full batches
            per epoch, taken from an endless stream of passes.
        augment: None, or a `CropAndFlip` for images `[samples, height, width, channels]`.
        layers: Keras preprocessing layers, such as `keras.layers.RandAugment`.
        on_device: stores the images on the device.

    Raises:
        ValueError: when arrays differ in length, are empty, sparse or ragged, for an unknown
            `shuffle`, or when batch_size is not positive; for `augment` and `on_device`, when x is
            not one array of images; for a layer that mixes, when labels are not one-hot.

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
        shuffle: bool | str = True,
        seed: int | None = None,
        steps_per_epoch: int | None = None,
        augment: CropAndFlip | None = None,
        layers: Sequence[keras.Layer] = (),
        on_device: bool = False,
    ):
        super().__init__()
        self.batch_size = count("batch_size", batch_size)
        if isinstance(shuffle, str) and shuffle != "batch":
            raise ValueError(
                "`shuffle` is unknown. "
                f"Received: shuffle={shuffle!r}. Expected: True (samples are shuffled), 'batch' "
                "(whole batches are shuffled) or False."
            )
        self.shuffle = shuffle if isinstance(shuffle, str) else bool(shuffle)
        self.seed = seed
        if steps_per_epoch is not None:
            steps_per_epoch = count("steps_per_epoch", steps_per_epoch)
        self.steps_per_epoch = steps_per_epoch
        self._set_arrays(x, y, sample_weight)
        self.augment = augment
        self.layers = tuple(layers)
        self.on_device = on_device
        if on_device and augment is None:
            self.augment = CropAndFlip(pad=0, flip=False)
        if self.augment is not None:
            self.pixels = self.augment.pixels(self.inputs)
            self.image_size = self.inputs.shape[1:3]
            # A view, which saves the memory of a second copy.
            self.inputs = self.pixels[:-1].reshape(self.inputs.shape)
        check_mixing(self.layers, self.labels[0])
        # Set by `fit`: whether no index is repeated in a batch or out of range.
        self.index_validated = False
        self.start_epoch(0)

    def _set_arrays(self, x: Any, y: Any, sample_weight: Any) -> None:
        index = None
        if is_indexed(x):
            x, index = x["inputs"], arrays.dense(x["sample_index"])
        labels = (y,) if sample_weight is None else (y, sample_weight)
        # tf.data converts a list into one tensor, hence tuples.
        inputs, labels = keras.tree.lists_to_tuples(
            keras.tree.map_structure(arrays.dense, (x, labels))
        )
        first = next(iter(keras.tree.flatten(labels[0])), None)
        is_array = isinstance(first, np.ndarray) and first.ndim > 0
        if index is None:
            index = np.arange(len(first) if is_array else 0, dtype=np.int32)
        lengths = {array.shape[:1] for array in keras.tree.flatten((inputs, index, labels))}
        complete = is_array and keras.tree.flatten(inputs)
        if len(lengths) != 1 or lengths & {(), (0,)} or not complete:
            raise ValueError(
                "Arrays need one row per sample. "
                f"Received: arrays whose first dimensions are {sorted(lengths)}. Expected: one "
                "length, at least 1; for Python lists write `np.asarray(x)`."
            )
        (self.num_samples,) = lengths.pop()
        self.inputs, self.sample_index, self.labels = inputs, index, labels
        # Then the row numbers are the index, and no index is gathered.
        self.by_row = np.array_equal(index, np.arange(self.num_samples))

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
    def sizes(self) -> set[int]:
        """The sizes of an epoch's batches."""
        size = min(self.batch_size, self.num_drawn)
        return {size, self.num_drawn % size or size}

    @property
    def distinct(self) -> bool:
        """Whether it is certain that no batch contains an index twice."""
        one_pass = self.steps_per_epoch is None or self.num_samples % self.batch_size == 0
        # A subclass may draw samples in another way.
        if not one_pass or type(self) is not SampleBatches:
            return False
        # Row numbers are distinct, which saves the sort.
        return self.by_row or len(np.unique(self.sample_index)) == self.num_samples

    @property
    def in_step(self) -> bool:
        """Whether part of the augmentation runs inside the compiled step."""
        return self.on_device or bool(self.layers)

    @property
    def draws(self) -> bool:
        """Whether batches need random numbers besides their order."""
        return self.augment is not None or bool(self.layers)

    def start_epoch(self, epoch: int, seed: int = 0) -> None:
        """Sets the epoch; `seed` is used if the batches have no seed of their own."""
        self.epoch = epoch
        self._seed = seed if self.seed is None else self.seed
        self._order = None

    def plain_inputs(self, rows: Any) -> Any:
        """The inputs of a row, of an array or of a slice of rows, without augmentation."""
        return keras.tree.map_structure(lambda array: array[rows], self.inputs)

    def stored_inputs(self, rows: Any) -> Any:
        """What checksums of the inputs of rows are computed of."""
        return self.plain_inputs(rows)

    def epoch_order(self) -> np.ndarray:
        """Row numbers in the order in which the current epoch draws them, int32."""
        first, last = self.epoch * self.num_drawn, (self.epoch + 1) * self.num_drawn
        passes = range(first // self.num_samples, -(-last // self.num_samples))
        stream = np.concatenate([self._pass_order(number) for number in passes])
        skipped = passes[0] * self.num_samples
        return stream[first - skipped : last - skipped]

    def _pass_order(self, number: int) -> np.ndarray:
        rows = np.arange(self.num_samples, dtype=np.int32)
        if self.shuffle == "batch":
            return self._shuffled_batches(rows, number)
        return sample_order(self._seed, number, self.num_samples) if self.shuffle else rows

    def _shuffled_batches(self, rows: np.ndarray, number: int) -> np.ndarray:
        """Rows whose full batches are shuffled; the rest stays last, as in Keras."""
        full = self.num_samples // self.batch_size
        batches = rows[: full * self.batch_size].reshape(full, self.batch_size)
        order = sample_order(self._seed, number, full)
        return np.concatenate([batches[order].ravel(), rows[batches.size :]])

    def epoch_draws(self, order: np.ndarray) -> np.ndarray:
        """The random numbers of the augmentation of these rows in the current epoch, int32 >= 0."""
        with np.errstate(over="ignore"):
            draws = mix(self._seed, self.epoch, self.sample_index[order], AUGMENTATION)
        return (draws >> np.uint32(1)).astype(np.int32)

    def __getitem__(self, step: int) -> tuple:
        if self._order is None:
            self._order = self.epoch_order()
        rows = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        # A copy, as the batch may contain it as its index.
        rows = processes.own_part(rows).copy()
        draws = self.epoch_draws(rows) if self.draws else None
        return self._batch(self._arrays(), rows, draws, np.take, np)

    def _arrays(self) -> tuple:
        """The arrays from which the host gathers batches; None for those that it does not need."""
        pixels = None if self.augment is None or self.on_device else self.pixels
        inputs = self.inputs if self.augment is None else None
        return pixels, inputs, None if self.by_row else self.sample_index, self.labels

    def _batch(self, sources: tuple, rows: Any, draws: Any, take: Any, numpy: Any) -> tuple:
        """The batch of some rows, gathered from arrays on the host or from tensors in tf.data."""
        pixels, inputs, sample_index, labels = sources

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
        if self.index_validated:
            x["index_validated"] = ()
        return x, *keras.tree.map_structure(of_rows, labels)

    def tf_dataset(self) -> Any:
        """The same batches as a `tf.data.Dataset`, which reads `epoch` at each iteration."""
        import tensorflow as tf

        tensors = keras.tree.map_structure(tf.convert_to_tensor, self._arrays(), none_is_leaf=False)

        def epoch():
            order = self.epoch_order()
            return np.stack([order, self.epoch_draws(order)] if self.draws else [order])

        # These functions need no AutoGraph, which would take half a second.
        without_autograph = tf.autograph.experimental.do_not_convert

        @without_autograph
        def drawn(_):
            # One tensor: for several, debug mode and graphs give different structures.
            parts = tf.numpy_function(epoch, [], tf.int32)
            return tuple(tf.unstack(tf.ensure_shape(parts, [1 + self.draws, self.num_drawn])))

        @without_autograph
        def batches(*epoch):
            # Rows of a matrix are cheaper than slices of an epoch. If all batches have one size,
            # the step knows it before it runs.
            rest = self.num_drawn % self.batch_size
            full = self.num_drawn - rest
            batches = tf.data.Dataset.from_tensor_slices(
                tuple(tf.reshape(part[:full], [-1, self.batch_size]) for part in epoch)
            )
            if not rest:
                return batches
            last = tf.data.Dataset.from_tensors(tuple(part[full:] for part in epoch))
            return batches.concatenate(last)

        @without_autograph
        def gather(rows, draws=None):
            return self._batch(tensors, rows, draws, tf.gather, keras.ops)

        return (
            tf.data.Dataset.from_tensors(0)
            .map(drawn)
            .flat_map(batches)
            .map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .apply(tf.data.experimental.assert_cardinality(self.num_batches))
            .prefetch(tf.data.AUTOTUNE)
            .apply(without_tuner)
        )

    def fingerprint(self) -> dict[str, Any]:
        """Numbers, names and checksums that identify the data and its order; JSON-able.

        The checksum covers labels, indices, sample weights, and up to 256 rows of the inputs.

        Example:
            >>> keras_lstsd.data.SampleBatches(x, y, batch_size=4, seed=1).fingerprint()
            # {"type": "SampleBatches", "samples": 10, "checksum": 3561812731, "batches": 3,
            #  "drawn": 10, "batch_size": 4, "shuffle": True, "seed": 1, "augment": None,
            #  "layers": []}
        """
        last = self.num_samples - 1
        rows = np.linspace(0, last, min(self.num_samples, CHECKED_SAMPLES)).astype(int)
        layers = [[type(layer).__name__, arrays.layer_checksum(layer)] for layer in self.layers]
        return {
            "type": type(self).__name__,
            "samples": self.num_samples,
            "checksum": arrays.checksum((self.stored_inputs(rows), self.sample_index, self.labels)),
            "batches": self.num_batches,
            "drawn": self.num_drawn,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": None if self.seed is None else int(self.seed),
            "augment": None if self.augment is None else self.augment.get_config(),
            "layers": layers,
        }

    def sample_checksums(self) -> dict[int, tuple[int, int]]:
        """Checksums of up to 256 samples: sample index -> (CRC-32 of inputs, CRC-32 of label).

        The samples are those with the smallest hashes of their index, so two datasets with common
        indices have checksums of many common samples. Of a repeated index the first row counts.

        Example:
            >>> before, after = first.sample_checksums(), second.sample_checksums()
            >>> moved = [i for i in before.keys() & after.keys() if before[i] != after[i]]
        """
        with np.errstate(over="ignore"):
            keys = mix(self.sample_index)
        rows = np.arange(self.num_samples)
        if self.num_samples > CHECKED_SAMPLES:
            largest = np.partition(keys, CHECKED_SAMPLES - 1)[CHECKED_SAMPLES - 1]
            rows = np.flatnonzero(keys <= largest)
        index, first = np.unique(self.sample_index[rows], return_index=True)
        checksums = {}
        for sample, row in zip(index.tolist(), rows[first].tolist(), strict=True):
            inputs = self.stored_inputs(row)
            label = keras.tree.map_structure(lambda array, row=row: array[row], self.labels[0])
            checksums[sample] = arrays.checksum(inputs), arrays.label_checksum(label)
        return checksums


def without_tuner(dataset: Any) -> Any:
    """A `tf.data.Dataset` without the thread that tunes it; its maps run on all cores.

    At the end of a pass that thread sleeps on, up to as long as the pass took, and delays the end.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
