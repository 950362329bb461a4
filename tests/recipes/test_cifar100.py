import keras
import pytest

from recipes import runs
from recipes.methods import METHODS
from tests.recipes.loading import load

recipe = load("cifar100")


@pytest.mark.parametrize(
    ("run", "epochs", "length"),
    [
        ({"method": "lstsd"}, 164, 6),
        ({"method": "lstsd", "mini_generation_epochs": 20}, 164, 20),
        ({"method": "snapshot_distillation"}, 164, 40),
        ({"method": "snapshot_ensemble"}, 300, 73),
        ({"method": "dups"}, 160, 16),
    ],
)
def test_mini_generations_have_the_papers_length(run, epochs, length):
    settings = recipe.method_settings(run, epochs)
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model = METHODS[run["method"]].wrap(student, 5, **settings)
    assert model.mini_generation_epochs == length
    assert getattr(model, "temperature", 2.0) in (2.0, 6.0)


def test_tables_show_the_papers_numbers(tmp_path):
    results = runs.Results(tmp_path / "results.json", {})
    results.add({"network": "resnet56", "method": "lstsd", "seed": 0}, {"score": 70.0})
    text = recipe.network_tables(["resnet56", "resnet8"], ["lstsd"])(results)
    assert "73.17" in text
    assert "resnet8" in text
    without_paper = text.split("resnet8")[1]
    assert "paper" not in without_paper


@pytest.mark.parametrize("setting", ["samples", "epochs", "wrong_labels", "labels_per_class"])
def test_the_papers_numbers_are_not_beside_other_trainings(setting):
    assert recipe.papers("resnet20", {setting: None})["lstsd"] == 69.42
    assert recipe.papers("resnet20", {setting: 5000}) is None
