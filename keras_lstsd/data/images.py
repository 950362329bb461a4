"""Encoded images that are read by row number: a folder of classes, or TFRecords."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstsd.saving import replacing

ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
# A TFRecord is its length (8 bytes), a checksum (4), the content, and a checksum (4).
LENGTH, CHECKSUM = 8, 4


class ImageFiles(Sequence):
    """The encoded images of files: `images[row]` is the content of file `row`, as bytes.

    Args:
        paths: the files; their order is the sample index.

    Example:
        >>> images = keras_lstsd.data.ImageFiles(["images/class0/1.png", "images/class1/1.png"])
        >>> images.name(1)                                           # "images/class1/1.png"
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [os.fspath(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> bytes:
        with open(self.paths[row], "rb") as file:
            return file.read()

    def name(self, row: int) -> str:
        """Where an image is from, for messages."""
        return self.paths[row]


def image_folder(
    folder: str | Path, class_names: Sequence[str] | None = None
) -> tuple[ImageFiles, np.ndarray, list[str]]:
    """The images of a folder tree `folder/<class>/<image>`, as JPEG, PNG, GIF or BMP.

    Classes and the images of a class are sorted by name, so a row means the same image after a
    restart. Files with other endings, hidden folders and folders inside a class are ignored.

    Args:
        folder: the folder.
        class_names: the classes of another split, whose numbers count; None: those of the folder.

    Returns:
        Images, their classes as int32 `[images]`, and the names of the classes.

    Raises:
        ValueError: for a folder without images, a class without images, and a class that
            `class_names` does not have.

    Example:
        >>> images, labels, class_names = keras_lstsd.data.image_folder("images")
        >>> batches = keras_lstsd.data.ImageBatches(images, labels, batch_size=2)
    """
    folders = {}
    if Path(folder).is_dir():
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        folders = {e.name: e.path for e in found if e.is_dir() and not e.name.startswith(".")}
    names = sorted(folders) if class_names is None else list(class_names)
    files = {name: _images_in(path) for name, path in folders.items()}
    wrong = [name for name in files if name not in names or not files[name]]
    if wrong or not files:
        raise ValueError(
            "A folder of images needs a folder with images for each class. "
            f"Received: {folder} with {len(files)} classes; of unknown name or without images: "
            f"{wrong[:5]}. Expected: {folder}/<class>/<image>, with the endings "
            f"{', '.join(ENDINGS)}" + (f", and classes of {names[:5]} ..." if class_names else ".")
        )
    counts = [len(files.get(name, ())) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return ImageFiles([path for name in names for path in files.get(name, ())]), labels, names


def _images_in(folder: str) -> list[str]:
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(ENDINGS))
    return [os.path.join(folder, name) for name in names]


class ImageRecords(Sequence):
    """The encoded images of TFRecord files: `images[row]` are the bytes of one image.

    Rows count the records of the first file, then those of the second one, and so on. All files
    are read once, for the place and the label of each record; ImageNet's training set has 138 GiB.
    With `cache`, this is stored, and a restart reads the small file only.

    Attributes: `labels`, as stored in the records, int32 `[records]`.

    Args:
        files: uncompressed TFRecord files of `tf.train.Example`; sort them by name.
        image_key: the feature with the encoded image.
        label_key: the feature with the label; in ImageNet's files it counts from 1.
        cache: a file for the places and labels; it is written again where names or sizes of the
            files have changed.

    Raises:
        ValueError: for a damaged file or record and for a missing feature; it names file and
            record.

    Example:
        >>> files = sorted(Path("records").glob("train-*-of-*"))
        >>> images = keras_lstsd.data.ImageRecords(files, cache="records.npz")
        >>> images.name(0)                             # "records/train-00000-of-00001, record 0"
        >>> batches = keras_lstsd.data.ImageBatches(images, images.labels - 1)
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        image_key: str = "image/encoded",
        label_key: str = "image/class/label",
        cache: str | Path | None = None,
    ):
        self.files = [os.fspath(file) for file in files]
        self.image_key, self.label_key = image_key, label_key
        names = [[os.path.basename(file), os.path.getsize(file)] for file in self.files]
        facts = json.dumps([names, label_key])
        parts = None
        if cache is not None and os.path.exists(cache):
            with np.load(cache) as stored:
                if str(stored["facts"]) == facts:
                    parts = [stored[name] for name in ("counts", "places", "labels")]
        if parts is None:
            with ThreadPoolExecutor() as pool:
                scanned = list(pool.map(self._scan, range(len(self.files))))
            counts = np.array([len(labels) for _, labels in scanned], np.int64)
            parts = [counts, *(np.concatenate(part) for part in zip(*scanned, strict=True))]
            if cache is not None:
                with replacing(cache) as part, part.open("wb") as file:
                    counts, places, labels = parts
                    np.savez(file, facts=facts, counts=counts, places=places, labels=labels)
        counts, self._places, self.labels = parts
        self._ends = counts.cumsum()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> bytes:
        file, record = self._file_and_record(row)
        offset, length = self._places[row].tolist()
        with open(self.files[file], "rb") as stream:
            stream.seek(offset)
            content = stream.read(length)
        return self._feature(content, self.image_key, file, record).bytes_list.value[0]

    def name(self, row: int) -> str:
        """Where an image is from, for messages."""
        file, record = self._file_and_record(row)
        return f"{self.files[file]}, record {record}"

    def _file_and_record(self, row: int) -> tuple[int, int]:
        row = range(len(self))[row]
        file = int(np.searchsorted(self._ends, row, side="right"))
        return file, row - (int(self._ends[file - 1]) if file else 0)

    def _scan(self, file: int) -> tuple[np.ndarray, np.ndarray]:
        """Places `[records, 2]` (offset and length of the content) and labels of a file."""
        places, labels, path = [], [], self.files[file]
        size, at = os.path.getsize(path), 0
        with open(path, "rb") as stream:
            while at < size:
                header = stream.read(LENGTH + CHECKSUM)
                start, length = at + len(header), int.from_bytes(header[:LENGTH], "little")
                at = start + length + CHECKSUM
                if len(header) < LENGTH + CHECKSUM or at > size:
                    raise ValueError(
                        "A TFRecord file is damaged. "
                        f"Received: {path} with {size} bytes, whose record {len(labels)} ends at "
                        f"byte {at}. Expected: a complete, uncompressed TFRecord file; copy it "
                        "again."
                    )
                content = stream.read(length + CHECKSUM)[:length]
                label = self._feature(content, self.label_key, file, len(labels))
                labels.append(label.int64_list.value[0])
                places.append((start, length))
        return np.array(places, np.int64).reshape(-1, 2), np.array(labels, np.int32)

    def _feature(self, content: bytes, key: str, file: int, record: int) -> Any:
        """A feature of an Example, which must have one value."""
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        try:
            features = tf.train.Example.FromString(content).features.feature
        except DecodeError:
            features = {}
        feature = features[key] if key in features else tf.train.Feature()
        if len(feature.bytes_list.value) + len(feature.int64_list.value) != 1:
            raise ValueError(
                f"A record has no feature {key!r} with one value. "
                f"Received: {self.files[file]}, record {record}, with the features "
                f"{sorted(features)}. Expected: an undamaged `tf.train.Example`, or "
                "`ImageRecords(files, image_key=..., label_key=...)` with the names in the files."
            )
        return feature
