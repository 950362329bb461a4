"""`drop_issues_after`: labels that the training finds wrong stop counting."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_lstsd
from keras_lstsd import LSTSD, Distillation
from tests.methods import linear
from tests.methods.linear import CLASSES, SAMPLES
from tests.models import NAMES, trained
from tests.oracles.dropping import dropping
from tests.settings import OFF


def margins_of(model):
    rows = ops.convert_to_numpy(model.label_margins.rows)
    return rows[: model.num_rows, 0]


def set_margins(model, value):
    rows = np.array(ops.convert_to_numpy(model.label_margins.rows))
    rows[:, 0] = value
    model.label_margins.rows.assign(rows)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("after", [1, 3])
def test_training_follows_its_simulation(after, jit_compile):
    linear.follow(
        dropping,
        Distillation,
        lambda model: {"margins": margins_of(model)},
        jit_compile,
        simulated={"after": after},
        drop_issues_after=after,
        num_samples=SAMPLES,
    )


def fresh(cls=Distillation, last=None, units=CLASSES, after=2, **options):
    keras.utils.set_random_seed(0)
    student = keras.Sequential(
        [keras.Input((linear.FEATURES,)), keras.layers.Dense(units, activation=last)]
    )
    model = cls(student, drop_issues_after=after, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=last is None)
    if last == "sigmoid":
        loss = "binary_crossentropy"
    model.compile(keras.optimizers.SGD(0.5), loss)
    return model


X, Y = linear.problem()


@pytest.mark.parametrize("method", [LSTSD, keras_lstsd.ELR, keras_lstsd.TemporalEnsembling])
def test_the_margins_are_those_of_the_training_dynamics(method):
    options = {} if method is keras_lstsd.ELR else {"temperature": 1.0}
    model, dynamics = fresh(method, after=3, **options), keras_lstsd.TrainingDynamics(Y)
    model.fit(X, Y, batch_size=5, epochs=3, verbose=0, callbacks=[dynamics])
    if method is not keras_lstsd.ELR:  # which stores clipped predictions
        np.testing.assert_allclose(margins_of(model), 3 * dynamics.margin, rtol=1e-4, atol=1e-5)
    logs = model.fit(X, Y, batch_size=5, epochs=1, verbose=0).history
    dropped = (margins_of(model) < 0).mean()
    assert 0 < dropped < 1
    np.testing.assert_allclose(logs["dropped_labels"], [dropped], rtol=1e-6)


def test_the_guidance_of_dropped_labels_stays():
    model = fresh(LSTSD, after=1, mini_generation_epochs=1)
    model.fit(X, Y, batch_size=5, epochs=1, verbose=0)
    set_margins(model, -1.0)
    logs = model.fit(X, Y, batch_size=5, epochs=1, verbose=0).history
    assert logs["dropped_labels"] == [1]
    assert logs["distillation_loss"][0] > 0
    np.testing.assert_allclose(logs["loss"], logs["distillation_loss"], rtol=1e-5)


def test_labels_that_were_not_dropped_train_as_before():
    model, plain = fresh(after=2), fresh(after=100)
    for each in (model, plain):
        each.fit(X, Y, batch_size=5, epochs=2, verbose=0)
        set_margins(each, 1.0)
        each.fit(X, Y, batch_size=5, epochs=2, verbose=0)
    for one, other in zip(model.student.get_weights(), plain.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_sample_without_a_label_has_no_margin():
    y = np.where(np.arange(SAMPLES) < 4, -1, Y)
    model = fresh()
    model.fit(X, y, batch_size=5, epochs=2, verbose=0)
    np.testing.assert_array_equal(margins_of(model) == 0, np.arange(SAMPLES) < 4)


def test_logits_that_are_not_finite_leave_the_margin():
    model = fresh()
    x = X.copy()
    x[3] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        model.fit(x[3:4], Y[3:4], batch_size=1, epochs=1, verbose=0)
    assert np.isfinite(margins_of(model)).all()


def test_each_token_has_its_own_margin():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(12, 2, 3)).astype("float32")
    y = (x[..., 0] > 0).astype(int)
    x[..., 0] = 6 * y - 3
    y[5, 1] = 1 - y[5, 1]
    student = keras.Sequential([keras.Input((2, 3)), keras.layers.Dense(2, "softmax")])
    model = Distillation(student, drop_issues_after=40)
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=4, epochs=40, verbose=0)
    sums = margins_of(model).reshape(12, 2)
    assert sums.argmin() == 11
    np.testing.assert_array_equal(sums < 0, np.arange(24).reshape(12, 2) == 11)
    logs = model.fit(x, y, batch_size=4, epochs=1, verbose=0).history
    np.testing.assert_allclose(logs["dropped_labels"], [1 / 24], rtol=1e-6)


def test_a_label_that_is_corrected_counts_again():
    model = fresh(after=1)
    model.fit(X, Y, batch_size=5, epochs=1, verbose=0)
    dropped = margins_of(model) < 0
    corrected = np.where(np.arange(SAMPLES) == np.flatnonzero(dropped)[0], (Y + 1) % CLASSES, Y)
    logs = model.fit(X, corrected, batch_size=5, epochs=1, verbose=0).history
    np.testing.assert_allclose(logs["dropped_labels"], [(dropped.sum() - 1) / SAMPLES], rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dropping"])
def test_every_method_drops_labels(name):
    settings = {"drop_issues_after": 1} | OFF[name]
    _, history = trained(name, settings=settings)
    assert history["dropped_labels"][0] == 0
    assert 0 < history["dropped_labels"][1] < 1


def test_several_labels_of_a_sample_are_rejected():
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "sigmoid")])
    model = Distillation(student, drop_issues_after=2)
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match=r"drop_issues_after=2 for 2 labels"):
        model.fit(np.ones((4, 6)), np.ones((4, 2)), verbose=0)


def test_mixed_inputs_are_rejected():
    model = fresh()
    images = np.random.default_rng(0).random((8, 8, 8, 3)).astype("float32")
    student = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    model = Distillation(student, drop_issues_after=1)
    model.compile("sgd", "categorical_crossentropy")
    batches = keras_lstsd.data.SampleBatches(
        images,
        np.eye(3)[np.arange(8) % 3],
        batch_size=4,
        layers=[keras.layers.CutMix(dtype="float32")],
    )
    with pytest.raises(ValueError, match=r"one label. Received: MixUp or CutMix"):
        model.fit(batches, verbose=0)


def test_a_network_that_has_not_learned_is_reported():
    model = fresh(after=1)
    model.student.set_weights([0 * weight for weight in model.student.get_weights()])
    model.optimizer.learning_rate = 0.0
    # The logits of classes 1 to 3 lead those of class 0.
    model.student.layers[-1].bias.assign(np.arange(CLASSES))
    with pytest.warns(UserWarning, match=r"drop_issues_after=1, after which \d+% .*after=4"):
        model.fit(X, Y, batch_size=5, epochs=3, verbose=0)


@pytest.mark.parametrize("after", [0, -1, 2.5, "3"])
def test_epochs_that_are_no_count_are_rejected(after):
    with pytest.raises((ValueError, TypeError), match="drop_issues_after"):
        fresh(after=after)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("cls", [Distillation, LSTSD])
def test_a_resumed_run_drops_the_same_labels(cls, tmp_path):
    whole = fresh(cls)
    logs = whole.fit(X, Y, batch_size=5, epochs=5, verbose=0).history
    assert 0 < logs["dropped_labels"][-1] < 1
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", double_checkpoint=True)
    options = {"batch_size": 5, "epochs": 5, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        fresh(cls).fit(X, Y, callbacks=[backup, Stop()], **options)
    resumed = fresh(cls)
    assert resumed.fit(X, Y, callbacks=[backup], **options).epoch[0] > 0
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_saved_model_continues(tmp_path):
    whole, model = fresh(), fresh()
    whole.fit(X, Y, batch_size=5, epochs=4, verbose=0)
    model.fit(X, Y, batch_size=5, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.drop_issues_after == 2
    loaded.fit(X, Y, batch_size=5, epochs=2, verbose=0)
    for one, other in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
