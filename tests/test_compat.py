"""Private attributes of Keras: each test fails with a message when Keras moves one."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lstsd
from keras_lstsd import compat

PACKAGE = Path(keras_lstsd.__file__).parent
X = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], "float32")


def moved(name):
    return f"Keras {keras.__version__} moved {name}; change `keras_lstsd.compat`"


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean", None])
def test_losses_are_reduced_as_by_keras(reduction):
    y, p = np.array([0, 2]), ops.softmax(X)
    weights = np.array([0.5, 2.0], "float32")
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
    expected = ops.convert_to_numpy(loss(y, p, sample_weight=weights))
    values = keras.losses.sparse_categorical_crossentropy(y, p)
    found = ops.convert_to_numpy(compat.reduce_loss(values, weights, None, reduction))
    message = moved("`keras.src.losses.loss.reduce_weighted_values`")
    np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=message)


def test_a_mask_leaves_samples_out_of_a_reduction():
    values, mask = ops.convert_to_tensor([1.0, 5.0]), ops.convert_to_tensor([True, False])
    found = float(compat.reduce_loss(values, None, mask, "sum_over_batch_size"))
    assert found == 1.0, moved("`keras.src.losses.loss.reduce_weighted_values`")


def test_the_mask_of_an_output_is_found():
    masked = layers.Masking()(ops.convert_to_tensor(X))
    found = compat.mask_of(masked)
    assert found is not None, moved("`keras.src.backend.common.masking.get_keras_mask`")
    np.testing.assert_array_equal(ops.convert_to_numpy(found), [True, False])
    assert compat.mask_of(ops.convert_to_tensor(X)) is None


@pytest.mark.tensorflow
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_logits_of_an_activation_are_found(activation):
    outputs = keras.activations.get(activation)(ops.convert_to_tensor(X))
    found = compat.logits_of(outputs)
    assert found is not None, moved("`tensor._keras_logits`")
    np.testing.assert_array_equal(found, X)
    assert compat.logits_of(ops.convert_to_tensor(X)) is None


def test_all_layers_inside_a_model_are_found():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    outer = keras.Sequential([inner, layers.Dense(2)])
    found = compat.layers_of(outer)
    expected = [outer, inner, *inner.layers, outer.layers[1]]
    message = moved("`Layer._flatten_layers`")
    assert {id(layer) for layer in expected} <= {id(layer) for layer in found}, message


class Measured(keras.Model):
    def __init__(self):
        super().__init__()
        self.mean = keras.metrics.Mean("own")

    def call(self, x):
        self.mean.update_state(x)
        return x


def test_metrics_of_a_student_are_found():
    assert [metric.name for metric in compat.own_metrics(Measured())] == ["own"], moved(
        "`Model._metrics`"
    )
    outer = keras.Sequential([Measured()])
    assert [metric.name for metric in compat.own_metrics(outer)] == ["own"]
    # Compiled metrics are not the student's own.
    plain = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    plain.compile("sgd", "mse", metrics=["mae"])
    plain.evaluate(X, X[:, :2], verbose=0)
    assert list(compat.own_metrics(plain)) == []


def test_classes_of_keras_are_distinguished_from_a_users():
    message = moved("its classes out of `keras.src`")
    for cls in (keras.Model, keras.Sequential, keras.losses.MeanSquaredError, keras.losses.Loss):
        assert compat.is_of_keras(cls), message
    assert not compat.is_of_keras(Measured)
    assert not compat.is_of_keras(keras_lstsd.Distillation)


def compiled(loss):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile("sgd", loss)
    return model


def test_a_restored_epoch_is_forgotten(tmp_path):
    """Without this Keras starts the next `fit` at the restored epoch."""

    def fit(model):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        epochs = 2 if not (tmp_path / "backup").exists() else 3
        return model.fit(X, X[:, :2], epochs=epochs, verbose=0, callbacks=[backup]).epoch

    fit(compiled("mse"))
    resumed = compiled("mse")
    assert fit(resumed) == [2]
    assert resumed._initial_epoch == 2, moved("`Model._initial_epoch`")
    compat.forget_restored_epoch(resumed)
    history = resumed.fit(X, X[:, :2], epochs=1, verbose=0)
    assert history.epoch == [0], moved("`Model._initial_epoch`")


def test_the_files_of_a_backup_are_found(tmp_path):
    message = moved("the paths of `BackupAndRestore`")
    backup = keras.callbacks.BackupAndRestore(
        tmp_path, double_checkpoint=True, delete_checkpoint=False
    )
    compiled("mse").fit(X, X[:, :2], epochs=2, verbose=0, callbacks=[backup])
    pairs = compat.backup_paths(backup)
    assert len(pairs) == 2
    for weights, metadata in pairs:
        assert weights.exists(), message
        assert metadata.exists(), message
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for pair in pairs for path in pair
    }, message


@pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: [loss]])
def test_the_compiled_loss_is_found(wrap):
    for loss in ("mse", keras.losses.MeanSquaredError(), keras.losses.mean_squared_error):
        (found,) = keras.tree.flatten(compat.compiled_loss(compiled(wrap(loss))))
        assert found is loss, moved("`CompileLoss._user_loss`")


def test_a_model_without_a_compiled_loss_has_none():
    assert compat.compiled_loss(compiled(None)) is None


def test_the_weights_of_the_losses_are_found():
    model = compiled("mse")
    assert compat.loss_weights(model) is None
    model.compile(loss="mse", loss_weights=0.5)
    assert compat.loss_weights(model) == 0.5, moved("`CompileLoss._user_loss_weights`")


# === Only `compat` uses private attributes ===

PRIVATE = re.compile(
    r"keras\.src|\._(keras|flatten|layers|losses|loss_tracker|compile|metrics|initial_epoch"
    r"|weights_path|fn_kwargs|user_loss)"
)
# Of TensorFlow's data sets, in data/index.py.
OTHERS = {"_inputs", "_reshuffle_each_iteration"}


def sources():
    return [path for path in PACKAGE.rglob("*.py") if path.name != "compat.py"]


def own_names(tree):
    """Private attributes that a file defines: methods, classes' and objects' attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def used_names(tree):
    """Private attributes that a file uses, also by name as `getattr(x, "_name")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if is_call and node.func.id in ("getattr", "hasattr", "setattr", "delattr"):
            yield from (it.value for it in node.args[1:2] if isinstance(it, ast.Constant))


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_no_other_file_uses_private_modules_or_attributes_of_keras():
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert found == [], "move these to `keras_lstsd.compat`"


def test_all_other_private_attributes_are_the_packages_own():
    trees = {path: ast.parse(path.read_text()) for path in sources()}
    own = {name for tree in trees.values() for name in own_names(tree)} | OTHERS
    used = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path, tree in trees.items()
        for name in used_names(tree)
        if is_private(name) and name not in own
    }
    assert used == set(), "move these to `keras_lstsd.compat`"


def test_own_private_attributes_do_not_hide_those_of_keras():
    """Names that Keras's models use would change them without an error."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    of_keras = {name for name in [*dir(model), *vars(model)] if is_private(name)}
    assigned = {
        node.attr
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    assert {name for name in assigned if is_private(name)} & of_keras == set()


def test_the_random_generators_of_a_layer_are_found():
    layer = layers.Dropout(0.5, seed=3)
    assert compat.seeds_of(layer) == [layer.seed_generator], moved("`Layer._seed_generators`")
    assert compat.seeds_of(layers.Dense(2)) == []


def test_the_compiled_loss_takes_other_outputs():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, kernel_regularizer="l2")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile(loss=loss)
    y, weights = np.array([0, 2]), np.array([0.5, 2.0], "float32")
    found = compat.task_loss(model, y, ops.convert_to_tensor(X), weights)
    expected = ops.convert_to_numpy(loss(y, X, sample_weight=weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=moved("`_compile_loss`"))
    found = float(compat.added_losses(model, model))
    assert found == pytest.approx(float(model.losses[0])), moved("`_aggregate_additional_loss`")


def test_the_stored_value_of_a_variable_is_replaced():
    variable = keras.Variable(np.zeros(2, "float32"))
    before = variable.value
    compat.set_value(variable, X[0, :2])
    np.testing.assert_array_equal(np.asarray(variable.value), [1, 2], err_msg=moved("`_value`"))
    compat.set_value(variable, before)
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), [0, 0])


def test_the_graph_of_a_functional_model_is_run_layer_by_layer():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, activation="relu")(inputs)))
    called = []

    def call(layer, *args, **kwargs):
        called.append(layer)
        return layer(*args, **kwargs)

    found = compat.run_graph(model, ops.convert_to_tensor(X), call)
    assert called == model.layers[1:], moved("`Function._run_through_graph`")
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(model(X)))


def test_functional_and_sequential_models_are_told_from_others():
    class Own(keras.Model):
        def call(self, inputs):
            return 2 * super().call(inputs)

    inputs = keras.Input((3,))
    outputs = layers.Dense(2)(inputs)
    assert compat.is_functional(keras.Model(inputs, outputs)), moved("`Functional`")
    assert compat.is_functional(keras.Sequential([inputs, layers.Dense(2)]))
    assert not compat.is_functional(Own(inputs, outputs))
    assert not compat.is_functional(keras.Sequential([layers.Dense(2)]))
