import json
import subprocess
import sys

import numpy as np
import pytest

from tests.backbones import bert_weights
from tests.models import thorough


def measured(tmp_path, what, *flags):
    """The rows of a table that the benchmark wrote, and its record."""
    command = [sys.executable, "-m", "recipes.benchmark", f"--what={what}", "--rounds=1", *flags]
    command.append(f"--output_dir={tmp_path}")
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    folder = tmp_path / f"{what}-tensorflow"
    assert output.strip() == (folder / "table.md").read_text().strip()
    lines = [line for line in output.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    record = json.loads((folder / "results.json").read_text())
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == record["settings"]["columns"]
    assert rows[2:] == [run["cells"] for run in record["runs"]]
    return rows[2:], record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "student", "methods", "first"),
    [
        ("step", "mlp", "lstsd,distiller", "mlp"),
        thorough("compile", "bert", "tiny_bert", "bert"),
        thorough("epoch", "mlp", "lstsd", "mlp"),
        ("boundary", "mlp", "lstsd", "lstsd"),
    ],
)
def test_a_table_has_a_row_for_each_setting(what, student, methods, first, tmp_path):
    flags = (f"--student={student}", f"--method={methods}", "--steps_per_execution=2", "--xla=off")
    (row,), _ = measured(tmp_path, what, "--builds=1", *flags)
    assert row[0] == first


@pytest.mark.slow
def test_steps_are_compared_by_the_size_of_the_tables(tmp_path):
    sizes = ("--table_samples=1280", "--table_samples=5000", "--table_samples=9000")
    rows, record = measured(tmp_path, "tables", "--builds=1", *sizes)
    assert record["settings"]["columns"] == [
        "XLA",
        "1,280 samples, ms a step",
        "plain training",
        "1,280, control",
        "5,000",
        "9,000",
    ]
    assert [row[0] for row in rows] == ["off", "on"]
    figures = record["runs"][0]["figures"]
    ratio = figures["9,000"][0] / figures["1,280, baseline"][0]
    assert rows[0][-1] == f"{ratio:.3f} ({ratio:.3f}-{ratio:.3f})"


@pytest.mark.slow
def test_precisions_are_compared_without_and_with_xla(tmp_path):
    (row,), record = measured(tmp_path, "precision", "--builds=1", "--student=mlp")
    figures = record["runs"][0]["figures"]
    titles = ["mixed_bfloat16, XLA off", "mixed_bfloat16, XLA on"]
    assert list(figures)[-2:] == record["settings"]["columns"][-2:] == titles
    ratio = figures[titles[0]][0] / figures["float32, XLA off, baseline"][0]
    assert row[-2] == f"{ratio:.3f} ({ratio:.3f}-{ratio:.3f})"


@pytest.mark.thorough
def test_tokenizing_is_compared_with_training(tmp_path):
    rows, _ = measured(tmp_path, "text", "--samples=1280")
    assert [row[0] for row in rows][:4] == [
        "training, like lengths",
        "training, batches cut",
        "training, batches padded",
        "tokenizing",
    ]
    assert rows[0][3] == "1.000 (1.000-1.000)"
    like, cut, padded = (int(row[4].strip(" %")) for row in rows[:3])
    assert 0 <= like < cut < padded < 100


@pytest.mark.thorough
def test_epochs_of_like_lengths_are_compared_with_a_random_order(tmp_path):
    pytest.importorskip("keras_hub")
    weights = bert_weights.random_weights()
    weights["embeddings/position_embeddings"] = np.zeros((128, bert_weights.WIDTH), "float32")
    config = bert_weights.CONFIG | {"max_position_embeddings": 128}
    folder = bert_weights.write_hugging_face(tmp_path / "bert", weights, config)
    words = [" ".join(["cat"] * (1 + row % 29)) for row in range(400)]
    (tmp_path / "CoLA").mkdir()
    lines = [f"gj04\t{row % 2}\t\t{text}" for row, text in enumerate(words)]
    (tmp_path / "CoLA/train.tsv").write_text("\n".join(lines))
    flags = (f"--bert={folder}", f"--data_dir={tmp_path}", "--task=cola", "--samples=700")
    (row,), record = measured(tmp_path, "fine_tuning", *flags)
    figures = record["runs"][0]["figures"]
    random, like = (figures[f"{order}, s an epoch"][0] for order in ("random", "like"))
    assert row[:2] == ["cola", "350"]
    assert row[4].startswith(f"{like / random:.3f} ")
    # A text of n words has n + 2 tokens.
    tokens = sum(3 + row % 29 for row in range(350))
    assert row[5:7] == [f"{tokens / random:,.0f}", f"{tokens / like:,.0f}"]
    random, like = (float(cell.strip(" %")) for cell in row[7:])
    assert 0 <= like < 20 < 30 < random
