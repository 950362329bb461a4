"""Each recipe as a person starts it, in its smallest form."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

from keras_lstsd.methods.registry import METHODS

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.tensorflow


def recipe(name, *flags):
    return [sys.executable, "-m", f"recipes.{name}", *map(str, flags)]


def start(*command):
    result = subprocess.run(recipe(*command), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def runs_in(folder):
    return json.loads((folder / "results.json").read_text())["runs"]


@pytest.fixture
def glue_folder(tmp_path):
    folder = tmp_path / "glue" / "RTE"
    folder.mkdir(parents=True)
    pairs = [f"{i}\tword{i % 7} is here .\tit is word{i % 7} ." for i in range(80)]
    header = "index\tsentence1\tsentence2"
    (folder / "test.tsv").write_text("\n".join([header, *pairs]))
    rows = [f"{pair}\t{'not_' * (i % 2)}entailment" for i, pair in enumerate(pairs)]
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("\n".join([f"{header}\tlabel", *rows]))
    return tmp_path / "glue"


def test_digits(tmp_path):
    result = start("digits", "--smoke", f"--output_dir={tmp_path}/digits")
    assert "paired difference to vanilla" in result.stdout
    assert "min left" in result.stderr
    assert [kept["run"]["method"] for kept in runs_in(tmp_path / "digits-smoke")] == [
        "vanilla",
        "lstsd",
    ] * 2
    again = start("digits", "--smoke", "--report", f"--output_dir={tmp_path}/digits")
    assert "4 of 4 runs are done already" in again.stderr
    page = (tmp_path / "digits-smoke/report.html").read_text()
    assert "Digits, 40% wrong labels" in page
    assert 'alt="Loss over the epochs"' in page
    assert page.count("teachers: <b>") == page.count("data:image/png") == 24


def test_glue(tmp_path, glue_folder):
    flags = ("--smoke", f"--data_dir={glue_folder}", f"--output_dir={tmp_path}/out")
    result = start("glue", "--task=rte", "--report", *flags)
    page = (tmp_path / "out-smoke/report-rte.html").read_text()
    assert "is here . | it is word" in page
    assert "<b>not_entailment</b>" in page
    assert "RTE, accuracy on dev" in result.stdout
    assert "57.40" in (tmp_path / "out-smoke/table.md").read_text()
    for kept in runs_in(tmp_path / "out-smoke"):
        assert kept["run"]["task"] == "rte"
        assert kept["scores"] == {"dev": {"accuracy": kept["score"]}}


def student_in(folder):
    """Weights of an exported student, bit for bit; Keras writes them in no certain order."""
    from tensorflow.train import load_checkpoint

    checkpoint = load_checkpoint(str(folder / "serving/variables/variables"))
    names = [name for name in checkpoint.get_variable_to_shape_map() if "VARIABLE" in name]
    assert len(names) >= 41
    return sorted(checkpoint.get_tensor(name).tobytes() for name in names)


ALL_KILLS = list(itertools.product(METHODS, ("nojit_compile", "jit_compile")))


@pytest.mark.parametrize(
    ("method", "xla"),
    ALL_KILLS if os.environ.get("KERAS_LSTSD_KILLS") else [("lstsd", "nojit_compile")],
)
def test_glue_with_bert_goes_on_after_a_kill_with_the_same_bits(tmp_path, glue_folder, method, xla):
    """And writes what it was asked for: predictions for GLUE's server, students for serving."""
    flags = ("--network=bert", "--sequence_length=32", "--submit", "--export", f"--{xla}")
    flags += (f"--data_dir={glue_folder}", f"--method={method}", "--seeds=1", "--epochs=9")
    through, resumed = tmp_path / "through", tmp_path / "resumed"
    result = start("glue", *flags, f"--output_dir={through}")
    assert "80 texts tokenised" in result.stderr
    assert "of the positions in training hold padding" in result.stderr
    killed = subprocess.Popen(
        recipe("glue", *flags, f"--output_dir={resumed}"), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    backup = resumed / f"backups/rte-{method}-0"
    deadline = time.monotonic() + 240
    while not (backup / "latest.weights.h5.bkp").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert runs_in(resumed) == []
    assert (backup / "latest.weights.h5").exists()
    start("glue", *flags, f"--output_dir={resumed}")
    assert student_in(resumed / f"rte-{method}-0") == student_in(through / f"rte-{method}-0")
    lines = (through / f"rte-{method}-0/RTE.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert len(lines) == 81


def test_nonsense_is_told(tmp_path):
    for command, message in (
        (("digits", "--method=magic"), "No such method"),
        (("digits", "vanilla"), "Expected: flags alone"),
        (("glue", f"--data_dir={tmp_path}"), "GLUE's file is missing"),
    ):
        result = subprocess.run(recipe(*command), cwd=ROOT, capture_output=True, text=True)
        assert result.returncode != 0
        assert message in result.stderr


def test_ctrl_c_keeps_what_was_finished(tmp_path):
    command = recipe("digits", "--epochs=2", "--seeds=500", f"--output_dir={tmp_path}")
    # A shell's background jobs, and what they start, ignore SIGINT.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    path = tmp_path / "results.json"
    while not (path.exists() and runs_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    try:
        output, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in log
    assert "vanilla" in output
    assert 1 <= len(runs_in(tmp_path)) < 1000


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_score(tmp_path):
    flags = ("digits", "--method=lstsd", "--seeds=1", "--epochs=40")
    through, resumed = tmp_path / "through", tmp_path / "resumed"
    start(*flags, f"--output_dir={through}")
    process = subprocess.Popen(
        recipe(*flags, f"--output_dir={resumed}"), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    previous = resumed / "backups/lstsd-0/latest.weights.h5.bkp"
    deadline = time.monotonic() + 120
    while not previous.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert runs_in(resumed) == []
    start(*flags, f"--output_dir={resumed}")
    assert runs_in(resumed)[0]["score"] == runs_in(through)[0]["score"]
    kept = [folder / "lstsd-0/dynamics.csv" for folder in (resumed, through)]
    assert kept[0].read_text() == kept[1].read_text()


def test_cifar100_and_what_is_made_of_it(tmp_path):
    flags = ("--smoke", "--mixed_precision", f"--output_dir={tmp_path}/out")
    result = start("table3", "--method=lstsd", "--device_data", "--jit_compile", "--report", *flags)
    assert "CIFAR-100, test accuracy (%), resnet8" in result.stdout
    folder = tmp_path / "out-smoke"
    assert (folder / "report-resnet8.html").read_text().count("data:image/png") == 24
    student = keras.saving.load_model(folder / "resnet8-lstsd-0/student.keras")
    assert student.input_shape == (None, 32, 32, 3)
    assert len((folder / "resnet8-lstsd-0/history.csv").read_text().splitlines()) == 3
    result = start("figure2", "--lengths=1", *flags)
    assert "| epochs | resnet8 |" in result.stdout
    assert [kept["run"].get("mini_generation_epochs") for kept in runs_in(folder)] == [None, 1]
