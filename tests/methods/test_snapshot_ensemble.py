import keras
import numpy as np
import pytest

from keras_lstsd import SnapshotEnsemble
from keras_lstsd.schedules import CyclicCosine
from tests import oracles
from tests.methods.linear import CLASSES, FEATURES, linear_student, problem

X, Y = problem()
STEPS = 5


def trained(student, loss, keep=3, epochs=7, y=Y):
    """Cycles of 2 epochs, the last one of 1, and the student's weights at their ends."""
    model = SnapshotEnsemble(student, mini_generation_epochs=2, keep=keep)
    rate = CyclicCosine(0.3, 2 * STEPS, total_steps=epochs * STEPS)
    model.compile(keras.optimizers.SGD(rate), loss, metrics=["accuracy"])
    ends = []

    def take(epoch, logs):
        if epoch % 2 == 1 or epoch == epochs - 1:
            ends.append(student.get_weights())

    look = keras.callbacks.LambdaCallback(on_epoch_end=take)
    model.fit(X, y, batch_size=5, epochs=epochs, verbose=0, callbacks=[look])
    return model, ends


def test_predictions_are_the_mean_of_the_last_snapshots_softmax():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, ends = trained(linear_student(), loss)
    assert len(ends) == 4
    expected = oracles.snapshot_ensemble_predict(ends[-3:], X)
    logits = model.predict(X, verbose=0)
    np.testing.assert_allclose(np.exp(logits), expected, atol=1e-5)
    accuracy = model.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"]
    np.testing.assert_allclose(accuracy, np.mean(expected.argmax(-1) == Y), atol=1e-6)


def test_a_softmax_student_outputs_mean_probabilities():
    student = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, activation="softmax")]
    )
    model, ends = trained(student, "sparse_categorical_crossentropy", keep=10)
    expected = oracles.snapshot_ensemble_predict(ends, X)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize("from_logits", [False, True])
def test_a_one_unit_student_outputs_the_mean_probability(from_logits):
    unit = keras.layers.Dense(1, activation=None if from_logits else "sigmoid")
    student = keras.Sequential([keras.Input((FEATURES,)), unit])
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    model, ends = trained(student, loss, y=Y % 2)
    chances = [1 / (1 + np.exp(-(X @ kernel + bias))) for kernel, bias in ends[-3:]]
    outputs = model.predict(X, verbose=0)
    found = 1 / (1 + np.exp(-outputs)) if from_logits else outputs
    np.testing.assert_allclose(found, np.mean(chances, 0), atol=1e-5)


@pytest.mark.tensorflow
def test_the_ensemble_is_exported(tmp_path):
    import tensorflow as tf

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, _ = trained(linear_student(), loss)
    model.export(tmp_path / "ensemble", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "ensemble")
    np.testing.assert_allclose(loaded.serve(X), model.predict(X, verbose=0), atol=1e-6)


def test_keep_1_is_the_student_by_itself():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, _ = trained(linear_student(), loss, keep=1)
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.student.predict(X, verbose=0))
    with pytest.raises(ValueError, match="keep=0"):
        SnapshotEnsemble(linear_student(), keep=0)
