import keras
import numpy as np
import pytest

from keras_lstsd import RotateTeachers, SelfDistillation

X, Y = np.ones((6, 2), "float32"), np.zeros(6)


class Noting(SelfDistillation):
    """Notes when the hooks of the edges are called."""

    def __init__(self, *arguments, **options):
        self.calls = []
        super().__init__(*arguments, **options)

    def on_epoch_edge(self, epoch):
        self.calls.append(("epoch", epoch))

    def on_generation_edge(self, generation):
        self.calls.append(("generation", generation))


def noting():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model = Noting(network, 6, mini_generation_epochs=2)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


EDGES = [("epoch", 1), ("epoch", 2), ("generation", 1), ("epoch", 3), ("epoch", 4)]
EDGES += [("generation", 2)]


def as_list(model):
    return [RotateTeachers()]


def as_callback_list(model):
    return keras.callbacks.CallbackList([], add_history=True, model=model)


def with_rotation(model):
    return keras.callbacks.CallbackList([RotateTeachers()], add_history=True, model=model)


@pytest.mark.parametrize(
    "callbacks", [lambda model: None, as_list, as_callback_list, with_rotation]
)
def test_edges_come_once_however_the_callback_is_given(callbacks):
    model = noting()
    model.fit(X, Y, epochs=5, verbose=0, callbacks=callbacks(model))
    assert model.calls == EDGES


def test_edges_go_on_over_several_fits():
    model = noting()
    for _ in range(5):
        model.fit(X, Y, verbose=0)
    assert model.calls == EDGES


def test_a_model_without_teachers_is_refused():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    network.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Received: Sequential.*LSTSD\(model"):
        network.fit(X, X, callbacks=[RotateTeachers()])


def test_bad_input_is_told_before_an_epoch_is_backed_up(tmp_path):
    """Wherever the callback stands in the list."""
    model = noting()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ValueError, match="outputs must be finite"):
        model.fit(X * np.nan, Y, epochs=2, verbose=0, callbacks=[backup, RotateTeachers()])
    assert list((tmp_path / "backup").iterdir()) == []
