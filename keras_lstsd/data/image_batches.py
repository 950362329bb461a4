"""Batches of encoded images: cropped by (seed, epoch, sample_index), or at the centre."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lstsd.checks import count
from keras_lstsd.data.batches import SampleBatches
from keras_lstsd.data.order import mix

# Of a random crop: shares of the image's area, ratios of width to height, attempts.
AREAS = (0.08, 1.0)
RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10
# The shorter side before the crop at the centre, for crops of 224.
SHORTER, CENTRE = 256, 224


def random_crop(draw: int, height: int, width: int) -> tuple[int, int, int, int, bool]:
    """The crop of an image that follows from a random integer.

    With area ~ U(0.08, 1) and ln ratio ~ U(ln 3/4, ln 4/3) of up to 10 attempts, the first that
    fits: width = sqrt(area * ratio), height = sqrt(area / ratio), at a uniform position. If none
    fits: the largest crop at the centre with a ratio in these limits.

    Args:
        draw: the random integer.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        Top, left, height and width of the crop in pixels; whether to flip it horizontally.

    Example:
        >>> keras_lstsd.data.image_batches.random_crop(5, 375, 500)
        # (80, 135, 293, 221, True)

    Source: Szegedy et al. 2015, as in the examples of PyTorch.
    """
    with np.errstate(over="ignore"):
        uniform = mix(int(draw), np.arange(4 * ATTEMPTS + 1)) / 2**32
    flip = bool(uniform[-1] < 0.5)
    share, ratio, top, left = uniform[:-1].reshape(4, ATTEMPTS)
    area = height * width * (AREAS[0] + (AREAS[1] - AREAS[0]) * share)
    low, high = np.log(RATIOS)
    ratio = np.exp(low + (high - low) * ratio)
    heights, widths = (np.rint(np.sqrt(sides)) for sides in (area / ratio, area * ratio))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    if fits.any():
        first = fits.argmax()
        h, w = int(heights[first]), int(widths[first])
        return int(top[first] * (height - h + 1)), int(left[first] * (width - w + 1)), h, w, flip
    h = min(height, round(width / RATIOS[0]))
    w = min(width, round(height * RATIOS[1]))
    return (height - h) // 2, (width - w) // 2, h, w, flip


def decode(encoded: bytes, size: int, draw: int | None = None) -> np.ndarray:
    """An encoded image as RGB, uint8 `[size, size, 3]`.

    Resizing is bilinear, and smoothed where the image becomes smaller.

    Args:
        encoded: JPEG, PNG, GIF (the first frame) or BMP.
        size: height and width of the result.
        draw: the integer of a `random_crop`. None: the shorter side is resized to
            `size * 256 / 224`, and the centre is cropped.

    Raises:
        tf.errors.InvalidArgumentError: for bytes that are no such image.

    Example:
        >>> encoded = Path("images/class0/1.png").read_bytes()
        >>> keras_lstsd.data.image_batches.decode(encoded, 224).shape         # (224, 224, 3)
    """
    import tensorflow as tf

    # Operations of TensorFlow, each run by itself: Python may read another image meanwhile.
    with tf.device("CPU:0"):
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
        height, width, _ = image.shape
        if draw is None:
            flip, shorter = False, round(size * SHORTER / CENTRE)
            sides = [shorter * side // min(height, width) for side in (height, width)]
            offsets = [-float(round((side - size) / 2)) for side in sides]
        else:
            top, left, height, width, flip = random_crop(draw, height, width)
            image = image[top : top + height, left : left + width]
            sides, offsets = [size, size], [0.0, 0.0]
        resized = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=[size, size],
            scale=[sides[0] / height, sides[1] / width],
            translation=offsets,
            kernel_type="triangle",
            antialias=True,
        ).numpy()[0]
    resized = np.rint(resized).astype(np.uint8)
    return resized[:, ::-1] if flip else resized


class ImageBatches(SampleBatches):
    """`SampleBatches` of encoded images, which are read and decoded batch by batch.

    Inputs are uint8 `[batch, image_size, image_size, 3]`. In training each image is a random crop
    (`random_crop`), resized and flipped with probability 1/2. It follows from (seed, epoch,
    sample_index), so an interrupted run that resumes gets the same images bit for bit. TensorFlow
    decodes them, on every backend; on TensorFlow's, several batches at a time.

    Args:
        images: a sequence of encoded images (bytes), such as `ImageFiles`, `ImageRecords` or a
            list; JPEG, PNG, GIF or BMP. Its row number is the sample index.
        y: labels, one row per image.
        sample_weight: None or array `[images]`.
        batch_size, shuffle, seed, steps_per_epoch: see `SampleBatches`.
        image_size: height and width of a batch's images, in pixels.
        augment: True for random crops; False for the centre of each image.
        num_classes: None, or the number of classes: the class numbers in `y` then become one-hot
            rows in each batch, float32, all-zero for -1. Label smoothing needs them.

    Raises:
        ValueError: for decoded images, and for `num_classes` when `y` has other labels than class
            numbers; see also `SampleBatches`. In `fit`, for a broken image, which is named.

    Example:
        >>> images, labels, _ = keras_lstsd.data.image_folder("images")
        >>> batches = keras_lstsd.data.ImageBatches(images, labels, batch_size=2, image_size=32)
        >>> model = keras_lstsd.LSTSD(image_student, top_k=8)
        >>> model.compile("sgd", "sparse_categorical_crossentropy")
        >>> model.fit(batches, epochs=160)
    """

    def __init__(
        self,
        images: Sequence[bytes],
        y: Any,
        sample_weight: Any = None,
        batch_size: int = 32,
        shuffle: bool | str = True,
        seed: int | None = None,
        steps_per_epoch: int | None = None,
        image_size: int = 224,
        augment: bool = True,
        num_classes: int | None = None,
    ):
        if len(images) and not isinstance(images[0], bytes):
            raise ValueError(
                "Images must be encoded. "
                f"Received: a first image of type {type(images[0]).__name__}. Expected: bytes; "
                "for arrays of images write `SampleBatches(x, y, augment=CropAndFlip())`."
            )
        self.images = images
        self.size = count("image_size", image_size)
        self.random_crops = bool(augment)
        self.num_classes = None if num_classes is None else count("num_classes", num_classes)
        # The inputs of the base class are row numbers.
        rows = np.arange(len(images), dtype=np.int32)
        super().__init__(rows, y, sample_weight, batch_size, shuffle, seed, steps_per_epoch)
        if self.num_classes is not None:
            self._check_classes(self.labels[0])

    def _check_classes(self, y: Any) -> None:
        numbers = isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "iu"
        if not numbers or y.max() >= self.num_classes or y.min() < -1:
            received = f"{y.dtype} {y.shape}" if isinstance(y, np.ndarray) else type(y).__name__
            received += f" from {y.min()} to {y.max()}" if numbers else ""
            raise ValueError(
                "`num_classes` makes one-hot rows of class numbers. "
                f"Received: num_classes={self.num_classes} and labels {received}. Expected: "
                "integers [images] from 0 to num_classes - 1, or -1 for no label."
            )

    @property
    def distinct(self) -> bool:
        one_pass = self.steps_per_epoch is None or self.num_samples % self.batch_size == 0
        # A subclass may draw samples in another way.
        return one_pass and type(self) is ImageBatches

    @property
    def draws(self) -> bool:
        return self.random_crops

    def plain_inputs(self, rows: Any) -> np.ndarray:
        return self._decoded(np.atleast_1d(self.inputs[rows]))

    def stored_inputs(self, rows: Any) -> np.ndarray:
        """The CRC-32 of encoded images: nothing is decoded."""
        rows = np.atleast_1d(self.inputs[rows])
        return np.array([zlib.crc32(self.images[row]) for row in rows], np.uint32)

    def _decoded(self, rows: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
        import tensorflow as tf

        batch = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for place, row in enumerate(rows.tolist()):
            encoded = self.images[row]
            try:
                batch[place] = decode(encoded, self.size, None if draws is None else draws[place])
            except tf.errors.InvalidArgumentError as error:
                name = getattr(self.images, "name", "image {}".format)(row)
                raise ValueError(
                    f"An image cannot be decoded. Received: {name}, {len(encoded)} bytes "
                    f"({error.message}). Expected: an undamaged JPEG, PNG, GIF or BMP; replace "
                    "the image, or leave it out."
                ) from None
        return batch

    def _batch(self, sources: tuple, rows: Any, draws: Any, take: Any, numpy: Any) -> tuple:
        x, y, *weights = super()._batch(sources, rows, draws, take, numpy)
        drawn = [draws] if self.draws else []
        if numpy is np:
            x["inputs"] = self._decoded(rows, *drawn)
            if self.num_classes is not None:
                y = np.float32(y[:, None] == np.arange(self.num_classes))
            return x, y, *weights
        import tensorflow as tf

        images = tf.numpy_function(self._decoded, [rows, *drawn], tf.uint8)
        x["inputs"] = tf.ensure_shape(images, [*rows.shape, self.size, self.size, 3])
        if self.num_classes is not None:
            y = tf.one_hot(y, self.num_classes)
        return x, y, *weights

    def fingerprint(self) -> dict[str, Any]:
        crops = "random" if self.random_crops else "centre"
        settings = {"augment": f"{crops} crop of {self.size}", "classes": self.num_classes}
        return super().fingerprint() | settings
