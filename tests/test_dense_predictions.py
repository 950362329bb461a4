"""A segmentation student and a sequence tagger learn, resume and are served; bad input to them."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lstsd
from tests.models import assert_same, slow

SAMPLES, SIZE, WORDS, LENGTH, EPOCHS = 24, 8, 12, 6, 8


def segmentation():
    """Images with a bright rectangle; the class of a pixel is 1 inside it."""
    draw = np.random.default_rng(0)
    y = np.zeros((SAMPLES, SIZE, SIZE), "int32")
    for image in y:
        (top, bottom), (left, right) = (np.sort(draw.choice(SIZE + 1, 2, False)) for _ in range(2))
        image[top:bottom, left:right] = 1
    x = y[..., None] + draw.normal(scale=0.3, size=(*y.shape, 1))
    student = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(momentum=0.5),
            layers.Conv2D(2, 3, padding="same"),
        ]
    )
    return x.astype("float32"), y, student


def tagger():
    """Sentences of word numbers, 0 is padding; the class of a word is its number modulo 3."""
    draw = np.random.default_rng(0)
    x = draw.integers(1, WORDS, (SAMPLES, LENGTH)).astype("int32")
    x[np.arange(LENGTH) >= draw.integers(1, LENGTH + 1, SAMPLES)[:, None]] = 0
    student = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(WORDS, 8, mask_zero=True),
            layers.Bidirectional(layers.LSTM(6, return_sequences=True)),
            layers.Dense(3),
        ]
    )
    return x, x % 3, student


TASKS = {"segmentation": segmentation, "tagger": tagger}
each = pytest.mark.parametrize("task", ["segmentation", slow("tagger")])


def made(task, seed=1):
    keras.utils.set_random_seed(seed)
    x, y, student = TASKS[task]()
    model = keras_lstsd.LSTSD(student, mini_generation_epochs=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # XLA takes long for recurrent layers.
    model.compile(keras.optimizers.Adam(0.03), loss, jit_compile=task == "segmentation")
    return model, x, y


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 5:
            raise KeyboardInterrupt


@each
def test_it_learns_and_a_stopped_training_resumes_bit_for_bit(task, tmp_path):
    whole, x, y = made(task)
    history = whole.fit(x, y, batch_size=5, epochs=EPOCHS, verbose=0).history
    # Keras's metrics on JAX count padding.
    correct = whole.predict(x, verbose=0).argmax(-1) == y
    assert correct[x != 0 if task == "tagger" else ...].mean() > 0.9
    assert history["teacher_coverage"][-1] == 1
    assert history["distillation_loss"][-1] > 0

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", double_checkpoint=True)

    stopped, *_ = made(task)
    options = {"batch_size": 5, "epochs": EPOCHS, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(x, y, callbacks=[backup(), Stop()], **options)
    resumed, *_ = made(task)
    keras.utils.set_random_seed(99)
    assert resumed.fit(x, y, callbacks=[backup()], **options).epoch == [5, 6, 7]
    assert_same(whole, resumed)


@pytest.mark.tensorflow
@each
def test_it_is_served_with_a_class_at_each_position(task, tmp_path):
    import tensorflow as tf

    model, x, y = made(task)
    model.fit(x, y, epochs=1, verbose=0)
    names = [f"class {number}" for number in range(model.num_classes)]
    model.export(tmp_path / "1", probabilities=True, class_names=names, verbose=False)
    served = tf.saved_model.load(tmp_path / "1")
    answer = served.serve(x)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(x, verbose=0)))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    found = np.array(answer["class_name"]).astype(str)
    np.testing.assert_array_equal(found, np.array(names)[expected.argmax(-1)])


def test_sentences_of_padding_only_change_no_weight():
    model, x, y = made("tagger")
    before = model.student.get_weights()
    logs = model.fit(np.zeros_like(x), y, epochs=4, verbose=0).history
    assert logs["loss"] == [0] * 4
    assert logs["distillation_loss"] == [0] * 4
    for first, second in zip(before, model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_samples_without_positions_are_rejected():
    student = keras.Sequential([keras.Input((0, 4)), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"output shape \(None, 0, 3\)"):
        keras_lstsd.LSTSD(student)


# On JAX such a label has no class, and Keras's loss is 0.
@pytest.mark.tensorflow
def test_a_class_that_does_not_exist_is_reported():
    model, x, y = made("segmentation")
    y[3, 2, 1] = 7
    with pytest.raises(ValueError, match="The loss or the weights are not finite"):
        model.fit(x, y, epochs=2, verbose=0)
