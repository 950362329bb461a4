"""Every method is saved and loaded, as a model and as weights, before and after training."""

import keras
import numpy as np
import pytest

from recipes.methods import METHODS
from tests.models import (
    CHOSEN,
    NAMES,
    SAMPLES,
    X,
    Y,
    assert_same,
    chosen,
    compiled,
    dense_student,
    every,
    fit,
    made,
    rarely,
    shared,
    thorough,
    trained,
)

FORMATS = ("model.keras", "model.weights.h5")


def saved_and_loaded(model, name, path):
    """A second model; for weights one of other seeds, which counts the samples itself."""
    if path.suffix == ".keras":
        model.save(path)
        return keras.saving.load_model(path)
    model.save_weights(path)
    again = compiled(name, samples=None, seed=9)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(path)
    return again


@every
def test_the_config_makes_an_equal_model(name):
    method = METHODS[name]
    config = made(name, dense_student(), name="taught").get_config()
    again = method.cls.from_config(config)
    assert again.get_config() == config
    assert again.name == "taught"
    assert config.keys() >= method.arguments.keys()


@chosen
def test_a_model_saved_after_training_continues_equally(name, tmp_path):
    model, _ = trained(name)
    loaded = [saved_and_loaded(model, name, tmp_path / file) for file in FORMATS]
    for again in loaded:
        # Networks have names of their own.
        names = {"student": None, "teacher": None, "anchors": None, "name": None}
        configs = [m.get_config() | names for m in (model, again)]
        assert configs[0] == configs[1]
        assert_same(model, again)
    history = fit(model, epochs=3)
    for again in loaded:
        assert fit(again, epochs=3) == history
        assert_same(model, again)


@pytest.mark.parametrize("name", [rarely(it, by_default=(*CHOSEN, "prokt")) for it in NAMES])
@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("samples", [None, thorough(SAMPLES)])
def test_a_model_saved_before_training_trains_equally(name, file, samples, tmp_path):
    again = saved_and_loaded(compiled(name, samples), name, tmp_path / file)
    expected, history = shared(name)
    assert fit(again) == history
    assert_same(expected, again)


@chosen
def test_a_loaded_model_predicts_and_evaluates_as_the_saved_one(name, tmp_path):
    model, _ = shared(name)
    again = saved_and_loaded(model, name, tmp_path / "model.keras")
    for ours, theirs in zip(
        (model.predict(X, verbose=0), model.evaluate(X, Y, verbose=0)),
        (again.predict(X, verbose=0), again.evaluate(X, Y, verbose=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
