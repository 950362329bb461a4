"""Epoch boundaries, and the curves that Keras's callbacks show."""

import keras
import numpy as np
import pytest

from keras_lstsd import LSTSD, Distillation, RotateTeachers

X, Y = np.ones((6, 2), "float32"), np.zeros(6)


class Noting(Distillation):
    """Notes when the hooks of the epoch boundaries are called."""

    def __init__(self, *arguments, **options):
        self.calls = []
        super().__init__(*arguments, **options)

    def on_epoch_start(self, epoch):
        self.calls.append(("epoch", epoch))

    def on_stage_start(self, stage):
        self.calls.append(("stage", stage))


def noting():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model = Noting(network, mini_generation_epochs=2)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


BOUNDARIES = [("epoch", 0), ("stage", 0), ("epoch", 1), ("epoch", 2), ("stage", 1)]
BOUNDARIES += [("epoch", 3), ("epoch", 4), ("stage", 2)]


def as_list(model):
    return [RotateTeachers()]


def as_callback_list(model):
    return keras.callbacks.CallbackList([], add_history=True, model=model)


def with_rotation(model):
    return keras.callbacks.CallbackList([RotateTeachers()], add_history=True, model=model)


@pytest.mark.parametrize(
    "callbacks", [lambda model: None, as_list, as_callback_list, with_rotation]
)
def test_hooks_are_called_once_however_the_callback_is_given(callbacks):
    model = noting()
    model.fit(X, Y, epochs=5, verbose=0, callbacks=callbacks(model))
    assert model.calls == BOUNDARIES


def test_epochs_are_counted_over_several_fits():
    model = noting()
    for _ in range(5):
        model.fit(X, Y, verbose=0)
    assert model.calls == BOUNDARIES


def test_a_model_without_teachers_is_rejected():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    network.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Received: Sequential.*LSTSD\(model"):
        network.fit(X, X, callbacks=[RotateTeachers()])


def test_bad_input_is_reported_before_an_epoch_is_backed_up(tmp_path):
    """At every position of the callback in the list."""
    model = noting()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ValueError, match="The loss or the weights are not finite"):
        model.fit(X * np.nan, Y, epochs=2, verbose=0, callbacks=[backup, RotateTeachers()])
    assert list((tmp_path / "backup").iterdir()) == []


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras writes with TensorFlow")
def test_tensorboard_shows_the_curves_of_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    import tensorflow as tf

    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model = LSTSD(network, 6, mini_generation_epochs=2)
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    history = model.fit(
        X,
        Y,
        epochs=4,
        verbose=0,
        validation_data=(X, Y),
        callbacks=[keras.callbacks.TensorBoard(tmp_path)],
    ).history
    shown = {"train": {}, "validation": {}}
    for part, curves in shown.items():
        for file in (tmp_path / part).glob("*.v2"):
            for event in tf.compat.v1.train.summary_iterator(str(file)):
                for value in event.summary.value:
                    if value.tag.startswith("epoch_"):
                        curves.setdefault(value.tag.removeprefix("epoch_"), []).append(
                            float(tf.make_ndarray(value.tensor))
                        )
    expected = {"train": {}, "validation": {}}
    for name, values in history.items():
        part = "validation" if name.startswith("val_") else "train"
        expected[part][name.removeprefix("val_")] = pytest.approx(values, rel=1e-6)
    shown["train"].pop("learning_rate", None)
    assert shown == expected
    assert {"short_term_loss", "long_term_loss", "teacher_coverage"} <= shown["train"].keys()
