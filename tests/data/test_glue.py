import sys

import numpy as np
import pytest

from keras_lstsd.data import glue

FILES = {
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n"
    '0\tHe said "no.\tHe spoke.\tentailment\n1\tA.\tB.\tnot_entailment\n',
    "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA b.\tC d.\n",
    "CoLA/train.tsv": "gj04\t1\t\tFirst one.\ngj04\t0\t*\tNot one good.",
    "SST-2/dev.tsv": "sentence\tlabel\nfine film \t1\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("task", "split", "first", "second", "labels"),
    [
        ("rte", "train", ['He said "no.', "A."], ["He spoke.", "B."], [0, 1]),
        ("mrpc", "dev", ["A b."], ["C d."], [0]),
        ("cola", "train", ["First one.", "Not one good."], None, [1, 0]),
        ("sst2", "dev", ["fine film "], None, [1]),
    ],
)
def test_official_files_are_read(folder, task, split, first, second, labels):
    found = glue.load(task, split, folder)
    assert (found.first, found.second) == (first, second)
    np.testing.assert_array_equal(found.labels, labels)


def test_a_missing_file_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"RTE.dev.tsv.*data_dir"):
        glue.load("rte", "dev", folder)


@pytest.mark.parametrize("row", ["0\tonly two", "0\ta\tb\tmaybe"])
def test_a_spoiled_row_is_named(folder, row):
    with (folder / "RTE/train.tsv").open("a") as file:
        file.write(row)
    with pytest.raises(ValueError, match="line 4, is not a row"):
        glue.load("rte", "train", folder)


def test_unknown_parts_and_missing_packages_are_told(folder, monkeypatch):
    with pytest.raises(ValueError, match="task='imdb'"):
        glue.load("imdb", "train", folder)
    with pytest.raises(ValueError, match="split='test'"):
        glue.load("rte", "test", folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"data_dir.*keras-lstsd\[data\]"):
        glue.load("rte", "train")


def test_tensorflow_datasets_are_read_in_their_order(monkeypatch):
    rows = [
        {"sentence1": b"A.", "sentence2": b"B.", "label": 1, "idx": 7},
        {"sentence1": b"C.", "sentence2": b"D.", "label": 0, "idx": 3},
    ]
    asked = []

    class Datasets:
        @staticmethod
        def load(name, split, shuffle_files):
            asked.append((name, split, shuffle_files))
            return rows

        @staticmethod
        def as_numpy(dataset):
            return dataset

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", Datasets)
    found = glue.load("rte", "dev")
    assert asked == [("glue/rte", "validation", False)]
    assert (found.first, found.second) == (["A.", "C."], ["B.", "D."])
    np.testing.assert_array_equal(found.labels, [1, 0])


def test_scores():
    labels, predictions = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 0, 0, 0, 1])
    assert glue.score("rte", labels, predictions) == pytest.approx(100 * 4 / 6)
    # TP 2, TN 2, FP 1, FN 1.
    assert glue.score("cola", labels, predictions) == pytest.approx(100 * (4 - 1) / 9)
    assert glue.score("cola", labels, np.ones(6)) == 0


@pytest.mark.parametrize(
    ("task", "train", "dev"),
    [("rte", 2490, 277), ("mrpc", 3668, 408), ("cola", 8551, 1043), ("sst2", 67349, 872)],
)
def test_the_real_files_have_their_known_sizes(real_data, task, train, dev):
    sizes = [len(glue.load(task, split, real_data / "glue").labels) for split in ("train", "dev")]
    assert sizes == [train, dev]
