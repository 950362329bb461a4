"""Rows from tensorflow-datasets, which is an extra, in an order that numbers them."""


def rows(name: str, split: str) -> list[dict]:
    """All rows of a split, as NumPy, in the fixed order of its files: the row number is the index.

    Args:
        name: the data set in tensorflow-datasets, which may download it.
        split: the split as it is called there.

    Raises:
        ImportError: without tensorflow-datasets.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{name} comes from a folder or from tensorflow-datasets, and neither is at hand. "
            "Pass `data_dir` (`--data_dir` of a recipe), or write: pip install "
            "'keras-lstsd[data]'"
        ) from error
    return list(tfds.as_numpy(tfds.load(name, split=split, shuffle_files=False)))
