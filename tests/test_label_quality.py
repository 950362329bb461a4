"""Rankings of labels: arrays in, arrays out."""

import keras
import numpy as np
import pytest

import keras_lstsd
from keras_lstsd.label_quality import (
    beliefs,
    class_labels,
    disagreement,
    label_confidence,
    margins,
    ranked,
)
from tests.models import wrapped

SAMPLES, CLASSES, EPOCHS = 9, 3, 5
X = np.random.default_rng(0).normal(size=(SAMPLES, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)


class Recorder(keras.callbacks.Callback):
    """The predictions of each epoch's steps for all samples, from the table after the epoch."""

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(np.exp(self.model.pending.numpy()[0].astype("float64")))


def fresh(cls=keras_lstsd.LSTSD, units=CLASSES, last="softmax", **arguments):
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, last)])
    model = wrapped(cls, student, SAMPLES, **arguments)
    loss = "binary" if units == 1 else "sparse_categorical"
    model.compile(keras.optimizers.SGD(2.0), f"{loss}_crossentropy")
    return model


def trained(epochs=EPOCHS, **arguments):
    model, recorder = fresh(mini_generation_epochs=2, **arguments), Recorder()
    model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[recorder])
    return model, np.stack(recorder.epochs)


def test_tables_rank_labels_by_their_mean_prediction():
    model, p = trained()
    # Epochs 0 to 4 in mini-generations of 2: pending is epoch 4's, short and long are epoch 3's.
    expected = (p[4] + 2 * p[3])[np.arange(SAMPLES), Y] / 3
    np.testing.assert_allclose(beliefs(model), (p[4] + 2 * p[3]) / 3, rtol=1e-5)
    np.testing.assert_allclose(label_confidence(model, Y), expected, rtol=1e-5)
    one_hot = np.eye(CLASSES)[Y]
    np.testing.assert_array_equal(
        keras_lstsd.suspicious_labels(model, one_hot), np.argsort(expected)
    )


def test_the_margin_is_the_lead_over_the_best_other_class():
    logits = np.array([[2.0, 0.5, -1.0], [2.0, 0.5, -1.0], [0.0, 3.0, 4.0], [1.0, 2.0, 3.0]])
    found = margins(logits, np.array([0, 1, 2, -1]))
    np.testing.assert_array_equal(found, [1.5, -1.5, 1.0, np.nan])
    assert logits[0, 0] == 2.0


def test_teachers_disagree_by_total_variation():
    model, p = trained(epochs=6)
    # In epoch 5 the short-term teacher is epoch 4's and the long-term one epoch 3's.
    expected = np.abs(p[4] - p[3]).sum(-1) / 2
    np.testing.assert_allclose(disagreement(model), expected, rtol=1e-4, atol=1e-6)


def test_a_sample_that_was_never_drawn_has_no_confidence_and_comes_last():
    model = fresh()
    drawn = np.delete(np.arange(SAMPLES), 5)
    model.fit({"inputs": X[drawn], "sample_index": drawn}, Y[drawn], verbose=0)
    confidence = label_confidence(model, Y)
    np.testing.assert_array_equal(np.isnan(confidence), np.arange(SAMPLES) == 5)
    np.testing.assert_array_equal(np.isnan(beliefs(model)).all(-1), np.arange(SAMPLES) == 5)
    assert keras_lstsd.suspicious_labels(model, Y)[-1] == 5
    assert np.isnan(disagreement(model)).all()


@pytest.mark.parametrize("missing", [-1, np.nan])
def test_a_sample_without_a_label_has_no_confidence_and_comes_last(missing):
    model, _ = trained()
    y = np.where(np.arange(SAMPLES) == 2, missing, Y)
    confidence = label_confidence(model, y)
    np.testing.assert_array_equal(np.isnan(confidence), np.arange(SAMPLES) == 2)
    assert keras_lstsd.suspicious_labels(model, y)[-1] == 2
    shares = np.eye(CLASSES)[Y] * (np.arange(SAMPLES) != 2)[:, None]
    np.testing.assert_array_equal(label_confidence(model, shares), confidence)


def test_soft_labels_are_ranked_by_the_class_of_their_largest_share():
    model, _ = trained()
    soft = 0.9 * np.eye(CLASSES)[Y] + 0.1 / CLASSES
    np.testing.assert_array_equal(label_confidence(model, soft), label_confidence(model, Y))


@pytest.mark.parametrize("smoothed", [False, True])
def test_labels_of_one_unit_are_those_of_two_classes(smoothed):
    model, recorder = fresh(units=1, last="sigmoid"), Recorder()
    y = (Y > 0)[:, None].astype("float32")
    model.fit(X, y, verbose=0, callbacks=[recorder])
    expected = recorder.epochs[0][np.arange(SAMPLES), y[:, 0].astype(int)]
    given = 0.9 * y + 0.05 if smoothed else y
    np.testing.assert_allclose(label_confidence(model, given), expected, rtol=1e-6)


def test_samples_are_ranked_by_confidence_with_unknown_ones_last():
    np.testing.assert_array_equal(ranked(np.array([0.5, np.nan, 0.1, 0.5])), [2, 0, 3, 1])


# === Labels ===


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([2, 0, 1], [2, 0, 1]),
        (np.array([2, 0, 1], "uint8"), [2, 0, 1]),
        ([2.0, 0.0, np.nan], [2, 0, -1]),
        ([-1, 2, np.inf], [-1, 2, -1]),
        ([[2], [0], [1]], [2, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        (np.eye(3), [0, 1, 2]),
        (np.eye(3, dtype=bool), [0, 1, 2]),
        ([[0, 0, 0], [0, 1, 0]], [-1, 1]),
        ([[np.nan] * 3, [0, 1, 0]], [-1, 1]),
        # Soft labels.
        ([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1]], [1, 0]),
        ([0.05, 0.95, 0.5], [0, 1, 1]),
        ([[0.05], [0.95]], [0, 1]),
    ],
)
def test_labels_of_all_forms_are_classes(y, expected):
    found = class_labels(y)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("y", "received"),
    [
        (np.array(["no", "yes"]), "strings or objects"),
        (np.array(["no", "yes"], object), "strings or objects"),
        ([b"no", b"yes"], "strings or objects"),
        ([[1, 1, 0], [0, 1, 0]], "multi-hot rows"),
        ([[0.9, 0.8], [0.1, 0.2]], "multi-hot rows"),
        (np.zeros((3, 4, 2)), "labels of another shape"),
        (3, "labels of another shape"),
        ([0.5, 1.5], r"fractions outside \[0, 1\]"),
        ([-0.5, 1.0], r"fractions outside \[0, 1\]"),
    ],
)
def test_other_labels_are_rejected(y, received):
    message = f"Labels must be classes. Received: {received}.*Expected: integers"
    with pytest.raises(ValueError, match=message):
        class_labels(y)
    with pytest.raises(ValueError, match=message):
        keras_lstsd.TrainingDynamics(y)


def test_strings_are_rejected_with_the_line_to_write():
    model, _ = trained(epochs=1)
    words = np.array(["a", "b", "c"])[Y]
    with pytest.raises(ValueError, match=r"np\.unique\(y, return_inverse=True\)"):
        keras_lstsd.suspicious_labels(model, words)
    _, y = np.unique(words, return_inverse=True)
    np.testing.assert_array_equal(label_confidence(model, y), label_confidence(model, Y))


@pytest.mark.parametrize("y", [Y[:-1], Y + 1, Y - 2])
def test_labels_of_another_training_set_are_rejected(y):
    model, _ = trained(epochs=1)
    with pytest.raises(ValueError, match=rf"Received: {len(y)} labels.*Expected: {SAMPLES}"):
        label_confidence(model, y)


# === Methods ===


def test_a_method_without_a_table_of_samples_is_rejected():
    model = fresh(keras_lstsd.MeanTeacher)
    model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"MeanTeacher.*long_weight=0, short_weight=0"):
        keras_lstsd.suspicious_labels(model, Y)
    with pytest.raises(ValueError, match=r"TemporalEnsembling.*`keras_lstsd\.LSTSD`"):
        disagreement(fresh(keras_lstsd.TemporalEnsembling))


def test_a_model_that_was_not_trained_is_rejected():
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(CLASSES, "softmax")])
    with pytest.raises(ValueError, match=r"LSTSD, which has not been trained"):
        keras_lstsd.suspicious_labels(keras_lstsd.LSTSD(student), Y)
