"""Sample tables that are divided among devices."""

from math import gcd

import keras

from keras_lstsd.tables import ROWS_MULTIPLE

# The paths of variables with one row per sample.
ROWS = r".*/(rows|row_classes)$"


def shard_tables(layout_map: keras.distribution.LayoutMap, axis: str = "batch") -> None:
    """Divides the rows of all sample tables among the devices along an axis of the mesh.

    Each device then stores `N / devices` rows of each table. The numbers of a training are those
    of whole tables, up to rounding. The rest of a map is the user's, such as the layout of the
    student.

    Args:
        layout_map: the map that `keras.distribution.ModelParallel` gets. Keras has layouts on the
            JAX backend only.
        axis: the name of the axis of its mesh.

    Raises:
        ValueError: for an axis that the mesh does not have, and for a number of devices that does
            not divide the rows, which are a multiple of 128.

    Example:
        >>> devices = keras.distribution.list_devices()
        >>> mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
        >>> layout_map = keras.distribution.LayoutMap(mesh)
        >>> keras_lstsd.shard_tables(layout_map)
        >>> # Then, before the student is made, keras.distribution.set_distribution(
        >>> #     keras.distribution.ModelParallel(layout_map=layout_map))
    """
    mesh = layout_map.device_mesh
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    if axis not in sizes:
        raise ValueError(
            "The mesh of the layout map has no such axis. "
            f"Received: axis={axis!r}. Expected: one of {list(sizes)}."
        )
    if ROWS_MULTIPLE % sizes[axis]:
        raise ValueError(
            "The rows of a table cannot be divided evenly among these devices. "
            f"Received: {sizes[axis]} devices along {axis!r}. Expected: a number that divides "
            f"{ROWS_MULTIPLE}, such as {gcd(sizes[axis], ROWS_MULTIPLE)}."
        )
    layout_map[ROWS] = (axis, None)
