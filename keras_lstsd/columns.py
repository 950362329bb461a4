"""Files of columns, which pandas and spreadsheets read: CSV or Parquet."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_lstsd.saving import replacing


def write(path: str | Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns of one length: CSV, or Parquet where the name ends in .parquet.

    Args:
        path: the file. An existing one is replaced in one move.
        columns: arrays `[rows]` by name.

    Raises:
        ValueError: for a name with another ending.
        ImportError: for Parquet without pyarrow.

    Example:
        >>> issues = keras_lstsd.find_label_issues(model, y_train)
        >>> keras_lstsd.columns.write("issues.csv", issues)
    """
    path = Path(path)
    if path.suffix == ".csv":
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            values = (np.asarray(column).tolist() for column in columns.values())
            writer.writerows(zip(*values, strict=True))
    elif path.suffix == ".parquet":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ImportError(
                "Parquet files need pyarrow, which is not installed. Expected: "
                '`pip install "keras-lstsd[report]"`, or a path that ends in .csv.'
            ) from error
        with replacing(path) as part:
            pyarrow.parquet.write_table(pyarrow.table(dict(columns)), part)
    else:
        raise ValueError(
            f"The file name has no known ending. Received: {str(path)!r}. Expected: a name "
            "that ends in .csv or .parquet."
        )


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the columns of a CSV file that `write` wrote: integers, floats, bools or strings.

    Example:
        >>> keras_lstsd.columns.write("issues.csv", {"is_label_issue": [False, True]})
        >>> keras_lstsd.columns.read("issues.csv")["is_label_issue"]     # [False, True]
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        names, *rows = csv.reader(file)
    values = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: _typed(column) for name, column in zip(names, values, strict=True)}


def _typed(texts: Sequence[str]) -> np.ndarray:
    column = np.asarray(texts, str)
    if np.isin(column, ("True", "False")).all():
        return column == "True"
    for dtype in ("int64", "float64"):
        try:
            return column.astype(dtype)
        except ValueError:
            continue
    return column
