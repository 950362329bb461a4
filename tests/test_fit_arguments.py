"""Arguments and modes of Keras: training equals that of `keras.Model.fit`."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lstsd import DUPS, LSTSD, Distillation, MeanTeacher, TemporalEnsembling
from keras_lstsd.data import CropAndFlip, SampleBatches, with_sample_index
from tests.models import wrapped
from tests.small import CLASSES, SAMPLES, X, Y, compiled, lstsd, student, tensor_slices


def assert_trains_as_plain_keras(cls=LSTSD, x=X, y=Y, options=None, last="softmax", **arguments):
    """The same losses and weights in two epochs without shuffling; LSTSD has no guidance yet."""
    found = []
    for wrap in (lambda network: network, lambda network: wrapped(cls, network, SAMPLES)):
        keras.utils.set_random_seed(1)
        network = student(last)
        model = compiled(wrap(network), optimizer="sgd", **(options or {}))
        settings = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0} | arguments
        losses = model.fit(x, y, **settings).history["loss"]
        found.append([losses, *network.get_weights()])
    for plain, guided in zip(*found, strict=True):
        np.testing.assert_allclose(guided, plain, rtol=1e-5, atol=1e-6)


# === Arguments of Keras ===


@pytest.mark.parametrize("cls", [LSTSD, DUPS])
@pytest.mark.parametrize("class_weight", [{0: 3.0}, {0: 3.0, 1: 0.5, 2: 1.0}, {2: 0.0}])
def test_classes_without_a_class_weight_keep_the_weight_of_one(cls, class_weight):
    assert_trains_as_plain_keras(cls, class_weight=class_weight)


def test_class_weights_reach_the_loss():
    model = compiled(lstsd())
    heavy = model.fit(X, Y, class_weight=dict.fromkeys(range(CLASSES), 0.0), verbose=0).history
    regularization = 0.01 * float(np.sum(model.student.layers[0].get_weights()[0] ** 2))
    np.testing.assert_allclose(heavy["loss"], [regularization], rtol=0.1)


@pytest.mark.tensorflow
def test_class_weights_of_some_classes_apply_to_a_dataset():
    """Keras itself rejects them beside data sets."""
    losses = []
    for data in ((X, Y), (with_sample_index(tensor_slices()).batch(SAMPLES),)):
        keras.utils.set_random_seed(1)
        model = compiled(lstsd())
        options = {"class_weight": {0: 3.0}, "batch_size": SAMPLES if len(data) > 1 else None}
        losses.append(model.fit(*data, shuffle=False, verbose=0, **options).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_whole_batches_are_shuffled_on_request():
    """Each sample is drawn once an epoch, with the samples of its batch."""
    drawn = []

    class Draw(TemporalEnsembling):
        def record(self, step, guidance):
            drawn.append(ops.convert_to_numpy(step.sample_index).tolist())
            super().record(step, guidance)

    model = compiled(Draw(student(), SAMPLES), run_eagerly=True)
    model.fit(X, Y, batch_size=8, epochs=4, shuffle="batch", verbose=0)
    whole = [list(range(first, min(first + 8, SAMPLES))) for first in range(0, SAMPLES, 8)]
    epochs = [drawn[i : i + 4] for i in range(0, 16, 4)]
    assert all(sorted(epoch) == whole for epoch in epochs)
    assert any(epoch != whole for epoch in epochs)


@pytest.mark.parametrize("cls", [LSTSD, DUPS])
def test_shuffled_batches_have_the_loss_of_plain_keras(cls):
    """Nothing is learned, so that the order does not matter."""
    losses = []
    for wrap in (lambda network: network, lambda network: wrapped(cls, network, SAMPLES)):
        keras.utils.set_random_seed(1)
        model = compiled(wrap(student()), optimizer=keras.optimizers.SGD(0.0))
        losses.append(model.fit(X, Y, batch_size=8, shuffle="batch", verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("cls", [LSTSD, MeanTeacher])
def test_a_model_that_runs_eagerly_trains_as_plain_keras(cls):
    if cls is MeanTeacher:
        # The momentum 0 makes the teacher equal to the student.
        cls = functools.partial(MeanTeacher, momentum=0.0)
        cls.needs_sample_index = False
    assert_trains_as_plain_keras(cls, options={"run_eagerly": True})


@pytest.mark.tensorflow
@pytest.mark.parametrize("cls", [LSTSD, DUPS])
def test_training_in_the_debug_mode_of_tf_data_is_that_of_plain_keras(cls):
    import tensorflow as tf
    from tensorflow.python.data.ops import debug_mode

    tf.data.experimental.enable_debug_mode()
    try:
        assert_trains_as_plain_keras(cls)
    finally:
        debug_mode.toggle_debug_mode(False)


@pytest.mark.tensorflow
def test_augmented_batches_train_in_the_debug_mode_of_tf_data():
    from tensorflow.python.data.ops import debug_mode

    images = np.random.default_rng(0).integers(0, 256, (SAMPLES, 4, 4, 1)).astype("uint8")
    losses = []
    for debug in (False, True):
        debug_mode.toggle_debug_mode(debug)
        try:
            keras.utils.set_random_seed(1)
            first, last = keras.Input((4, 4, 1)), layers.Dense(CLASSES, activation="softmax")
            network = keras.Sequential([first, layers.Flatten(), last])
            model = compiled(LSTSD(network))
            augment = CropAndFlip(pad=1)
            batches = SampleBatches(images, Y, batch_size=8, seed=1, augment=augment)
            losses.append(model.fit(batches, epochs=2, verbose=0).history["loss"])
        finally:
            debug_mode.toggle_debug_mode(False)
    np.testing.assert_allclose(*losses, rtol=1e-5)


# === Sparse inputs ===


def sparse(kind):
    if kind == "scipy":
        return pytest.importorskip("scipy.sparse").csr_matrix(X)
    import tensorflow as tf

    return tf.sparse.from_dense(X)


@pytest.mark.tensorflow
@pytest.mark.parametrize("cls", [Distillation, DUPS])
@pytest.mark.parametrize("kind", ["scipy", "tf.SparseTensor"])
def test_methods_without_memory_per_sample_take_sparse_inputs(cls, kind):
    assert_trains_as_plain_keras(cls, x=sparse(kind))


# === tf.distribute ===


@pytest.mark.tensorflow
def test_a_distributed_dataset_with_an_index_trains_as_one_device(two_replicas):
    def data():
        return with_sample_index(tensor_slices(X[:24], Y[:24])).batch(8)

    def train(dataset):
        keras.utils.set_random_seed(1)
        model = compiled(LSTSD(student(), 24, mini_generation_epochs=1), optimizer="sgd")
        history = model.fit(dataset, epochs=3, steps_per_epoch=3, verbose=0).history
        return history, model.get_weights()

    expected, weights = train(data().repeat())
    with two_replicas.scope():
        distributed = two_replicas.experimental_distribute_dataset(data().repeat())
        logs, found = train(distributed)
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], atol=1e-5, err_msg=name)
    for a, b in zip(found, weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# === Losses of the user's own ===


def halved_crossentropy(y_true, y_pred):
    losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
    return 0.5 * losses


def sparse_categorical_crossentropy(y_true, y_pred):
    """The name of one of Keras's functions, but for logits."""
    return halved_crossentropy(y_true, y_pred)


class OwnCrossentropy(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return halved_crossentropy(y_true, y_pred)


@pytest.mark.parametrize(
    "loss",
    [
        halved_crossentropy,
        sparse_categorical_crossentropy,
        functools.partial(halved_crossentropy),
        OwnCrossentropy(),
    ],
)
def test_a_users_own_loss_is_not_judged_by_its_name(loss):
    assert_trains_as_plain_keras(options={"loss": loss}, last=None)


def test_users_own_losses_are_guided():
    def own(y, p):
        return keras.losses.sparse_categorical_crossentropy(y, p)

    for loss in (own, functools.partial(own), keras.losses.Poisson()):
        y = np.eye(CLASSES)[Y] if isinstance(loss, keras.losses.Loss) else Y
        model = compiled(LSTSD(student(), SAMPLES, mini_generation_epochs=1), loss=loss)
        history = model.fit(X, y, epochs=2, verbose=0).history
        assert history["distillation_loss"][1] > 0
