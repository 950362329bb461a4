"""Two replicas on two logical CPU devices follow one device on the same global batches."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

from keras_lstsd import LSTSD, Distillation
from keras_lstsd.data import SampleBatches
from tests.models import slow

pytestmark = pytest.mark.tensorflow

SAMPLES = 24
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, 3, SAMPLES)


def model(top_k=None):
    keras.utils.set_random_seed(5)
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    made = LSTSD(network, SAMPLES, mini_generation_epochs=2, top_k=top_k)
    made.compile(keras.optimizers.SGD(0.2, momentum=0.9), "sparse_categorical_crossentropy")
    return made


@pytest.mark.parametrize("top_k", [None, slow(2)])
def test_two_replicas_follow_one_device(two_replicas, top_k):
    single = model(top_k)
    expected = single.fit(X, Y, batch_size=8, epochs=6, verbose=0).history
    with two_replicas.scope():
        double = model(top_k)
    logs = double.fit(X, Y, batch_size=8, epochs=6, verbose=0).history
    assert expected["distillation_loss"][-1] > 0
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], atol=1e-5, err_msg=name)
    for found, weight in zip(double.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(found, weight, atol=1e-5)
    for name in ("short_term", "long_term", "pending"):
        rows = getattr(single, name).rows.numpy()[:SAMPLES]
        assert (rows <= 0).all()
        copies = getattr(double, name).rows.value.values
        assert len(copies) == 2
        for copy in copies:
            np.testing.assert_allclose(copy.numpy()[:SAMPLES], rows, atol=1e-5)


def test_two_replicas_drop_the_labels_of_one_device(two_replicas):
    def dropping():
        keras.utils.set_random_seed(5)
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
        made = Distillation(network, num_samples=SAMPLES, drop_issues_after=2)
        made.compile(keras.optimizers.SGD(0.2), "sparse_categorical_crossentropy")
        return made

    single = dropping()
    expected = single.fit(X, Y, batch_size=8, epochs=4, verbose=0).history
    with two_replicas.scope():
        double = dropping()
    logs = double.fit(X, Y, batch_size=8, epochs=4, verbose=0).history
    assert 0 < expected["dropped_labels"][-1] < 1
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], atol=1e-5, err_msg=name)
    for copy in double.label_margins.rows.value.values:
        np.testing.assert_allclose(copy.numpy(), single.label_margins.rows.numpy(), atol=1e-5)


def test_logs_stay_finite_where_the_last_batch_leaves_a_replica_empty(two_replicas):
    x, y = np.concatenate([X, X[:1]]), np.concatenate([Y, Y[:1]])
    with two_replicas.scope():
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        made = LSTSD(network, 25, mini_generation_epochs=1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile("sgd", loss)
    logs = made.fit(x, y, batch_size=8, epochs=3, verbose=0).history
    assert 0.1 < logs["loss"][-1] < 5
    assert logs["teacher_coverage"] == [0, 1, 1]
    assert made.pending.numpy()[1].all()


def test_a_student_that_is_not_built_is_built_in_the_strategys_scope(two_replicas):
    with two_replicas.scope():
        made = LSTSD(keras.Sequential([keras.layers.Dense(3)]), SAMPLES, mini_generation_epochs=1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile("sgd", loss)
    made.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert len(made.pending.rows.value.values) == 2


def test_out_of_range_indices_of_all_replicas_are_counted(two_replicas):
    import tensorflow as tf

    with two_replicas.scope():
        made = model()
    index = np.arange(SAMPLES, dtype="int32")
    index[[0, 5]] = SAMPLES
    data = tf.data.Dataset.from_tensor_slices(({"inputs": X, "sample_index": index}, Y)).batch(8)
    with pytest.raises(ValueError, match="2 samples in epoch 0"):
        made.fit(data, verbose=0)


@pytest.mark.parametrize(
    "options", [{"on_device": True}, slow({"layers": [keras.layers.RandomBrightness(0.0)]})]
)
def test_images_augmented_in_the_step_train_as_on_one_device(two_replicas, options):
    images = draw.integers(0, 256, (17, 4, 4, 3), "uint8")

    def losses(samples, scope):
        keras.utils.set_random_seed(5)
        with scope:
            network = keras.Sequential(
                [
                    keras.Input((4, 4, 3)),
                    keras.layers.Rescaling(1 / 255),
                    keras.layers.Flatten(),
                    keras.layers.Dense(3, "softmax"),
                ]
            )
            made = LSTSD(network, samples, mini_generation_epochs=1)
            made.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        y = np.arange(samples) % 3
        data = SampleBatches(images[:samples], y, batch_size=8, seed=1, **options)
        history = made.fit(data, epochs=3, verbose=0).history
        assert history["teacher_coverage"] == [0, 1, 1]
        return history["loss"]

    np.testing.assert_allclose(
        losses(16, two_replicas.scope()), losses(16, nullcontext()), rtol=1e-4
    )
    # The 17th sample leaves a replica without samples in the last batch.
    assert np.isfinite(losses(17, two_replicas.scope())).all()


def test_an_index_that_came_to_mean_another_sample_is_found_on_all_replicas(two_replicas):
    import tensorflow as tf

    with two_replicas.scope():
        made = model()
    # Numbered after a shuffle, which is another order in each epoch.
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(SAMPLES, seed=1)
    data = data.enumerate().map(
        lambda index, pair: ({"inputs": pair[0], "sample_index": index}, pair[1])
    )
    with pytest.raises(ValueError, match="samples in epoch 1 with another class"):
        made.fit(data.batch(8), epochs=2, verbose=0)
    copies = made._label_table.rows.value.values
    assert len(copies) == 2
    np.testing.assert_array_equal(copies[0].numpy()[:SAMPLES], copies[1].numpy()[:SAMPLES])
    assert (copies[0].numpy()[:SAMPLES] >= 0).all()
