"""Augmentation that depends on (seed, epoch, sample_index) only, on the host or in the step."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd.checks import count
from keras_lstsd.compat import layers_of

# A row or column outside the image; a pixel number with one in it is negative.
OUTSIDE = -(2**30)
MIXING_LAYERS = ("CutMix", "FourierMix", "MixUp")


class CropAndFlip:
    """Pads images, crops them at random to their original size, and flips half of them.

    The standard augmentation of CIFAR: pad 4, random 32x32 crop, flip with probability 1/2. Crop
    and flip of an image follow from one random integer, which `SampleBatches` computes from
    (seed, epoch, sample_index).

    Args:
        pad: pixels on each side; with 0 nothing is cropped.
        flip: whether to flip images horizontally.
        fill: value of the padding, or one value per channel. The mean colour becomes 0 after
            normalization.

    Raises:
        ValueError: for a negative `pad`.

    Example:
        >>> augment = keras_lstsd.data.CropAndFlip(pad=4, fill=(129, 124, 112))
        >>> images = np.zeros((12, 32, 32, 3), "uint8")
        >>> batches = keras_lstsd.data.SampleBatches(images, y_train, augment=augment)

    Source: He et al. 2016, section 4.2.

    Differences from the paper: the paper pads with zeros after normalization.
    """

    def __init__(self, pad: int = 4, flip: bool = True, fill: float | Sequence[float] = 0):
        self.pad = count("pad", pad, at_least=0)
        self.flip = flip
        self.fill = fill

    def __repr__(self) -> str:
        return f"CropAndFlip(pad={self.pad}, flip={self.flip}, fill={self.fill})"

    def get_config(self) -> dict[str, Any]:
        """The settings as numbers and lists."""
        return {"pad": self.pad, "flip": bool(self.flip), "fill": np.asarray(self.fill).tolist()}

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """The pixels of images `[n, h, w, c]` as `[n h w + 1, c]`; the last one is the padding.

        Raises:
            ValueError: when `images` is not one array of images, or has more than 2^30 pixels.
        """
        if not isinstance(images, np.ndarray):
            raise ValueError(
                "Images are augmented as one array. "
                f"Received: inputs of type {type(images).__name__}. Expected: x is an array "
                "[samples, height, width, channels]; for several inputs use a tf.data.Dataset "
                "and augment the images there."
            )
        if images.ndim != 4 or images[..., 0].size > -OUTSIDE:
            raise ValueError(
                "`augment` works on images in memory. "
                f"Received: an array of shape {images.shape}. Expected: [samples, height, width, "
                "channels] with at most 2^30 pixels; for more of them augment in a tf.data.Dataset."
            )
        fill = np.broadcast_to(np.asarray(self.fill, images.dtype), (1, images.shape[-1]))
        return np.concatenate([images.reshape(-1, images.shape[-1]), fill])

    def __call__(
        self, pixels: Any, rows: Any, draws: Any, height: int, width: int, numpy: Any = ops
    ) -> Any:
        """Augmented images of some rows: `[batch, height, width, channels]`.

        Args:
            pixels: the result of `pixels(images)`.
            rows: row numbers of the images, int32 `[batch]`.
            draws: random integers that determine crop and flip, int32 `[batch]`, at least 0.
            height: height of an image.
            width: width of an image.
            numpy: `keras.ops`, or `numpy` for arrays on the host; both give the same images.
        """
        span = 2 * self.pad + 1
        line = numpy.arange(height, dtype="int32")[None] + (draws % span - self.pad)[:, None]
        column = numpy.arange(width, dtype="int32")[None]
        if self.flip:
            flipped = draws // span**2 % 2 == 1
            column = numpy.where(flipped[:, None], width - 1 - column, column)
        column = column + (draws // span % span - self.pad)[:, None]
        inside = (line >= 0) & (line < height)
        line = numpy.where(inside, (rows[:, None] * height + line) * width, OUTSIDE)
        column = numpy.where((column >= 0) & (column < width), column, OUTSIDE)
        pixel = line[:, :, None] + column[:, None, :]
        padding = int(pixels.shape[0]) - 1
        return numpy.take(pixels, numpy.where(pixel >= 0, pixel, padding), axis=0)


def mixes(layer: Any) -> bool:
    """Whether a layer, or one inside it, mixes the samples of a batch and their labels."""
    return any(
        kind.__name__ in MIXING_LAYERS for inner in layers_of(layer) for kind in type(inner).__mro__
    )


def check_mixing(layers: Sequence[Any], y: Any) -> None:
    """Rejects labels that cannot be mixed, and a layer that mixes in half precision.

    Raises:
        ValueError: for a layer that mixes samples, when labels are not one-hot, or when it does
            not compute in float32.
    """
    mixing = [layer for layer in layers if mixes(layer)]
    if not mixing:
        return
    shape = keras.tree.map_structure(lambda array: array.shape, y)
    is_one = isinstance(y, np.ndarray) and y.ndim == 2
    if not is_one or (y.shape[1] == 1 and y.dtype.kind in "iu"):
        raise ValueError(
            "A layer that mixes samples needs one-hot labels. "
            f"Received: labels of shape {shape}. Expected: one-hot labels "
            "[samples, classes]; write `y = keras.utils.to_categorical(y)`."
        )
    for layer in mixing:
        if layer.compute_dtype != "float32":
            name = type(layer).__name__
            raise ValueError(
                "A layer that mixes samples must compute their weights in float32. "
                f"Received: {name} with {layer.compute_dtype}. Expected: "
                f"`{name}(dtype='float32')`."
            )


def transform(layers: Sequence[Any], images: Any, draws: Any) -> tuple[Any, Any]:
    """Applies preprocessing layers to a batch, with random numbers that follow from `draws`.

    Args:
        layers: Keras preprocessing layers, applied in turn.
        images: `[batch, height, width, channels]`.
        draws: random integers, int32 `[batch]`; the first one seeds the layers.

    Returns:
        `(images, mixing)`: row i of `mixing`, float32 `[batch, batch]`, contains the weights of
        the samples in image i; None if no layer mixes.
    """
    images, draws, mixing = ops.convert_to_tensor(images), ops.convert_to_tensor(draws), None
    weights = {id(weight) for layer in layers for weight in layer.weights}
    variables = [variable for layer in layers for variable in layer.variables]
    states = [variable for variable in variables if id(variable) not in weights]
    # The draw of the first sample; a replica's part of the last batch may be empty.
    draw = ops.sum(draws[:1])
    # The state of a generator would depend on the number of earlier steps.
    seeds = [ops.stack([draw + number, ops.zeros_like(draw)]) for number in range(len(states))]
    mapping = [
        (state, ops.cast(seed, state.dtype)) for state, seed in zip(states, seeds, strict=True)
    ]
    with keras.StatelessScope(state_mapping=mapping):
        for layer in layers:
            if not mixes(layer):
                images = layer(images, training=True)
                continue
            if mixing is None:
                mixing = ops.eye(ops.shape(images)[0], dtype="float32")
            # One-hot sample numbers as labels become the weights of the samples.
            mixed = layer({"images": images, "labels": mixing}, training=True)
            images, mixing = mixed["images"], mixed["labels"]
    return images, mixing


class DeviceStage(keras.layers.Layer):
    """The part of the augmentation that runs inside the compiled step.

    It holds images on the device, and preprocessing layers. Each model has one; `fit` passes it
    the batches. The images are a weight of this layer, which is not saved.
    """

    def __init__(self):
        super().__init__(trainable=False, dtype="float32", name="device_stage")
        self.batches = None
        self.built = True

    def serve(self, batches: Any) -> bool:
        """Sets the batches to augment; True if the step must be compiled again."""
        if batches is self.batches:
            return False
        had_work = self.batches is not None
        self.batches = batches if getattr(batches, "in_step", False) else None
        if hasattr(self, "pixels"):
            del self.pixels
        if self.batches is not None and batches.on_device:
            self.pixels = self.add_weight(
                shape=batches.pixels.shape,
                initializer=lambda shape, dtype: ops.convert_to_tensor(batches.pixels, dtype),
                dtype=str(batches.pixels.dtype),
                trainable=False,
                autocast=False,
                name="pixels",
            )
        return had_work or self.batches is not None

    def apply(self, x: dict, y: Any = None, sample_weight: Any = None) -> tuple[dict, Any, Any]:
        """Augments a batch from the host.

        Args:
            x: inputs with `"sample_index"` and `"draws"`.
            y: labels, one-hot if a layer mixes.
            sample_weight: None or weights `[batch]`.

        Returns:
            `(x, y, sample_weight)` for the training step; x without `"draws"`, and with
            `"mixing"` if a layer mixes.
        """
        if self.batches is None:
            raise ValueError(
                "Batches with `on_device` or `layers` are augmented inside the step of `fit`. "
                "Received: such a batch outside `fit`. Expected: `model.fit(batches)`; for a "
                "custom loop write `SampleBatches` without `on_device` and `layers`."
            )
        # When Keras builds a model for several replicas, it drops dtypes.
        inputs, draws, mixing = x["inputs"], ops.cast(x["draws"], "int32"), None
        if self.batches.on_device:
            size = self.batches.image_size
            rows = ops.cast(inputs, "int32")
            inputs = self.batches.augment(ops.convert_to_tensor(self.pixels), rows, draws, *size)
        if self.batches.layers:
            inputs, mixing = transform(self.batches.layers, inputs, draws)
        x = {key: x[key] for key in x if key != "draws"} | {"inputs": inputs}
        if mixing is not None:
            x["mixing"] = mixing
            y = y if y is None else ops.matmul(mixing, ops.cast(y, "float32"))
            if sample_weight is not None:
                sample_weight = ops.matmul(mixing, ops.cast(sample_weight, "float32"))
        return x, y, sample_weight

    def save_own_variables(self, store):
        """Saves nothing; after loading, `fit` sets the images again."""

    def load_own_variables(self, store):
        """Loads nothing."""
