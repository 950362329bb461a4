"""Samples without a label: -1, NaN, or an all-zero one-hot row."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lstsd
from tests.models import CLASSES, NAMES, SAMPLES, X, Y, assert_same, made, rarely

HIDDEN = np.arange(SAMPLES) % 3 == 0
SPARSE = np.where(HIDDEN, -1, Y)
ONE_HOT = np.eye(CLASSES, dtype="float32")[Y] * ~HIDDEN[:, None]


def student(last="softmax", units=CLASSES):
    keras.utils.set_random_seed(2)
    hidden = layers.Dense(6, activation="tanh")
    return keras.Sequential([keras.Input((4,)), hidden, layers.Dense(units, activation=last)])


def trained(name, y=SPARSE, loss="sparse_categorical_crossentropy", x=X, **options):
    model = made(name, student(), SAMPLES)
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=[accuracy])
    options = {"batch_size": 8, "epochs": 5, "shuffle": False, "verbose": 0} | options
    return model, model.fit(x, y, **options).history


@pytest.mark.parametrize(
    "name", [rarely(it, by_default=("lstsd", "prokt", "dups")) for it in NAMES]
)
def test_a_missing_label_is_a_row_of_zeros_to_the_compiled_loss(name, monkeypatch):
    """A crossentropy of zeros is 0, and its divisor counts the sample."""

    def crossentropy(y, p):
        return -keras.ops.sum(y * keras.ops.log(p), axis=-1)

    model, logs = trained(name)
    monkeypatch.setattr(keras_lstsd.Distillation, "_find_unlabelled", lambda *_: None)
    expected = made(name, student(), SAMPLES)
    # Keras's own one has a gradient for a row of zeros.
    expected.compile(keras.optimizers.SGD(0.5), crossentropy)
    history = expected.fit(X, ONE_HOT, batch_size=8, epochs=5, shuffle=False, verbose=0).history
    assert_same(model.student, expected.student, atol=1e-5)
    np.testing.assert_allclose(logs["loss"], history["loss"], atol=1e-5)


@pytest.mark.parametrize("kind", ["sparse", "one-hot", "rows of NaN", "floats"])
def test_all_forms_of_missing_labels_train_equally(kind):
    model, logs = trained("lstsd")
    y, loss = SPARSE.astype("float32"), "sparse_categorical_crossentropy"
    if kind == "floats":
        y = np.where(HIDDEN, np.nan, y)
    if kind in ("one-hot", "rows of NaN"):
        y, loss = ONE_HOT, "categorical_crossentropy"
    if kind == "rows of NaN":
        y = np.where(HIDDEN[:, None], np.nan, y)
    other = made("lstsd", student(), SAMPLES)
    other.compile(keras.optimizers.SGD(0.5), loss)
    history = other.fit(X, y, batch_size=8, epochs=5, shuffle=False, verbose=0).history
    assert_same(model.student, other.student, atol=1e-6)
    np.testing.assert_allclose(logs["loss"], history["loss"], atol=1e-6)


def test_plain_training_equals_keras_with_weights_of_zero():
    model, _ = trained("vanilla")
    plain = student()
    plain.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    weight = (~HIDDEN).astype("float32")
    plain.fit(X, Y, sample_weight=weight, batch_size=8, epochs=5, shuffle=False, verbose=0)
    assert_same(model.student, plain)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_count_labelled_samples(weighted):
    model = made("lstsd", student(), SAMPLES)
    weight = np.linspace(0.5, 2, SAMPLES) if weighted else None
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("weighted")],
    )
    logs = model.fit(X, SPARSE, sample_weight=weight, batch_size=8, verbose=0).history
    right = (model.predict(X, verbose=0).argmax(-1) == Y)[~HIDDEN]
    shares = np.ones(right.shape) if weight is None else weight[~HIDDEN]
    np.testing.assert_allclose(logs["accuracy"][0], right.mean(), atol=1e-6)
    np.testing.assert_allclose(logs["weighted"][0], np.average(right, weights=shares), atol=1e-6)


def test_samples_without_a_label_are_guided():
    moved = np.where(HIDDEN[:, None], X + 1, X)
    for name, differs in (("vanilla", False), ("lstsd", True), ("mean_teacher", True)):
        kernel, other = (trained(name, x=x)[0].student.get_weights()[0] for x in (X, moved))
        assert bool(np.abs(kernel - other).max() > 1e-4) is differs


@pytest.mark.tensorflow
def test_a_data_set_says_that_labels_are_missing():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, SPARSE)).batch(8)
    model = made("mean_teacher", student(), SAMPLES)
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    model.has_unlabelled = True
    model.fit(data, epochs=5, verbose=0)
    assert_same(model.student, trained("mean_teacher")[0].student, atol=1e-6)


def test_a_multi_label_sample_has_all_labels_or_none():
    y = (X > 0).astype("float32")
    model = keras_lstsd.LSTSD(student("sigmoid", 4))
    model.compile("sgd", "binary_crossentropy", metrics=["binary_accuracy"])
    y[2] = -1
    assert np.isfinite(model.fit(X, y, verbose=0).history["loss"]).all()
    assert model.has_unlabelled
    y[3, 1] = np.nan
    with pytest.raises(ValueError, match="all of its labels or none.*4 labels.*Expected"):
        model.fit(X, y, verbose=0)


def test_all_zero_rows_of_a_multi_label_student_are_labels():
    model = keras_lstsd.LSTSD(student("sigmoid", 4))
    model.compile("sgd", "binary_crossentropy")
    model.fit(X, np.zeros((SAMPLES, 4)), verbose=0)
    assert not model.has_unlabelled


def test_negative_targets_of_another_loss_are_no_missing_labels():
    y = np.where(Y == 0, -1.0, 1.0)
    model = keras_lstsd.Distillation(student("tanh", 1), from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), "hinge")
    plain = student("tanh", 1)
    plain.compile(keras.optimizers.SGD(0.5), "hinge")
    for it in (model, plain):
        it.fit(X, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    assert not model.has_unlabelled
    assert_same(model.student, plain)


def test_a_loss_that_ignores_a_class_leaves_it_out_itself():
    plain = student()
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    plain.compile(keras.optimizers.SGD(0.5), loss)
    expected = plain.fit(X, SPARSE, batch_size=8, epochs=5, shuffle=False, verbose=0).history
    model, logs = trained("vanilla", loss=loss)
    assert not model.has_unlabelled
    assert logs["loss"] == expected["loss"]
    assert_same(model.student, plain)
