"""The suite, as far as it is not about TensorFlow, on Keras's JAX backend without TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytest.importorskip("jax")
ROOT = Path(__file__).parent.parent
# What is worth its time a second time: of the properties of all methods these, of the generated
# cases those of the small functions.
CHOSEN = "(not registry or guidance or saving) and not any_batches and not zero_stop"


@pytest.mark.tensorflow
def test_the_suite_passes_on_jax_where_tensorflow_cannot_be_imported():
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "KERAS_LSTSD_WITHOUT_TENSORFLOW": "1",
        # Compiling takes most of the time.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-x"]
    result = subprocess.run(
        [*command, "--ignore=tests/recipes", "-k", CHOSEN, "tests"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="looks at the run on JAX")
def test_tensorflow_is_not_there():
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        import tensorflow  # noqa: F401
    assert "tensorflow" not in sys.modules
