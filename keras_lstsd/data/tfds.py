"""Rows from tensorflow-datasets (an optional dependency), in a fixed order."""

from typing import Any

import numpy as np


def rows(name: str, split: str) -> list[dict]:
    """All rows of a split as NumPy, in the order of its files: the row number is the index.

    Args:
        name: name of the dataset in tensorflow-datasets, which may download it.
        split: name of the split in tensorflow-datasets.

    Raises:
        ImportError: without tensorflow-datasets.

    Example:
        >>> keras_lstsd.data.tfds.rows("glue/rte", "validation")[0]["label"]
    """
    tfds = _tfds(name)
    return list(tfds.as_numpy(tfds.load(name, split=split, shuffle_files=False)))


def encoded_images(name: str, split: str) -> tuple[list[bytes], np.ndarray, list[str]]:
    """The images of a split as its files have them, not decoded, in the order of its files.

    Args:
        name: name of a dataset with the features "image" and "label".
        split: its split, or several as `"train+validation"`.

    Returns:
        Encoded images, their classes as int32 `[images]`, and the names of the classes.

    Raises:
        ImportError: without tensorflow-datasets.

    Example:
        >>> images, labels, class_names = keras_lstsd.data.tfds.encoded_images("dtd", "train")
    """
    tfds = _tfds(name)
    decoders = tfds.decode.PartialDecoding(
        {"image": True, "label": True}, decoders={"image": tfds.decode.SkipDecoding()}
    )
    data, info = tfds.load(
        name, split=split, shuffle_files=False, decoders=decoders, with_info=True
    )
    found = list(tfds.as_numpy(data))
    labels = np.array([row["label"] for row in found], np.int32)
    return [row["image"] for row in found], labels, list(info.features["label"].names)


def _tfds(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{name} needs a folder of files or tensorflow-datasets, which is not installed. "
            "Pass `data_dir` (`--data_dir` of a recipe), or write: pip install "
            "'keras-lstsd[data]'"
        ) from error
    return tfds
