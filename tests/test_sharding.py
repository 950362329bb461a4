import keras
import numpy as np
import pytest

from keras_lstsd import shard_tables
from recipes.methods import METHODS
from tests.models import X, Y, dense_student, made, thorough

on_two_jax_devices = pytest.mark.skipif(
    keras.backend.backend() != "jax" or len(keras.distribution.list_devices()) != 2,
    reason="Keras has layouts of variables on JAX only",
)
# The tables of the last three are those of the others.
TABLES = ["lstsd", "lstsd_top_k", "temporal_ensembling", "crd"]
TABLES += [thorough(name) for name in ("ps_kd", "elr", "stored_teacher")]


def layout(axes=("rows",), devices=(2,)):
    names = [f"cpu:{number}" for number in range(np.prod(devices))]
    mesh = keras.distribution.DeviceMesh(devices, list(axes), names)
    return keras.distribution.LayoutMap(mesh)


def trained(name, epochs=3):
    keras.utils.set_random_seed(1)
    model = made(name, dense_student())
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    history = model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0).history
    return model, history


@pytest.fixture
def divided():
    """The rows of tables and the kernels of the student, along one axis of two devices."""
    layout_map = layout(("batch", "model"), (1, 2))
    shard_tables(layout_map, "model")
    layout_map["dense.*/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch")


def tables_of(model):
    """Each variable with a row per sample."""
    ends = ("/rows", "/row_classes")
    return [weight for weight in model.non_trainable_variables if weight.path.endswith(ends)]


@on_two_jax_devices
@pytest.mark.parametrize("name", TABLES)
def test_divided_tables_train_the_same(name, divided, tmp_path):
    whole, expected = trained(name)
    with divided.scope():
        model, history = trained(name)
        tables = tables_of(model)
        assert len(tables) >= METHODS[name].cls.needs_sample_index
        for table in tables:
            shards = [shard.data.shape for shard in table.value.addressable_shards]
            assert shards == [(table.shape[0] // 2, table.shape[1])] * 2
        model.save_weights(tmp_path / "model.weights.h5")
    for log, values in expected.items():
        np.testing.assert_allclose(history[log], values, atol=1e-5, err_msg=log)
    # Rows that were saved by two devices load on one.
    keras.utils.set_random_seed(2)
    loaded, _ = trained(name, epochs=1)
    loaded.load_weights(tmp_path / "model.weights.h5")
    for found, weight in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(found, weight, atol=1e-5)


def test_the_rule_is_for_the_rows_of_tables_alone():
    layout_map = layout()
    shard_tables(layout_map, "rows")
    for path in (
        "lstsd/pending/rows",
        "crd/memory/rows",
        "elr/ensemble/row_classes",
        "pending/rows",
    ):
        assert layout_map[path].axes == ("rows", None)
    for path in ("label_table/labels", "ensemble/updates", "class_table/means", "dense/kernel"):
        assert layout_map[path] is None


def test_an_unknown_axis_is_rejected():
    with pytest.raises(ValueError, match=r"Received: axis='batch'. Expected: one of \['rows'\]"):
        shard_tables(layout())


def test_a_number_of_devices_that_does_not_divide_the_rows_is_rejected():
    with pytest.raises(ValueError, match="Received: 6 devices along 'rows'.*such as 2"):
        shard_tables(layout(devices=(6,)), "rows")
