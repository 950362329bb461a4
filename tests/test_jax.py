"""The tests that do not need TensorFlow, on Keras's JAX backend without TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")
ROOT = Path(__file__).parent.parent
# Of the properties of all methods a choice, and of the generated cases those of small functions.
# What uses Keras's layers or other methods only runs there with `KERAS_BACKEND=jax pytest`.
OF_KERAS = ("generations", "students", "trainings", "label_quality", "report", "docs")
OF_KERAS += ("fit_arguments", "training_dynamics", "compiled_loss")
# Networks of Keras's layers without a code of their own for a backend; the LSTM keeps states.
NETWORKS = [
    path for path in (ROOT / "tests/backbones").glob("test_*.py") if path.stem != "test_lstm"
]
CHOSEN = " and ".join(
    (
        "(not test_properties or starts)",
        "(not test_saved_methods or (after and lstsd))",
        "(not test_plain_training or (everything and lstsd))",
        "(not test_data_sources or (py_dataset and lstsd))",
        "not mixed_precision_step",
        "(not test_tiny_bert or small1)",
        "(not test_knowledge_distillation or follows)",
        "(not test_positions or (tokens and (reverse or dups or kl)))",
        "(not test_heads or lstsd)",
        "(not test_dense_predictions or (resumes and segmentation))",
        "(not test_kinds_of_outputs or (as_samples and lstsd))",
        "(not test_unlabelled or metrics)",
        "(not test_contrast or draws or rows or feature)",
        "(not test_distillation or reduced or task_weight or validation)",
        *(f"not test_{name}" for name in OF_KERAS),
        "not any_batches",
        "not zero_stop",
        "not softmax_teacher",
        "not on_mixtures",
        "not change_the_training",
    )
)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_suite_passes_on_jax_without_tensorflow(tmp_path):
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "KERAS_LSTSD_WITHOUT_TENSORFLOW": "1",
        # Compiling takes most of the time; many tests train the same network.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-x"]
    result = subprocess.run(
        [
            *command,
            *(f"--ignore={path}" for path in NETWORKS),
            "--ignore=tests/recipes",
            "--ignore=tests/bad_input/test_fit.py",
            "-k",
            CHOSEN,
            "tests",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


@pytest.mark.skipif(
    "KERAS_LSTSD_WITHOUT_TENSORFLOW" not in os.environ, reason="is about the run on JAX"
)
def test_tensorflow_cannot_be_imported():
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        import tensorflow  # noqa: F401
    assert "tensorflow" not in sys.modules
