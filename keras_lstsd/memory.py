"""Whether tables fit in the memory of the device, before they are made."""

import os
from typing import Any

import keras

from keras_lstsd import compat


def available() -> int | None:
    """Bytes that tables may take on the device; None where it does not say.

    JAX knows the free memory of an accelerator. On a CPU it is all memory of the machine.
    TensorFlow does not know the memory of a GPU.
    """
    if keras.backend.backend() == "jax":
        import jax

        statistics = jax.local_devices()[0].memory_stats()
        if statistics is not None and "bytes_limit" in statistics:
            return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    on_cpu = all(device.startswith("cpu") for device in keras.distribution.list_devices())
    if not on_cpu or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check(model: Any) -> None:
    """Rejects tables that are larger than the memory of the device.

    Tables that Keras may divide among devices are not checked.

    Raises:
        ValueError: for such tables, with what makes them smaller.
    """
    tables = [layer for layer in compat.layers_of(model) if hasattr(layer, "bytes_for")]
    needed, free = sum(table.bytes_for(model) for table in tables), available()
    divided = isinstance(keras.distribution.distribution(), keras.distribution.ModelParallel)
    if free is None or needed <= free or divided:
        return
    smaller = []
    if getattr(model, "top_k", 0) is None:
        smaller.append("`top_k=8`")
    if getattr(model, "table_dtype", None) == "float32":
        smaller.append("`table_dtype='float16'` (half of it)")
    if model.needs_sample_index:
        smaller.append("`keras_lstsd.shard_tables(layout_map)` on several devices (JAX)")
    raise ValueError(
        f"The tables of {type(model).__name__} do not fit in the memory of the device. "
        f"Received: {needed / 2**30:.1f} GiB of tables, {free / 2**30:.1f} GiB of memory. "
        f"Expected: less; write {', or '.join(smaller) or 'another method'}."
    )
