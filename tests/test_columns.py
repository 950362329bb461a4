"""Files of columns."""

import sys

import numpy as np
import pytest

from keras_lstsd import columns

COLUMNS = {
    "sample_index": np.array([3, 0, 12]),
    "is_label_issue": np.array([True, False, True]),
    "label_score": np.array([0.1, np.nan, 1e-30]),
    "name": np.array(["a,b", "", "ü"]),
}


def assert_equal(found):
    assert list(found) == list(COLUMNS)
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(found[name], column)
        assert np.asarray(found[name]).dtype.kind == column.dtype.kind


def test_columns_are_read_from_csv_as_they_were_written(tmp_path):
    columns.write(tmp_path / "a.csv", COLUMNS)
    assert_equal(columns.read(tmp_path / "a.csv"))


def test_columns_without_rows_are_read(tmp_path):
    columns.write(tmp_path / "a.csv", {name: column[:0] for name, column in COLUMNS.items()})
    found = columns.read(tmp_path / "a.csv")
    assert {name: len(column) for name, column in found.items()} == dict.fromkeys(COLUMNS, 0)


def test_parquet_has_the_same_columns(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    columns.write(tmp_path / "a.parquet", COLUMNS)
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert_equal({name: np.array(column) for name, column in table.items()})


def test_a_missing_pyarrow_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"need pyarrow.*keras-lstsd\[report\]"):
        columns.write(tmp_path / "a.parquet", COLUMNS)


def test_a_file_name_with_another_ending_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"table\.xls.*\.csv or \.parquet"):
        columns.write(tmp_path / "table.xls", COLUMNS)


def test_columns_of_unequal_lengths_leave_the_old_file(tmp_path):
    columns.write(tmp_path / "a.csv", COLUMNS)
    with pytest.raises(ValueError, match="zip"):
        columns.write(tmp_path / "a.csv", {"a": np.zeros(2), "b": np.zeros(3)})
    assert_equal(columns.read(tmp_path / "a.csv"))
