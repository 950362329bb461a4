"""Two logical CPU devices for distribution, markers, and a switch that hides TensorFlow."""

import gc
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Tests compile many small programs and run each for some steps only.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"
)


# Tracing makes many objects that stay; looking through them takes a tenth of the time.
gc.set_threshold(50_000, 20, 20)


class NoTensorFlow:
    """Makes `import tensorflow` fail as on a machine that has none."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if os.environ.get("KERAS_LSTSD_WITHOUT_TENSORFLOW"):
    sys.meta_path.insert(0, NoTensorFlow())

import keras  # noqa: E402
import pytest  # noqa: E402

on_tensorflow = keras.backend.backend() == "tensorflow"

if on_tensorflow:
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_configure(config):
    config.addinivalue_line("markers", "tensorflow: needs Keras's TensorFlow backend")
    config.addinivalue_line("markers", "slow: takes minutes; `pytest -m slow` runs these tests")
    thorough = "variants like others; not part of CI, `pytest -m thorough` runs these tests"
    config.addinivalue_line("markers", f"thorough: {thorough}")


def not_slow(item):
    item.own_markers = [mark for mark in item.own_markers if mark.name != "slow"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items if not on_tensorflow else ():
        if "tensorflow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs Keras's TensorFlow backend"))
        # A step that JAX does not compile as a whole takes longer: each operation is compiled.
        jit_compile = item.callspec.params.get("jit_compile") if hasattr(item, "callspec") else None
        if jit_compile is False:
            item.add_marker("slow")
        elif jit_compile is True:
            not_slow(item)
    for item in items:
        if "thorough" in item.keywords:
            not_slow(item)
    # The longest one first; all others run beside it.
    items.sort(key=lambda item: item.path.name != "test_jax.py")


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


@pytest.fixture
def real_data():
    """The folder of the real data sets, from the variable KERAS_LSTSD_DATA."""
    folder = os.environ.get("KERAS_LSTSD_DATA")
    if not folder:
        pytest.skip("KERAS_LSTSD_DATA is not set to the folder of the real data sets")
    from pathlib import Path

    return Path(folder)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests: a second one in a process would reuse the keys of the first."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
