"""CIFAR-100: 32x32 photographs in 100 classes, from official files or tensorflow-datasets."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_lstsd.data import tfds

SIZES = {"train": 50_000, "test": 10_000}
"""Samples of each split."""
NUM_CLASSES = 100
# Mean and deviation of each channel over the 50,000 training images of the official file.
MEAN = np.array([129.304166, 124.069963, 112.434050], np.float32)
"""Red, green and blue, in [0, 255]."""
STD = np.array([68.170243, 65.391808, 70.418370], np.float32)
FINE_LABELS = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905
)
_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_PIXELS = 3 * 32 * 32


class Images(NamedTuple):
    """A split; the row number is the sample's index."""

    images: np.ndarray
    """uint8 `[samples, 32, 32, 3]`."""
    labels: np.ndarray
    """Fine labels, as positions in `FINE_LABELS`: int32 `[samples]`."""


def load(split: str = "train", data_dir: str | Path | None = None) -> Images:
    """Loads a split of CIFAR-100.

    Args:
        split: `"train"` or `"test"`.
        data_dir: the folder `cifar-100-binary` or `cifar-100-python` of the official download; a
            folder with one of them or with its archive (`cifar-100-binary.tar.gz`); or such an
            archive, which is read in memory. None takes tensorflow-datasets, which may download.

    Raises:
        ValueError: for an unknown split, or a damaged file. Files of the Python version are
            pickles; only their data is read, and no code in them is executed.
        FileNotFoundError: when no such file is in `data_dir`.
        ImportError: without `data_dir` and without tensorflow-datasets.

    Example:
        >>> cifar100 = keras_lstsd.data.cifar100
        >>> images, labels = cifar100.load("train", data_dir="cifar-100-binary")
        >>> x_train = (images - cifar100.MEAN) / cifar100.STD

    Source: Krizhevsky 2009.
    """
    if split not in SIZES:
        raise ValueError(
            f"The split is unknown. Received: split={split!r}. Expected: 'train' or 'test'."
        )
    if data_dir is None:
        rows = tfds.rows("cifar100", split)
        labels = np.array([row["label"] for row in rows], np.int32)
        return Images(np.stack([row["image"] for row in rows]), labels)
    name, content = _find(Path(data_dir), split)
    try:
        pixels, fine, coarse = (_records if name.endswith(".bin") else _unpickled)(content)
        _check(pixels, fine, coarse, SIZES[split])
    except Exception as error:  # A damaged pickle can raise any exception.
        raise ValueError(
            f"{name} is not CIFAR-100's official {split} file. Received: {error!r}. "
            f"Expected: {SIZES[split]} images with their labels; download it again from {_HOME}."
        ) from error
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(images), fine.astype(np.int32))


def _find(data_dir: Path, split: str) -> tuple[str, bytes]:
    """The name of a split's file, and its bytes."""
    members = (f"cifar-100-binary/{split}.bin", f"cifar-100-python/{split}")
    if data_dir.is_file():
        return _from_archive(data_dir, members)
    archives = ("cifar-100-binary.tar.gz", "cifar-100-python.tar.gz")
    for name in (*members, *archives, f"{split}.bin", split):
        path = data_dir / name
        if path.is_file():
            if name in archives:
                return _from_archive(path, members)
            return str(path), path.read_bytes()
    raise FileNotFoundError(
        f"CIFAR-100's {split} split is missing. Received: data_dir={str(data_dir)!r}. Expected: a "
        f"folder with {', '.join((*members, *archives))}, {split}.bin or {split} in it, or an "
        f"archive of these names, from {_HOME}."
    )


def _from_archive(path: Path, members: tuple[str, ...]) -> tuple[str, bytes]:
    found, names = None, []
    with path.open("rb") as file:
        try:
            with gzip.open(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    names.append(member.name)
                    if member.isfile() and member.name.removeprefix("./") in members:
                        found = f"{path}/{member.name}", archive.extractfile(member).read()
                stream.read()  # Up to the checksum of gzip, which is at the end.
        except Exception as error:  # A damaged archive can raise any exception.
            raise ValueError(
                f"{path} is damaged or not a tar.gz archive. Received: {error!r}. Expected: the "
                f"official archive of CIFAR-100; download it again from {_HOME}."
            ) from error
    if found is None:
        raise ValueError(
            f"{path} is not an archive of CIFAR-100. Received: an archive of {names[:8]}. "
            f"Expected: {' or '.join(members)} in it; download it again from {_HOME}."
        )
    return found


def _records(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, fine and coarse labels of the binary version."""
    records, rest = divmod(len(content), 2 + _PIXELS)
    if rest:
        raise ValueError(f"{records} records of {2 + _PIXELS} bytes, and {rest} bytes")
    table = np.frombuffer(content, np.uint8).reshape(records, 2 + _PIXELS)
    return table[:, 2:], table[:, 1], table[:, 0]


def _unpickled(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, fine and coarse labels of the Python version."""
    saved = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    _, shape, dtype, is_fortran, pixels = saved[b"data"].state
    if dtype.arguments[0] != b"u1":
        raise ValueError(f"pixels of type {dtype.arguments[0]}")
    pixels = np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if is_fortran else "C")
    return pixels, np.array(saved[b"fine_labels"]), np.array(saved[b"coarse_labels"])


def _check(pixels: np.ndarray, fine: np.ndarray, coarse: np.ndarray, size: int) -> None:
    if pixels.shape != (size, _PIXELS):
        raise ValueError(f"pixels of shape {pixels.shape}")
    for name, labels, limit in (("fine", fine, NUM_CLASSES), ("coarse", coarse, 20)):
        if labels.shape != (size,):
            raise ValueError(f"{name} labels of shape {labels.shape}")
        if not np.isin(labels, np.arange(limit)).all():
            raise ValueError(f"{name} labels that are not 0 to {limit - 1}")


class _Saved:
    """A pickled array as data: arguments and state, without any call."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Accepts the three names in an array that Python 2 pickled, and rejects all others."""

    def find_class(self, module, name):
        array = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
        if f"{module}.{name}" not in array:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")
        return _Saved
