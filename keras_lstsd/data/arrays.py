"""Arrays in memory: conversion to NumPy, and checksums of samples."""

import zlib
from typing import Any

import keras
import numpy as np


def is_ragged(array: Any) -> bool:
    """Whether data is a tf.RaggedTensor."""
    return type(array).__name__ == "RaggedTensor"


def is_sparse(array: Any) -> bool:
    """Whether data is a sparse matrix or tensor."""
    is_tensor = type(array).__name__ == "SparseTensor"
    return is_tensor or hasattr(array, "toarray") or hasattr(array, "todense")


def dense(array: Any) -> np.ndarray:
    """An array, tensor, DataFrame or Series as a NumPy array; float64 as Keras's float type.

    Raises:
        ValueError: for a sparse matrix or tensor, or for rows of unequal lengths.
    """
    kind = type(array).__name__
    if is_ragged(array):
        raise _ragged(
            f"a tf.RaggedTensor of shape {array.shape}", "`x.to_tensor()`, which pads with 0"
        )
    if is_sparse(array):
        code = "toarray()" if hasattr(array, "toarray") else "todense()"
        code = "tf.sparse.to_dense(x)" if kind == "SparseTensor" else f"x.{code}"
        raise ValueError(
            "Samples cannot be gathered from sparse data. "
            f"Received: a sparse {kind} of shape {tuple(array.shape)}. Expected: a dense array; "
            f"write `{code}`."
        )
    array = np.asarray(array)
    if array.dtype == object:
        lengths = {len(row) for row in array.flat if _is_sequence(row)}
        if lengths:
            raise _ragged(
                f"an object array of rows of the lengths {sorted(lengths)[:5]}",
                "`np.stack(x)` for rows of one shape, or `keras.utils.pad_sequences(x)`",
            )
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _is_sequence(row: Any) -> bool:
    return isinstance(row, list | tuple) or (isinstance(row, np.ndarray) and row.ndim > 0)


def _ragged(received: str, code: str) -> ValueError:
    return ValueError(
        "Samples of unequal lengths (ragged data) do not fit one array. "
        f"Received: {received}. Expected: an array with one length for all rows; write {code}."
    )


def checksum(arrays: Any, start: int = 0) -> int:
    """The CRC-32 of arrays in any structure: of dtypes, shapes and values."""
    for array in map(np.asarray, keras.tree.flatten(arrays)):
        array = array.astype(str) if array.dtype == object else array
        start = zlib.crc32(f"{array.dtype}{array.shape}".encode(), start)
        start = zlib.crc32(np.ascontiguousarray(array).tobytes(), start)
    return start


def label_checksum(labels: Any) -> int:
    """The CRC-32 of a label; equal numbers of different types have equal checksums."""
    return checksum(
        keras.tree.map_structure(
            lambda label: label.astype(np.float64) if label.dtype.kind in "biuf" else label, labels
        )
    )


def layer_checksum(layer: keras.Layer) -> int:
    """The CRC-32 of a preprocessing layer's settings, without seeds and names."""
    return zlib.crc32(repr(_settings(layer.get_config())).encode())


def _settings(value: Any) -> Any:
    """Numbers and strings of a config, in lists and dicts; None for anything else."""
    if isinstance(value, dict):
        # Layers inside have a `build_config` from their first call on.
        skipped = ("seed", "name", "build_config")
        entries = {key: _settings(entry) for key, entry in value.items() if key not in skipped}
        return {key: entry for key, entry in sorted(entries.items()) if entry is not None}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_settings(entry) for entry in value]
    return value if isinstance(value, int | float | str) else None


def split(arrays: tuple, fraction: float) -> tuple[tuple, tuple]:
    """Splits off the last `fraction` of the samples, as Keras's `validation_split` does."""
    arrays = tuple(array for array in arrays if array is not None)
    count = len(keras.tree.flatten(arrays[0])[0])
    first = int(count * (1 - fraction))
    if not 0 < first < count:
        raise ValueError(
            "`validation_split` leaves no samples on one side. "
            f"Received: validation_split={fraction} with {count} samples. "
            "Expected: a fraction between 0 and 1."
        )

    def cut(part):
        return keras.tree.map_structure(lambda array: array[part], arrays)

    return cut(slice(0, first)), cut(slice(first, count))
