import re
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


def test_rows_of_qqp_that_are_broken_by_a_line_break_are_skipped(folder):
    found = glue.load("qqp", "train", folder)
    assert (found.first, found.second, found.labels.tolist()) == (["Who?"], ["Which?"], [1])


def test_a_missing_file_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"RTE.dev.tsv.*data_dir"):
        glue.load("rte", "dev", folder)


@pytest.mark.parametrize("row", ["0\tonly two", "0\ta\tb\tmaybe"])
def test_a_damaged_row_is_named(folder, row):
    with (folder / "RTE/train.tsv").open("a") as file:
        file.write(row)
    with pytest.raises(ValueError, match="line 4, is not a row"):
        glue.load("rte", "train", folder)


def rejected(folder, name, content, message):
    """Checks that the file is rejected with its name, `message`, and what was expected."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    task, split = path.parent.name.lower().replace("-", ""), path.stem
    match = rf"{re.escape(str(path))}{message}.*Expected: .*"
    with pytest.raises(ValueError, match=match):
        glue.load(task, split, folder)


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"], ids=["no bytes", "only a BOM"])
def test_an_empty_file_is_rejected(tmp_path, name, content):
    rejected(tmp_path, name, content, r" has no samples\. Received: an empty file\.")


@pytest.mark.parametrize("name", [name for name in FILES if name != "CoLA/train.tsv"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_header_without_rows_is_rejected(tmp_path, name, end):
    header = FILES[name].splitlines()[0] + end
    message = r" has no samples\. Received: a header without rows\."
    rejected(tmp_path, name, header.encode(), message)


RTE = FILES["RTE/train.tsv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RTE.encode() + b"2\tcaf\xe9\tB.\tentailment\n", r", line 4, is not UTF-8.*0xe9"),
        (RTE.encode()[:-3] + "é".encode()[:1], r", line 3, is not UTF-8.*0xc3"),
        (RTE.encode("latin-1").replace(b"He s", b"\xa0 s", 1), r", line 2, is not UTF-8.*0xa0"),
        (RTE.encode("utf-16"), r", line 1, is not UTF-8\. Received: UTF-16\."),
        (b"\xfe\xff" + RTE.encode("utf-16-be"), r", line 1, is not UTF-8\. Received: UTF-16\."),
        (RTE.encode("utf-16-le"), r", line 1, contains a null character"),
        (RTE.encode() + b"2\tA\0\tB.\tentailment\n", r", line 4, contains a null character"),
        (RTE.encode("utf-32"), r", line 1, is not UTF-8\. Received: UTF-16\."),
    ],
    ids=["latin-1", "cut character", "0xa0", "UTF-16", "UTF-16-BE", "no BOM", "null", "UTF-32"],
)
def test_a_file_in_another_encoding_is_rejected(tmp_path, content, message):
    rejected(tmp_path, "RTE/train.tsv", content, message)


def test_a_byte_order_mark_of_utf_8_is_accepted(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/train.tsv").write_text(RTE, encoding="utf-8-sig")
    assert glue.load("rte", "train", tmp_path).labels.tolist() == [0, 1]


@pytest.mark.parametrize("row", [1, 2])
def test_a_huge_field_is_rejected(tmp_path, row):
    """A lost line break or tab joins rows into a field that no sentence has."""
    lines = RTE.splitlines(keepends=True)
    lines[row] = f"0\t{'long ' * 60_000}\tB.\tentailment\n"
    message = rf", line {row + 1}, is not a row\. Received: field larger than field limit"
    rejected(tmp_path, "RTE/train.tsv", "".join(lines).encode(), message)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("RTE/train.tsv", "2\tA."),
        ("RTE/train.tsv", "2\tA.\tB."),
        ("RTE/train.tsv", "2\tA.\tB.\t"),
        ("RTE/train.tsv", "2\tA.\tB.\tentail"),
        ("RTE/train.tsv", "2\tA.\tB.\tneutral"),
        ("RTE/train.tsv", ""),
        ("RTE/test.tsv", "2\tA."),
        ("MRPC/dev.tsv", "2\t1\t2\tA b.\tC d."),
        ("CoLA/train.tsv", "gj04\t\t\tFirst one."),
        ("CoLA/train.tsv", "gj04\t1"),
        ("SST-2/dev.tsv", "fine film \t"),
        ("SST-2/dev.tsv", "fine film 1"),
        ("MNLI/train.tsv", "1\t1\t1n\tfiction\tp\tp\tp\tp\tA.\tB.\tneutral\t-"),
    ],
)
def test_a_truncated_row_or_an_unknown_label_is_rejected(tmp_path, name, row):
    text = FILES[name].rstrip("\n") + "\n"
    number = text.count("\n") + 1
    message = rf", line {number}, is not a row of this task\. Received: \[.*\]\."
    rejected(tmp_path, name, (text + row + "\n").encode(), message)


def test_an_error_shortens_long_rows(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/train.tsv").write_text(f"{RTE}2\t{'long ' * 20_000}\tB.\tno\n")
    with pytest.raises(ValueError, match="line 4") as error:
        glue.load("rte", "train", tmp_path)
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_qqp_without_a_complete_row_is_rejected(tmp_path):
    text = "".join(FILES["QQP/train.tsv"].splitlines(keepends=True)[:3])
    message = r" has no complete row\. Received: 2 .*'5', '1', '2', 'Why'"
    rejected(tmp_path, "QQP/train.tsv", text.encode(), message)


def test_a_file_of_another_task_is_rejected(folder):
    (folder / "RTE/dev.tsv").write_text("sentence\tlabel\nfine film \t1\n")
    match = "RTE.dev.tsv, line 1, is not the header of this task.*'sentence1'"
    with pytest.raises(ValueError, match=match):
        glue.load("rte", "dev", folder)


def test_unknown_tasks_and_missing_packages_are_named(folder, monkeypatch):
    with pytest.raises(ValueError, match="task='imdb'"):
        glue.load("imdb", "train", folder)
    with pytest.raises(ValueError, match="split='dev'.*'dev_matched', 'dev_mismatched'"):
        glue.load("mnli", "dev", folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"data_dir.*keras-lstsd\[data\]"):
        glue.load("rte", "train")


def test_tensorflow_datasets_are_read_in_file_order(monkeypatch):
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


@pytest.mark.parametrize(
    ("task", "train", "dev"),
    [("rte", 2490, 277), ("mrpc", 3668, 408), ("cola", 8551, 1043), ("sst2", 67349, 872)],
)
def test_the_real_files_have_their_known_sizes(real_data, task, train, dev):
    sizes = [len(glue.load(task, split, real_data / "glue").labels) for split in ("train", "dev")]
    assert sizes == [train, dev]
