"""Single cases of indices, labels and weights, each of which once went wrong."""

import keras
import numpy as np
import pytest

from keras_lstsd.data import with_sample_index
from recipes.methods import METHODS
from tests.bad_input.cases import (
    CLASSES,
    EVERYONE,
    EXPLAINED,
    RATE,
    SAMPLES,
    X,
    Y,
    batch_of,
    fresh,
    linear_student,
    on_jax,
    train,
)
from tests.models import EACH, wrapped
from tests.settings import TINY


def fault(reason, where=True):
    """Strict: a fault that was repaired must lose its mark."""
    return pytest.mark.xfail(where, reason=reason, strict=True)


@fault("JAX truncates integers to 32 bits before the model gets them: 2**32 + 5 is 5", on_jax)
@pytest.mark.parametrize(
    ("dtype", "number"), [("int64", 2**32 + 2), ("int64", 2 - 2**32), ("uint64", 2**32 + 2)]
)
def test_an_index_beyond_int32_is_out_of_range(dtype, number):
    index = EVERYONE.astype(dtype)
    index[2] = number
    model = fresh("lstsd")
    with pytest.raises(ValueError, match="Received: 1 samples"):
        train(model, batch_of(X, Y, index))


def test_an_int64_index_of_arrays_below_int32_is_out_of_range():
    index = EVERYONE.astype("int64")
    index[2] -= 2**32
    with pytest.raises(ValueError, match=EXPLAINED):
        fresh("lstsd").fit({"inputs": X, "sample_index": index}, Y, verbose=0)


def test_one_index_for_a_batch_of_several_samples_is_rejected():
    with pytest.raises(ValueError, match=EXPLAINED):
        train(fresh("lstsd"), batch_of(X, Y, [3]), epochs=3)


def test_fewer_indices_than_samples_are_rejected():
    with pytest.raises(ValueError, match=EXPLAINED):
        train(fresh("lstsd"), batch_of(X, Y, [0, 1, 2]), epochs=3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", EACH)
def test_one_index_is_not_used_for_all_samples_where_sizes_are_unknown(name):
    import tensorflow as tf

    batch = batch_of(X, Y, np.array([3], "int32"))
    spec = tf.nest.map_structure(lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), batch)
    data = tf.data.Dataset.from_generator(lambda: iter([batch]), output_signature=spec)
    data = data.apply(tf.data.experimental.assert_cardinality(1))
    model = fresh(name, eager=False)
    if not model.needs_sample_index:
        # It ignores the index.
        assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()
        return
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as failure:
        model.fit(data, verbose=0)
    # A table or a log rejects one index for several rows; else the epoch's end explains.
    rejected = isinstance(failure.value, tf.errors.InvalidArgumentError)
    assert rejected or EXPLAINED.search(str(failure.value))
    assert not any(table.numpy()[1].any() for table in model.sample_tables.values())


@pytest.mark.tensorflow
def test_an_index_of_unknown_rank_is_rejected():
    import tensorflow as tf

    def opaque(x, y):
        index = tf.numpy_function(lambda i: i, [x["sample_index"]], tf.int32)
        return {"inputs": x["inputs"], "sample_index": index}, y

    data = with_sample_index(tf.data.Dataset.from_tensor_slices((X, Y))).batch(3).map(opaque)
    with pytest.raises(ValueError, match=EXPLAINED):
        fresh("lstsd", eager=False).fit(data, verbose=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_weight_that_is_not_finite_is_reported(bad):
    weight = np.where(EVERYONE == 1, bad, 1).astype("float32")
    model = fresh("lstsd")
    with pytest.raises(ValueError, match=EXPLAINED):
        model.fit(X, Y, SAMPLES, sample_weight=weight, verbose=0)


@pytest.mark.parametrize("name", ["lstsd", "dups_plus"])
@pytest.mark.parametrize("floatx", ["float64", "float16"])
@pytest.mark.tensorflow
def test_other_float_types_of_keras_train(floatx, name):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    try:
        method = METHODS[name]
        model = wrapped(method.cls, linear_student(), SAMPLES, **TINY[name])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(RATE), loss, run_eagerly=True)
        history = model.fit(X, Y, epochs=3, verbose=0).history
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert history["distillation_loss"][2] > 0
    assert history["teacher_coverage"] == [0, 0, 1]


@pytest.mark.skipif(not on_jax, reason="TensorFlow rejects the label")
def test_a_label_of_minus_one_has_no_class_teacher():
    y = np.where(EVERYONE == 0, -1, Y)
    logs = train(fresh("dups_plus"), batch_of(X, y, EVERYONE), epochs=3)
    np.testing.assert_allclose(logs["teacher_coverage"][2], (SAMPLES - 1) / SAMPLES)


@pytest.mark.tensorflow
def test_dups_rejects_labels_above_its_classes():
    y = np.where(EVERYONE == 0, CLASSES, Y)
    with pytest.raises(Exception, match=f"Received a label value of {CLASSES}"):
        train(fresh("dups_plus"), batch_of(X, y, EVERYONE))
