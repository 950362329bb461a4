import sys

import numpy as np
import pytest

from keras_lstsd.data import glue

MNLI = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
MNLI += "sentence1_parse\tsentence2_parse\tsentence1\tsentence2"
FILES = {
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n"
    '0\tHe said "no.\tHe spoke.\tentailment\n1\tA.\tB.\tnot_entailment\n',
    "RTE/test.tsv": "index\tsentence1\tsentence2\n0\tA.\tB.\n1\tC.\tD.\n",
    "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA b.\tC d.\n",
    "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA b.\tC d.\n",
    "CoLA/train.tsv": "gj04\t1\t\tFirst one.\ngj04\t0\t*\tNot one good.",
    "CoLA/test.tsv": "index\tsentence\n0\tFirst one.\n",
    "SST-2/dev.tsv": "sentence\tlabel\nfine film \t1\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    "5\t1\t2\tWhy\n so?\tHow?\t1\n6\t3\t4\tWho?\tWhich?\t1\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tWho?\tWhich?\n",
    "MNLI/train.tsv": f"{MNLI}\tlabel1\tgold_label\n"
    "0\t1\t1n\tfiction\tp\tp\tp\tp\tA.\tB.\tneutral\tcontradiction\n",
    "MNLI/dev_mismatched.tsv": f"{MNLI}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    "0\t1\t1n\tfiction\tp\tp\tp\tp\tC.\tD.\tn\tn\te\te\te\tneutral\n",
    "MNLI/test_matched.tsv": f"{MNLI}\n0\t1\t1n\tfiction\tp\tp\tp\tp\tE.\tF.\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tIt fell.\tThe cup fell.\t1\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("task", "split", "first", "second", "labels"),
    [
        ("rte", "train", ['He said "no.', "A."], ["He spoke.", "B."], [0, 1]),
        ("mrpc", "dev", ["A b."], ["C d."], [0]),
        ("cola", "train", ["First one.", "Not one good."], None, [1, 0]),
        ("sst2", "dev", ["fine film "], None, [1]),
        ("qnli", "dev", ["Who?"], ["He."], [1]),
        ("mnli", "train", ["A."], ["B."], [2]),
        ("mnli", "dev_mismatched", ["C."], ["D."], [1]),
        ("wnli", "dev", ["It fell."], ["The cup fell."], [1]),
        ("rte", "test", ["A.", "C."], ["B.", "D."], [-1, -1]),
        ("mrpc", "test", ["A b."], ["C d."], [-1]),
        ("cola", "test", ["First one."], None, [-1]),
        ("qqp", "test", ["Who?"], ["Which?"], [-1]),
        ("mnli", "test_matched", ["E."], ["F."], [-1]),
    ],
)
def test_official_files_are_read(folder, task, split, first, second, labels):
    found = glue.load(task, split, folder)
    assert (found.first, found.second) == (first, second)
    np.testing.assert_array_equal(found.labels, labels)


def test_rows_of_qqp_that_a_line_break_cut_are_left_out(folder):
    found = glue.load("qqp", "train", folder)
    assert (found.first, found.second, found.labels.tolist()) == (["Who?"], ["Which?"], [1])


def test_a_missing_file_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"RTE.dev.tsv.*data_dir"):
        glue.load("rte", "dev", folder)


@pytest.mark.parametrize("row", ["0\tonly two", "0\ta\tb\tmaybe"])
def test_a_spoiled_row_is_named(folder, row):
    with (folder / "RTE/train.tsv").open("a") as file:
        file.write(row)
    with pytest.raises(ValueError, match="line 4, is not a row"):
        glue.load("rte", "train", folder)


def test_a_file_of_another_task_is_told(folder):
    (folder / "RTE/dev.tsv").write_text("sentence\tlabel\nfine film \t1\n")
    with pytest.raises(ValueError, match=r"RTE.dev.tsv is not a file of this task.*'sentence1'"):
        glue.load("rte", "dev", folder)


def test_unknown_parts_and_missing_packages_are_told(folder, monkeypatch):
    with pytest.raises(ValueError, match="task='imdb'"):
        glue.load("imdb", "train", folder)
    with pytest.raises(ValueError, match="split='dev'.*'dev_matched', 'dev_mismatched'"):
        glue.load("mnli", "dev", folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"data_dir.*keras-lstsd\[data\]"):
        glue.load("rte", "train")


def test_tensorflow_datasets_are_read_in_their_order(monkeypatch):
    rows = [
        {"premise": b"A.", "hypothesis": b"B.", "label": 1, "idx": 7},
        {"premise": b"C.", "hypothesis": b"D.", "label": 0, "idx": 3},
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
    found = glue.load("mnli", "dev_matched")
    assert asked == [("glue/mnli", "validation_matched", False)]
    assert (found.first, found.second) == (["A.", "C."], ["B.", "D."])
    np.testing.assert_array_equal(found.labels, [1, 0])


def test_scores():
    labels, predictions = np.array([1, 1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 0, 1])
    # TP 2, TN 1, FP 1, FN 2.
    accuracy, f1, matthews = 100 * 3 / 6, 100 * 4 / 7, 100 * (2 - 2) / 72**0.5
    assert glue.scores("rte", labels, predictions) == pytest.approx({"accuracy": accuracy})
    for task in ("mrpc", "qqp"):
        found = glue.scores(task, labels, predictions)
        assert found == pytest.approx({"accuracy": accuracy, "f1": f1})
        assert next(iter(found)) == "accuracy"
    found = glue.scores("cola", labels, predictions)
    assert found == pytest.approx({"matthews": matthews, "accuracy": accuracy})
    assert next(iter(found)) == "matthews"
    # TP 3, TN 2, FP 0, FN 1.
    found = glue.scores("cola", labels, np.array([1, 1, 1, 0, 0, 0]))
    assert found["matthews"] == pytest.approx(100 * 6 / 72**0.5)
    assert glue.scores("cola", labels, np.ones(6))["matthews"] == 0
    assert glue.scores("mrpc", np.zeros(6), np.zeros(6))["f1"] == 0


@pytest.mark.parametrize(
    ("task", "split", "name", "predictions", "lines"),
    [
        ("rte", "test", "RTE.tsv", [1, 0], ["0\tnot_entailment", "1\tentailment"]),
        ("cola", "test", "CoLA.tsv", np.array([1, 0]), ["0\t1", "1\t0"]),
        ("mnli", "test_matched", "MNLI-m.tsv", [2], ["0\tcontradiction"]),
        ("mnli", "test_mismatched", "MNLI-mm.tsv", [1], ["0\tneutral"]),
    ],
)
def test_predictions_are_written_as_the_server_takes_them(
    tmp_path, task, split, name, predictions, lines
):
    path = glue.write_predictions(tmp_path / "new", task, split, predictions)
    assert path == tmp_path / "new" / name
    assert path.read_text() == "\n".join(["index\tprediction", *lines, ""])


@pytest.mark.parametrize(
    ("task", "train", "dev"),
    [("rte", 2490, 277), ("mrpc", 3668, 408), ("cola", 8551, 1043), ("sst2", 67349, 872)],
)
def test_the_real_files_have_their_known_sizes(real_data, task, train, dev):
    sizes = [len(glue.load(task, split, real_data / "glue").labels) for split in ("train", "dev")]
    assert sizes == [train, dev]
