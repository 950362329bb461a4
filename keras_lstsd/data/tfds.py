"""Rows from tensorflow-datasets (an optional dependency), in a fixed order."""


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
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{name} needs a folder of files or tensorflow-datasets, which is not installed. "
            "Pass `data_dir` (`--data_dir` of a recipe), or write: pip install "
            "'keras-lstsd[data]'"
        ) from error
    return list(tfds.as_numpy(tfds.load(name, split=split, shuffle_files=False)))
