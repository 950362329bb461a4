"""Where and how a result was measured: command, machine, versions and date."""

import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import keras

import keras_lstsd


def command() -> str:
    """The command line of this process, without `--publish`; of absolute paths the last part."""
    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.name}" if spec else f"python {Path(sys.argv[0]).name}"
    line = re.sub(r"(^|\0)--?publish[=\0][^\0]*", "", "\0".join(sys.argv[1:]))
    words = [short(word) for word in line.split("\0") if word]
    if "KERAS_BACKEND" in os.environ:
        program = f"KERAS_BACKEND={keras.backend.backend()} {program}"
    return " ".join([program, *map(shlex.quote, words)])


def short(value: str) -> str:
    """A flag or a value; an absolute path is cut to its last part."""
    flag, equals, path = value.rpartition("=")
    return flag + equals + (Path(path).name if path.startswith(("/", "~")) else path)


def environment() -> dict[str, str]:
    """Machine, versions and date (UTC)."""
    backend = keras.backend.backend()
    packages = {"Keras": "keras", {"tensorflow": "TensorFlow", "jax": "JAX"}[backend]: backend}
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {_version(package)}" for name, package in packages.items()]
    versions.append(f"keras_lstsd {keras_lstsd.__version__}")
    return {
        "machine": "; ".join([*_accelerators(), _processor()]),
        "versions": ", ".join(versions),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _version(package: str) -> str:
    return version(package) if package != "tensorflow" else sys.modules[package].__version__


def _processor() -> str:
    """Model of the CPU and the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {cores} {'core' if cores == 1 else 'cores'}"


def _accelerators() -> list[str]:
    """Names of the GPUs, and on JAX of the TPUs, that the backend computes on."""
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, gpus)
    return [detail.get("device_name", "GPU") for detail in details]
