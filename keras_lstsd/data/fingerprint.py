"""What identifies the data of a training, for a resumed run."""

from typing import Any

from keras_lstsd.data.batches import SampleBatches


def fingerprint(data: Any) -> dict[str, Any]:
    """Numbers, names and checksums that identify training data; JSON-able, equal after a restart.

    Args:
        data: `SampleBatches`, a `tf.data.Dataset` (or distributed one), or other data for `fit`.

    Returns:
        For `SampleBatches`: `SampleBatches.fingerprint()`. For a `tf.data.Dataset`: its type,
        cardinality and the `[dtype, shape]` of each part of an element. For other data: its type
        and length. What is unknown is None.

    Example:
        >>> data = tf.data.Dataset.from_tensor_slices((np.zeros((6, 4)), np.zeros(6))).batch(2)
        >>> keras_lstsd.data.fingerprint.fingerprint(data)
        # {"type": "tf.data.Dataset", "cardinality": 3,
        #  "elements": [["float64", [None, 4]], ["float64", [None]]]}
    """
    if isinstance(data, SampleBatches):
        return data.fingerprint()
    if hasattr(data, "element_spec"):
        return _dataset_fingerprint(data)
    try:
        length = len(data)
    except (TypeError, NotImplementedError):
        length = None
    return {"type": type(data).__name__, "length": length}


def _dataset_fingerprint(dataset: Any) -> dict[str, Any]:
    import tensorflow as tf

    is_local = isinstance(dataset, tf.data.Dataset)
    # On several replicas a part of an element has one spec per replica.
    specs = tf.nest.flatten(dataset.element_spec, expand_composites=True)
    return {
        # The class of a tf.data.Dataset is private and named after its last operation.
        "type": "tf.data.Dataset" if is_local else type(dataset).__name__,
        "cardinality": int(dataset.cardinality()) if is_local else None,
        "elements": [_dtype_and_shape(spec) for spec in specs],
    }


def _dtype_and_shape(spec: Any) -> list:
    dtype, shape = getattr(spec, "dtype", None), getattr(spec, "shape", None)
    known = shape is not None and shape.rank is not None
    return [dtype and dtype.name, shape.as_list() if known else None]
