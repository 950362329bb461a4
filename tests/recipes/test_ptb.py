import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_lstsd import Distillation
from tests.recipes.loading import load

ptb = load("ptb")
pytestmark = pytest.mark.tensorflow
SETTINGS = {"units": 4, "dropout": 0.0, "epochs": 5, "jit_compile": False}


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for split, sentences in (("train", 400), ("valid", 20), ("test", 30)):
        lines = (" ".join(draw.choice([*"abcdefgh"], 9)) for _ in range(sentences))
        (tmp_path / f"ptb.{split}.txt").write_text("a b c d e f g h\n" + "\n".join(lines) + "\n")
    return tmp_path


def test_smoothing_is_that_of_keras():
    draw = np.random.default_rng(0)
    y, logits = draw.integers(0, 5, (4, 3)), draw.normal(size=(4, 3, 5)).astype("float32")
    expected = keras.losses.categorical_crossentropy(
        keras.ops.one_hot(y, 5), logits, from_logits=True, label_smoothing=0.1
    )
    np.testing.assert_allclose(ptb.smoothed(y, logits), expected, rtol=1e-5)


def test_the_perplexity_is_that_of_all_words_and_none_of_the_padding(folder):
    """A network that reads nothing: its perplexity follows from the frequencies of the words."""
    data = ptb.Data(folder, None)
    student = ptb.network(data, SETTINGS, batch_size=20, length=35)
    model = ptb.compiled(Distillation(student), ptb.METHODS["vanilla"], SETTINGS, 10)
    student.get_layer("logits").kernel.assign(np.zeros((4, 9)))
    log_probs = np.log(np.arange(1, 10) / 45)
    student.get_layer("logits").bias.assign(log_probs)
    ids, _ = ptb.ptb.load(folder)
    expected = np.exp(-log_probs[ids["test"][1:]].mean())
    assert ptb.perplexity(model, data.test) == pytest.approx(expected, rel=1e-5)


def test_dups_has_five_stages_and_the_rate_falls_over_all_steps(folder, tmp_path):
    data = ptb.Data(folder, None)
    seen = []

    class Seen(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.extend([self.model, self.model.optimizer])

    outcome = ptb.train({"method": "dups", "seed": 0}, tmp_path, [Seen()], data, SETTINGS)
    model, optimizer = seen
    assert model.mini_generation_epochs == 1
    assert (model.student_weight, model.teacher_weight, model.temperature) == (0.8, 0.2, 6)
    # 4,009 words in batches of 20 x 35, 5 epochs.
    steps = int(optimizer.iterations)
    assert steps == 25
    np.testing.assert_allclose(optimizer._learning_rate(0), 20.0)
    np.testing.assert_allclose(optimizer._learning_rate(steps), 0.0, atol=1e-5)
    assert optimizer.global_clipnorm == 0.25
    assert 1 < outcome["score"] < 20


@pytest.mark.slow
def test_the_recipe_trains_and_exports(folder):
    command = [sys.executable, "-m", "recipes.ptb", "--smoke", "--export"]
    command += ["--method=label_smoothing,dups"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "Expected: --data_dir=FOLDER" in result.stderr
    command += [f"--data_dir={folder}", f"--output_dir={folder}/out"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "perplexity of the test text" in result.stdout
    stored = json.loads((folder / "out-smoke/results.json").read_text())["runs"]
    assert [run["run"]["method"] for run in stored] == ["label_smoothing", "dups"]
    assert all(run["score"] < 9.5 for run in stored)
    student = keras.saving.load_model(folder / "out-smoke/dups-0/student.keras")
    assert student.predict(np.zeros((3, 7), "int32"), verbose=0).shape == (3, 7, 9)
