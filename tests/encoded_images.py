"""Made-up images in the formats of real data sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def pixels(number: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Smooth colours that differ from image to image, uint8 `[height, width, 3]`."""
    draw = np.random.default_rng(number)
    phases = draw.uniform(0, 6, (3, 2))
    lines = np.linspace(0, 3, height)[:, None, None] + phases[:, 0]
    columns = np.linspace(0, 4, width)[None, :, None] + phases[:, 1]
    return np.uint8(127 + 60 * np.sin(lines) + 60 * np.sin(columns))


def png(number: int, height: int = 40, width: int = 48) -> bytes:
    import tensorflow as tf

    return tf.io.encode_png(pixels(number, height, width)).numpy()


def jpeg(number: int, height: int = 40, width: int = 48) -> bytes:
    import tensorflow as tf

    return tf.io.encode_jpeg(pixels(number, height, width)).numpy()


def write_tree(folder: Path, classes: int, each: int) -> None:
    """`folder/<class>/<image>`, half of them JPEG."""
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for image in range(each):
            number = label + classes * image
            encode, ending = (png, "png") if image % 2 else (jpeg, "JPEG")
            (folder / f"class{label}/{image}.{ending}").write_bytes(encode(number))


def write_records(
    file: Path,
    images: Sequence[bytes],
    labels: Sequence[int],
    image_key: str = "image/encoded",
    label_key: str = "image/class/label",
) -> None:
    """A TFRecord file as those of ImageNet."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(file)) as writer:
        for image, label in zip(images, labels, strict=True):
            feature = {
                "image/filename": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[b"n01440764_1.JPEG"])
                ),
                image_key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                label_key: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            if image_key != "image/encoded":
                del feature["image/filename"]
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
