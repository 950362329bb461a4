"""Each notebook runs from its first cell to its last; its file is ready for readers."""

import csv
import itertools
import json
import re
import zipfile

import keras
import nbformat
import numpy as np
import pytest

from keras_lstsd.data import digits, label_noise
from tests.notebooks import NOTEBOOKS, run

pytestmark = pytest.mark.tensorflow

stored = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# Two folders or more, or a Windows drive; addresses on the web do not match.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])(/[\w.-]+/[\w.-]+|[A-Z]:\\\w+)")


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(output):
    """All texts of an output, without images."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [output.ename, output.evalue, *output.traceback]
    return [str(data) for mime, data in output.data.items() if not mime.startswith("image/")]


def executed(name, folder, **facts):
    """Runs a notebook in `folder`; returns the values of expressions with its variables."""
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    notebook = read(path)
    items = ", ".join(f"{fact!r}: {expression}" for fact, expression in facts.items())
    asked = f"import json\nprint(json.dumps({{{items}}}, default=float))"
    notebook.cells.append(nbformat.v4.new_code_cell(asked, id="asked"))
    run(notebook, folder)
    install, *_, last = code_cells(notebook)
    assert install.outputs == []  # The library is installed.
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert "error" not in {output.output_type for output in outputs}
    for output in outputs:
        if output.get("name") != "stderr":
            assert not any(map(ABSOLUTE_PATH.search, texts(output)))
    (answer,) = (output.text for output in last.outputs if output.get("name") == "stdout")
    return json.loads(answer)


def test_there_are_four_notebooks():
    names = [path.stem for path in NOTEBOOKS]
    expected = ["bring_your_own_tfdata", "distill_a_teacher", "find_wrong_labels", "quickstart"]
    assert names == expected


def test_absolute_paths_are_recognized():
    for text in ("/home/me/x.py", "in '/usr/lib'", r"C:\Users", "(/tmp/a)"):
        assert ABSOLUTE_PATH.search(text), text
    for text in ("https://a.org/b/c", "serving/1", "and/or", "a / b", "~/x/y", "1/2/3"):
        assert not ABSOLUTE_PATH.search(text), text


@stored
def test_the_file_is_valid_and_small_and_has_no_absolute_path(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    assert path.stat().st_size < 200_000
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z0-9-]*[a-z-][a-z0-9-]*", cell.id)
        outputs = [text for output in cell.get("outputs", []) for text in texts(output)]
        for text in [cell.source, *outputs]:
            assert not ABSOLUTE_PATH.search(text), text


@stored
def test_the_first_cell_installs_a_missing_library(path):
    first, *others = read(path).cells
    assert first.cell_type == "code"
    assert 'if importlib.util.find_spec("keras_lstsd") is None:\n    %pip install' in first.source
    assert '"keras-lstsd[demo,report]"' in first.source
    assert not any("pip install" in cell.source for cell in others)


@stored
def test_outputs_are_stored_without_messages_of_libraries(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert {"stream", "display_data"} == {output.output_type for output in outputs}
    for output in outputs:
        assert output.get("name") != "stderr"
        assert all(len(text.splitlines()) <= 12 for text in texts(output))


@stored
def test_each_picture_has_a_caption(path):
    cells = read(path).cells
    pictures = 0
    for cell, after in itertools.pairwise(cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            pictures += 1
            assert after.source.startswith(f"*Figure {pictures}. ")
    assert pictures >= 2


@pytest.mark.slow
def test_quickstart(tmp_path):
    facts = executed(
        "quickstart",
        tmp_path,
        plain="plain_accuracy",
        lstsd="lstsd_accuracy",
        difference="largest_difference",
        coverage="after.history['teacher_coverage']",
        curves="sorted(after.history)",
        wrong="is_wrong.mean()",
    )
    assert facts["wrong"] == 0.4
    assert 0.5 < facts["plain"] < facts["lstsd"] < 0.95
    assert facts["coverage"] == [0] * 6 + [1] * 54
    assert {"distillation_loss", "long_term_loss", "short_term_loss"} <= set(facts["curves"])
    assert facts["difference"] < 1e-6
    # The student is a plain Keras model, with the printed accuracy.
    with zipfile.ZipFile(tmp_path / "student.keras") as archive:
        assert "keras_lstsd" not in archive.read("config.json").decode()
    student = keras.saving.load_model(tmp_path / "student.keras")
    _, (x_test, y_test) = digits.load()
    accuracy = (student.predict(x_test, verbose=0).argmax(-1) == y_test).mean()
    assert accuracy == pytest.approx(facts["lstsd"], abs=2 / len(y_test))


@pytest.mark.slow
def test_distill_a_teacher(tmp_path):
    facts = executed(
        "distill_a_teacher",
        tmp_path,
        scores="scores",
        teacher="float(accuracy(teacher))",
        stored="float(accuracy(stored))",
        distiller="float(accuracy(distiller.student))",
    )
    assert 90 < facts["teacher"] < 99
    plain, taught = facts["scores"].values()
    assert len(plain) == len(taught) == 3
    assert sum(taught) > sum(plain)
    # One formula, three ways to compute it.
    assert facts["stored"] == pytest.approx(taught[-1], abs=1.5)
    assert facts["distiller"] == pytest.approx(taught[-1], abs=6)
    assert (tmp_path / "student.keras").exists()


@pytest.mark.slow
def test_find_wrong_labels(tmp_path):
    facts = executed(
        "find_wrong_labels",
        tmp_path,
        auc="auc",
        precision="precision",
        accuracy="accuracy",
        gallery="is_wrong[ranking[:20]].mean()",
        kept_wrong="int(is_wrong[keep].sum())",
        kept="int(keep.sum())",
        found="int(found.sum())",
        suggested="float(right[found & is_wrong].mean())",
    )
    assert 160 < facts["found"] < 200
    assert facts["suggested"] > 0.9
    auc, accuracy = facts["auc"], facts["accuracy"]
    loss = "plain training: loss at the end"
    guided = "LSTSD: mean over epochs"
    assert len(auc) == 4
    assert max(auc, key=auc.get) == guided
    assert min(auc, key=auc.get) == loss
    assert auc[guided] > 0.99 > 0.98 > auc[loss] > 0.9
    assert facts["precision"][guided] > facts["precision"][loss] + 0.05
    assert facts["gallery"] >= 0.95
    assert facts["kept_wrong"] <= 0.02 * facts["kept"]
    plain, lstsd, cleaned = accuracy.values()
    assert plain < lstsd < cleaned
    # The area under the curve from the file only: the share of pairs in the right order.
    (_, y_correct), _ = digits.load()
    labels, is_wrong = label_noise.with_wrong_labels(y_correct, 0.2, num_classes=10, seed=0)
    with (tmp_path / "dynamics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["given_label"]) for row in rows] == labels.tolist()
    margin = np.array([float(row["margin"]) for row in rows])
    pairs = margin[is_wrong][:, None] < margin[~is_wrong]
    assert pairs.mean() == pytest.approx(auc[guided], abs=1e-6)


@pytest.mark.slow
def test_bring_your_own_tfdata(tmp_path):
    import tensorflow as tf

    facts = executed(
        "bring_your_own_tfdata",
        tmp_path,
        replicas="strategy.num_replicas_in_sync",
        copies="len(model.pending.rows.value.values)",
        message="message",
        before="len(before['loss'])",
        epochs="history.epoch",
        coverage_before="before['teacher_coverage']",
        coverage_after="after['teacher_coverage']",
        model_epoch="model.epoch",
        known="model.sample_tables['pending'].numpy()[1].mean()",
        accuracy="accuracy",
        difference="difference",
        learned="after['accuracy'][0] - before['accuracy'][0]",
    )
    assert facts["replicas"] == facts["copies"] == 2
    assert "keras_lstsd.data.with_sample_index(train)" in facts["message"]
    # 7 epochs before the interruption, the other 13 after it, with the stored tables.
    assert facts["before"] == 7
    assert facts["epochs"] == [*range(7, 20)]
    assert facts["model_epoch"] == 19
    assert facts["coverage_before"] == [0] * 3 + [1] * 4
    assert facts["coverage_after"] == [1] * 13
    assert facts["learned"] > 0.1
    assert facts["known"] == 1
    assert not any((tmp_path / "backup").glob("*"))
    # The exported student, in a process without the model.
    _, (x_test, y_test) = digits.load()
    archive = tf.saved_model.load(str(tmp_path / "serving/1"))
    served = archive.serve(x_test).numpy()
    assert (served.argmax(-1) == y_test).mean() == pytest.approx(facts["accuracy"], abs=0.003)
    assert facts["accuracy"] > 0.6
    assert facts["difference"] < 1e-5
