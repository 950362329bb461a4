"""Each recipe in a process of its own, in its smallest form."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

from recipes.methods import METHODS
from tests.models import thorough

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.tensorflow


def recipe(name, *flags):
    return [sys.executable, "-m", f"recipes.{name}", *map(str, flags)]


# Messages of TensorFlow, CUDA, absl and Python that are neither progress nor results.
NOISE = re.compile(
    r"^[IWEF]\d{4} |^\d{4}-\d\d-\d\d |WARNING|Warning|InitializeLog|oneDNN|cuda|retracing|XLA",
    re.MULTILINE,
)


def start(*command):
    """Runs a recipe, which must print progress and results only."""
    environment = {key: os.environ[key] for key in os.environ if key != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        recipe(*command), cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    # A kill may hit the writing of a backup, which the next start reports.
    reported = re.compile(r"^W\d{4} .*Resuming from the backup before\..*\n", re.MULTILINE)
    assert not NOISE.search(reported.sub("", result.stderr)), result.stderr
    assert not NOISE.search(result.stdout), result.stdout
    return result


def test_noise_is_recognized():
    for line in (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1795738968.480423    5457 cudart_stub.cc:31] Could not find cuda drivers",
        "2026-11-27 00:00:00.1: I tensorflow/core/util/port.cc:153] oneDNN custom operations on",
        "W1127 00:30:44.837085 139774117325696 module.py:218] text",
    ):
        assert NOISE.search(f"1/4  vanilla, seed 0: 84.50 %\n{line}\n")
    assert not NOISE.search("1/4  vanilla, seed 0: 84.50 %  (3 s; about 0.2 min left)\n")


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
    result = start("digits", "--smoke", "--report", f"--output_dir={tmp_path}/digits")
    first, *progress = result.stderr.splitlines()
    assert "900 digits, 40 % of them with a wrong label" in first
    assert len(progress) == 4
    assert all(re.fullmatch(r"\d/4  \w+, seed \d: [\d.]+ %  .*min left\)", it) for it in progress)
    *_, header, _, vanilla, lstsd = result.stdout.splitlines()
    assert "difference to vanilla" in header
    assert vanilla.startswith("| vanilla ")
    assert lstsd.startswith("| lstsd ")
    assert "`vanilla` is plain training" in result.stdout
    # With the default 10 runs the demo fits on a screen of 40 lines.
    assert len(result.stdout.splitlines()) + 1 + 10 <= 36
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert [stored["run"]["method"] for stored in runs_in(tmp_path / "digits-smoke")] == [
        "vanilla",
        "lstsd",
    ] * 2
    page = (tmp_path / "digits-smoke/report.html").read_text()
    assert "Digits, 40% wrong labels" in page
    assert 'alt="Loss over the epochs"' in page
    assert page.count("suggested: <b>") == page.count("data:image/png") == 24
    table = (tmp_path / "digits-smoke/table.md").read_text()
    assert table.startswith(
        "```bash\npython -m recipes.digits --smoke --report --output_dir=digits\n"
    )


def test_glue(tmp_path, glue_folder):
    flags = ("--smoke", f"--data_dir={glue_folder}", f"--output_dir={tmp_path}/out")
    result = start("glue", "--task=rte", "--report", *flags)
    page = (tmp_path / "out-smoke/report-rte.html").read_text()
    assert "is here . | it is word" in page
    assert "<b>not_entailment</b>" in page
    assert "RTE, accuracy on dev" in result.stdout
    for stored in runs_in(tmp_path / "out-smoke"):
        assert stored["run"]["task"] == "rte"
        assert stored["scores"] == {"dev": {"accuracy": stored["score"]}}


def student_in(folder):
    """Weights of an exported student, as bytes; Keras writes them in any order."""
    from tensorflow.train import load_checkpoint

    checkpoint = load_checkpoint(str(folder / "serving/variables/variables"))
    names = [name for name in checkpoint.get_variable_to_shape_map() if "VARIABLE" in name]
    assert len(names) >= 41
    return sorted(checkpoint.get_tensor(name).tobytes() for name in names)


ALL_KILLS = list(itertools.product(METHODS, ("nojit_compile", "jit_compile")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "xla"),
    ALL_KILLS if os.environ.get("KERAS_LSTSD_KILLS") else [("lstsd", "nojit_compile")],
)
def test_glue_with_bert_resumes_after_a_kill_with_the_same_bits(tmp_path, glue_folder, method, xla):
    """It also writes predictions for GLUE's server and students for serving."""
    flags = ("--network=bert", "--sequence_length=16", "--submit", "--export", f"--{xla}")
    flags += (f"--data_dir={glue_folder}", f"--method={method}", "--seeds=1", "--epochs=4")
    flags += ("--mini_generation_epochs=1",)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    result = start("glue", *flags, f"--output_dir={whole}")
    assert "80 texts tokenized" in result.stderr
    assert "of the positions in training are padding" in result.stderr
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
    assert student_in(resumed / f"rte-{method}-0") == student_in(whole / f"rte-{method}-0")
    lines = (whole / f"rte-{method}-0/RTE.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert len(lines) == 81


def test_a_missing_file_is_reported(tmp_path):
    command = recipe("glue", f"--data_dir={tmp_path}")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert "A file of GLUE is missing" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("network", ["bert", thorough("bilstm")])
def test_a_bert_teaches_other_networks_of_texts(tmp_path, glue_folder, network):
    pytest.importorskip("keras_hub")
    from tests.backbones import bert_weights

    weights = tmp_path / "bert"
    bert_weights.write_hugging_face(weights, bert_weights.random_weights())
    methods = ["vanilla", "stored_teacher", "prokt"]
    flags = [f"--network={network}", f"--teacher={weights}", "--sequence_length=8", "--smoke"]
    if network == "bert":
        methods = ["tiny_bert", "tiny_bert_prokt"]
        flags += [f"--bert={weights}", "--student_layers=2"]
    flags += [f"--method={','.join(methods)}", f"--data_dir={glue_folder}"]
    result = start("glue", *flags, f"--output_dir={tmp_path}/out")
    assert [stored["run"]["method"] for stored in runs_in(tmp_path / "out-smoke")] == methods
    # One teacher for all methods that take a trained one.
    assert result.stderr.count("Trains the teacher of seed 0.") == 1
    for stage in (0, 1) if network == "bert" else ():
        student = tmp_path / f"out-smoke/rte-tiny_bert_prokt-0/stages/generation_{stage}.keras"
        assert keras.saving.load_model(student).backbone.num_layers == 1


@pytest.mark.slow
def test_ctrl_c_keeps_finished_runs(tmp_path):
    command = recipe("digits", "--epochs=2", "--seeds=500", f"--output_dir={tmp_path}")
    # Background jobs of a shell ignore SIGINT, and so do their children. A fork with Python code in
    # the child, as `preexec_fn` makes, is unsafe beside the threads of JAX.
    reset = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    command = [sys.executable, "-c", f"{reset}; os.execv(sys.argv[1], sys.argv[1:])", *command]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    path = tmp_path / "results.json"
    while not (path.exists() and runs_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    # Python drops an interrupt that arrives in a callback of the garbage collector, as JAX has one.
    while process.poll() is None and time.monotonic() < deadline:
        os.kill(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
    process.kill()
    output, log = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in log or "gc_callback" in log
    assert "vanilla" in output
    assert 1 <= len(runs_in(tmp_path)) < 1000


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_same_score(tmp_path):
    flags = ("digits", "--method=lstsd", "--seeds=1", "--epochs=20")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    start(*flags, f"--output_dir={whole}")
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
    assert runs_in(resumed)[0]["score"] == runs_in(whole)[0]["score"]
    stored = [folder / "lstsd-0/dynamics.csv" for folder in (resumed, whole)]
    assert stored[0].read_text() == stored[1].read_text()


@pytest.mark.slow
def test_cifar100_table3_and_figure2(tmp_path):
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
    assert [it["run"].get("mini_generation_epochs") for it in runs_in(folder)] == [None, 1]
