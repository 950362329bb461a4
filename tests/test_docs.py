"""The examples in docstrings run as they stand, beside a reader's student and arrays."""

import ast
import inspect
import math  # noqa: F401
import pkgutil
from importlib import import_module

import keras
import numpy as np
import pytest

import keras_lstsd

pytestmark = pytest.mark.tensorflow


def examples():
    """The `>>>` lines of each docstring of the package, by the name of what they stand in."""
    found = {}
    for info in pkgutil.walk_packages(keras_lstsd.__path__, "keras_lstsd."):
        source = inspect.getsource(import_module(info.name))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines = (ast.get_docstring(node) or "").splitlines()
                code = [
                    line.strip()[4:] for line in lines if line.strip().startswith((">>> ", "... "))
                ]
                if code:
                    found[f"{info.name}.{node.name}"] = "\n".join(code)
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue/RTE").mkdir(parents=True)
    row = "0\tA cat sat.\tIt sat.\tentailment"
    (tmp_path / "glue/RTE/train.tsv").write_text(f"index\tsentence1\tsentence2\tlabel\n{row}\n")
    (tmp_path / "cifar-100-binary").mkdir()
    (tmp_path / "cifar-100-binary/train.bin").write_bytes(bytes(3074))
    monkeypatch.setitem(keras_lstsd.data.cifar100.SIZES, "train", 1)
    x_train, x_test = np.random.default_rng(0).normal(size=(2, 12, 4)).astype("float32")
    y_train = y_test = np.arange(12, dtype="int32") % 10
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10, activation="softmax")])
    model = keras_lstsd.LSTSD(student, num_samples=12)
    model.compile("sgd", "sparse_categorical_crossentropy")
    train = tf.data.Dataset.from_tensor_slices((x_train, y_train))
    exec(EXAMPLES[name].replace("epochs=164", "epochs=2"), locals() | globals())


def test_every_public_name_has_a_docstring_and_most_an_example():
    for name in keras_lstsd.__all__:
        assert inspect.getdoc(getattr(keras_lstsd, name))
    assert len(EXAMPLES) >= 24
