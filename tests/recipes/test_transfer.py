import re

import keras
import numpy as np
import pytest

from recipes import options
from tests.encoded_images import write_tree
from tests.recipes.loading import load
from tests.recipes.test_recipes import runs_in, start

transfer = load("transfer")
pytestmark = pytest.mark.tensorflow


def test_folders_of_a_data_set_are_read(tmp_path):
    write_tree(tmp_path / "cub/train", classes=3, each=2)
    write_tree(tmp_path / "cub/test", classes=3, each=1)
    data = transfer.read("cub", str(tmp_path))
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [0, 1, 2]
    transfer.check(["cub"], str(tmp_path), "none")
    with pytest.raises(SystemExit, match="without dtd/train, dtd/test. Expected"):
        transfer.check(["cub", "dtd"], str(tmp_path), "none")


def test_what_cannot_be_found_is_reported_before_the_first_training(tmp_path):
    transfer.check(["flowers102", "dtd", "cub"], None, "imagenet")
    with pytest.raises(SystemExit, match="Received: --data_dir=None without aircraft"):
        transfer.check(["flowers102", "aircraft"], None, "imagenet")
    match = f"--weights is no file. Received: --weights={tmp_path}/absent.keras"
    with pytest.raises(SystemExit, match=re.escape(match)):
        transfer.check(["dtd"], None, f"{tmp_path}/absent.keras")


def test_the_papers_numbers_are_beside_the_papers_trainings_only():
    settings = {"network": "resnet101", "weights": "imagenet", "epochs": 40}
    assert transfer.papers("cub", settings)["dups"] == 82.46
    for other in ({"network": "resnet50"}, {"weights": None}, {"epochs": 2}):
        assert transfer.papers("cub", settings | other) is None


def test_seeds_are_whole_numbers():
    assert options.seeds("0,12") == [0, 12]
    for value in ("", "1,", "-1", "a"):
        with pytest.raises(SystemExit, match=f"Received: --seed={value}. Expected: whole"):
            options.seeds(value)


@pytest.mark.slow
def test_a_student_of_imagenet_is_transferred(tmp_path):
    """The images of the second recipe are those of a folder, in two data sets."""
    start("imagenet", "--smoke", "--epochs=1", "--method=vanilla", f"--output_dir={tmp_path}/first")
    # Four classes, and images made up without --data_dir.
    assert [run["top_5"] for run in runs_in(tmp_path / "first-smoke")] == [100]
    file = tmp_path / "first-smoke/resnet50-vanilla-0/student.keras"
    for number, dataset in enumerate(("aircraft", "dtd")):
        for split in ("train", "test"):
            write_tree(tmp_path / f"data/{dataset}/{split}", classes=2 + number, each=4)
    flags = ["--smoke", "--dataset=aircraft,dtd", "--method=dups", f"--weights={file}", "--export"]
    flags += [f"--data_dir={tmp_path}/data", f"--output_dir={tmp_path}/out"]
    result = start("transfer", *flags)
    assert "aircraft, top-1 accuracy (%)" in result.stdout
    stored = runs_in(tmp_path / "out-smoke")
    assert [run["run"]["dataset"] for run in stored] == ["aircraft", "dtd"]
    source = keras.models.load_model(file)
    for number, dataset in enumerate(("aircraft", "dtd")):
        folder = tmp_path / f"out-smoke/{dataset}-dups-0"
        student = keras.models.load_model(folder / "student.keras")
        assert student.output_shape == (None, 2 + number)
        assert (folder / "serving/saved_model.pb").exists()
        # Two epochs at a small rate: the weights are still near those of the first network.
        first, trained = (
            network.get_layer("conv5_block3_3_conv").get_weights()[0]
            for network in (source, student)
        )
        assert np.corrcoef(first.ravel(), trained.ravel())[0, 1] > 0.9
        assert not np.array_equal(first, trained)
