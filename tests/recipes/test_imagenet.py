import itertools
import subprocess
import time

import keras
import numpy as np
import pytest

from recipes import runs, tables
from tests.encoded_images import jpeg, pixels, png, write_records, write_tree
from tests.models import thorough
from tests.recipes.loading import load
from tests.recipes.test_recipes import ROOT, recipe, runs_in, start

imagenet = load("imagenet")
pytestmark = pytest.mark.tensorflow


def test_both_layouts_of_imagenet_are_read(tmp_path):
    write_tree(tmp_path / "tree/train", classes=2, each=2)
    write_tree(tmp_path / "tree/val", classes=2, each=1)
    data = imagenet.read(str(tmp_path / "tree"), tmp_path)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "records").mkdir()
    for split in ("train", "validation"):
        write_records(tmp_path / f"records/{split}-00000-of-00001", [png(0), jpeg(1)], [2, 1])
    data = imagenet.read(str(tmp_path / "records"), tmp_path)
    assert data.test.labels.tolist() == [1, 0]
    for wrong in (None, str(tmp_path)):
        with pytest.raises(SystemExit, match=f"Received: --data_dir={wrong}. Expected: --data_dir"):
            imagenet.read(wrong, tmp_path)


def test_the_papers_numbers_are_beside_the_papers_trainings_only():
    dups = {"schedule": "dups", "epochs": 160, "batch_size": 64}
    assert imagenet.papers("resnet101", dups)["dups"] == 78.74
    snapshot = {"schedule": "snapshot", "epochs": 90, "batch_size": 256}
    # An error of 20.93 %.
    assert imagenet.papers("resnet152", snapshot)["snapshot_distillation"] == 79.07
    assert imagenet.papers("resnet50", snapshot) is None
    for other in ({"epochs": 90}, {"batch_size": 256}):
        assert imagenet.papers("resnet101", dups | other) is None


def test_the_table_has_the_top_5_accuracy(tmp_path):
    results = runs.Results(tmp_path / "results.json", {})
    run = {"network": "resnet50", "method": "dups", "seed": 0}
    results.add(run, {"score": 77.0, "top_5": 93.4, "nll": 0.9, "ece": 3.0})
    table = tables.method_table(results, ["dups"], {"dups": 77.58}, network="resnet50")
    header, _, row = ([cell.strip() for cell in line.split("|")] for line in table.splitlines())
    assert row[header.index("top-5, %")] == "93.40"
    assert row[header.index("paper")] == "77.58"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Three classes that differ in brightness, in TFRecords as those of ImageNet."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("imagenet")
    for split, each in (("train", 8), ("validation", 4)):
        for number in range(2):
            rows = list(itertools.product(range(each), range(3)))
            shades = [pixels(row) // 3 + 80 * label for row, label in rows]
            encoded = [tf.io.encode_jpeg(np.uint8(image)).numpy() for image in shades]
            file = folder / f"{split}-{number:05}-of-00002"
            write_records(file, encoded, [1 + label for _, label in rows])
    return folder


def student_in(folder):
    return keras.models.load_model(folder / "student.keras").get_weights()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ps_kd", thorough("dups")])
def test_a_killed_run_on_records_ends_with_the_same_bits(tmp_path, records, method):
    flags = [f"--data_dir={records}", f"--method={method}", "--smoke", "--epochs=4", "--export"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    result = start("imagenet", *flags, f"--output_dir={whole}")
    assert "ImageNet, top-1 accuracy (%), resnet50" in result.stdout
    command = recipe("imagenet", *flags, f"--output_dir={resumed}")
    killed = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    whole, resumed = (folder.with_name(f"{folder.name}-smoke") for folder in (whole, resumed))
    run = f"resnet50-{method}-0"
    # The backup before the latest one: two epochs are complete.
    backup = resumed / f"backups/{run}/latest.weights.h5.bkp"
    deadline = time.monotonic() + 240
    while not backup.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert runs_in(resumed) == []
    history = resumed / run / "history.csv"
    assert 2 <= len(history.read_text().splitlines()) - 1 < 4
    start("imagenet", *flags, f"--output_dir={tmp_path / 'resumed'}")
    assert history.read_text() == (whole / run / "history.csv").read_text()
    for first, second in zip(student_in(whole / run), student_in(resumed / run), strict=True):
        np.testing.assert_array_equal(first, second)
    import tensorflow as tf

    served = tf.saved_model.load(resumed / run / "serving")
    probabilities = served.serve(np.zeros((2, 32, 32, 3), np.uint8))
    np.testing.assert_allclose(probabilities.numpy().sum(-1), [1, 1], rtol=1e-5)
    assert probabilities.shape == (2, 3)
    stored = [runs_in(folder)[0] for folder in (whole, resumed)]
    for figure in ("score", "top_5", "nll", "ece"):
        assert stored[0][figure] == stored[1][figure]
