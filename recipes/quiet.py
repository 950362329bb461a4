"""Hides the start-up messages of TensorFlow and CUDA."""

import contextlib
import logging
import os
import tempfile


def import_keras() -> None:
    """Imports Keras and its backend; prints their messages only when the import fails.

    `TF_CPP_MIN_LOG_LEVEL=0` in the environment shows TensorFlow's later messages.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Recipes compile a step per model; TensorFlow warns of that as "retracing".
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # The libraries write to the file descriptor itself, before their log level is set.
    with tempfile.TemporaryFile() as messages:
        stderr = os.dup(2)
        os.dup2(messages.fileno(), 2)
        try:
            import keras  # noqa: F401

            # On JAX, Keras imports TensorFlow in its first `fit`, where it is installed.
            with contextlib.suppress(ImportError):
                import tensorflow  # noqa: F401
        except BaseException:
            messages.seek(0)
            os.write(stderr, messages.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
