"""Data that `fit` rejects or reports, and what it trains without a report."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import DUPS, LSTSD, Distillation, MeanTeacher
from keras_lstsd.data import SampleBatches, with_sample_index
from tests.small import CLASSES, SAMPLES, X, Y, compiled, tensor_slices


def student(last="softmax", units=CLASSES):
    # Not ReLU, which turns NaN into 0 on some devices.
    hidden = layers.Dense(8, activation="tanh", kernel_regularizer="l2")
    # BatchNorm spreads a NaN to the whole batch.
    stack = [hidden, layers.BatchNormalization(), layers.Dense(units, activation=last)]
    return keras.Sequential([keras.Input((4,)), *stack])


def lstsd(**arguments):
    return LSTSD(student(), SAMPLES, **({"mini_generation_epochs": 1} | arguments))


class Indexed(keras.utils.PyDataset):
    """A batch of all samples, with a list of indices per epoch."""

    def __init__(self, x, *indices, y=Y):
        super().__init__()
        self.x, self.y, self.indices, self.epoch = x, y, indices, 0

    def __len__(self):
        return 1

    def __getitem__(self, step):
        index = self.indices[self.epoch % len(self.indices)]
        return {"inputs": self.x, "sample_index": index}, self.y

    def on_epoch_end(self):
        self.epoch += 1


# === No index, or an index that cannot be used ===


@pytest.mark.tensorflow
def test_a_dataset_without_index_is_rejected_with_the_line_to_write():
    with pytest.raises(ValueError, match=r"with_sample_index\(train\)"):
        compiled(lstsd()).fit(tensor_slices().batch(7))


def test_other_data_without_index_is_rejected():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, step):
            return X, Y

    with pytest.raises(ValueError, match=r"with_sample_index\(train\)"):
        compiled(lstsd()).fit(Batches(), verbose=0)


@pytest.mark.parametrize(
    ("bad", "jit_compile"),
    [
        (-1, False),
        (SAMPLES, False),
        (10**6, False),
        (-1, True),
        pytest.param(SAMPLES, True, marks=pytest.mark.slow),
        pytest.param(10**6, True, marks=pytest.mark.slow),
    ],
)
def test_an_out_of_range_index_is_reported_at_the_end_of_the_epoch(bad, jit_compile):
    model = compiled(lstsd(), jit_compile=jit_compile)
    index = np.arange(SAMPLES, dtype="int32")
    index[4] = bad
    with pytest.raises(ValueError, match=r"1 samples in epoch 0 .*num_samples=30"):
        model.fit(Indexed(X, index), verbose=0)
    np.testing.assert_array_equal(model.pending.numpy()[1], np.arange(SAMPLES) != 4)


@pytest.mark.parametrize(
    "index", [np.arange(SAMPLES, dtype="float32"), np.arange(SAMPLES)[:, None]]
)
def test_an_index_of_another_dtype_or_shape_is_rejected(index):
    with pytest.raises(ValueError, match="Expected: shape=\\(batch,\\), dtype=int32"):
        compiled(lstsd()).fit(Indexed(X, index), verbose=0)


def test_arrays_need_one_index_per_sample():
    data = {"inputs": X, "sample_index": np.arange(SAMPLES)[:, None]}
    with pytest.raises(ValueError, match=r"shape=\(30, 1\). Expected: integers, one for each"):
        compiled(lstsd()).fit(data, Y, verbose=0)


def test_more_samples_than_rows_are_rejected():
    with pytest.raises(ValueError, match=r"from 0 to 29.*`LSTSD\(student, num_samples=30\)`"):
        compiled(LSTSD(student(), 29)).fit(X, Y)


# === An index that comes to mean another sample ===


@pytest.mark.tensorflow
def test_numbering_after_a_shuffle_is_rejected():
    shuffled = tensor_slices().shuffle(SAMPLES, seed=1, reshuffle_each_iteration=True)
    with pytest.raises(ValueError, match="shuffled before its samples get their index.*Expected"):
        compiled(lstsd()).fit(with_sample_index(shuffled).batch(8), epochs=2, verbose=0)


def shuffled_and_numbered_by_hand():
    return (
        tensor_slices()
        .shuffle(SAMPLES, seed=1)
        .enumerate()
        .map(lambda i, pair: ({"inputs": pair[0], "sample_index": i}, pair[1]))
    )


def generated_in_another_order_each_time():
    """As a loader that reads files in no fixed order."""
    import tensorflow as tf

    order = np.random.default_rng(0)

    def samples():
        for row in order.permutation(SAMPLES):
            yield X[row], Y[row]

    spec = tf.TensorSpec((4,), tf.float32), tf.TensorSpec((), tf.int64)
    return with_sample_index(tf.data.Dataset.from_generator(samples, output_signature=spec))


# Keras expects the unknown number of batches to be endless.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("data", "jit_compile"),
    [
        (shuffled_and_numbered_by_hand, False),
        (generated_in_another_order_each_time, False),
        (shuffled_and_numbered_by_hand, True),
        pytest.param(generated_in_another_order_each_time, True, marks=pytest.mark.slow),
    ],
)
def test_an_index_that_means_another_sample_in_each_epoch_is_reported(data, jit_compile):
    model = compiled(lstsd(), jit_compile=jit_compile)
    message = (
        r"stopped meaning the same sample.*Received: \d+ samples in epoch 1.*Expected: .*order"
    )
    with pytest.raises(ValueError, match=message):
        model.fit(data().batch(8), epochs=3, verbose=0)
    assert model.epoch == 1


@pytest.mark.tensorflow
def test_a_shuffle_that_repeats_its_order_is_not_reported():
    data = tensor_slices().shuffle(SAMPLES, seed=1, reshuffle_each_iteration=False)
    model = compiled(lstsd())
    history = model.fit(with_sample_index(data).batch(8), epochs=3, verbose=0).history
    assert history["teacher_coverage"] == [0, 1, 1]


@pytest.mark.parametrize("kind", ["soft", "one-hot", "integers"])
def test_only_hard_labels_show_that_an_index_means_another_sample(kind):
    """Soft labels may change from epoch to epoch."""
    index = np.arange(SAMPLES, dtype="int32")
    one_hot = np.eye(CLASSES, dtype="float32")[Y]
    y = {"soft": 0.9 * one_hot + 0.05, "one-hot": one_hot, "integers": Y}[kind]
    loss = ("sparse_" if kind == "integers" else "") + "categorical_crossentropy"
    model = compiled(lstsd(), loss=loss, run_eagerly=True)
    data = Indexed(X, index, index[::-1].copy(), y=y)
    if kind == "soft":
        model.fit(data, epochs=2, shuffle=False, verbose=0)
        return
    with pytest.raises(ValueError, match="stopped meaning the same sample"):
        model.fit(data, epochs=2, shuffle=False, verbose=0)


# === Arrays whose rows mean other samples than in the `fit` before ===


def fitted(x=X, y=Y):
    model = compiled(lstsd(), run_eagerly=True)
    model.fit(x, y, batch_size=10, verbose=0)
    return model


@pytest.mark.parametrize(
    "rows", [slice(10, None), np.roll(np.arange(SAMPLES), 1), np.arange(SAMPLES)[::-1]]
)
def test_renumbered_arrays_are_rejected(rows):
    model = fitted()
    with pytest.raises(
        ValueError, match=r"row numbers .* mean other samples.*Received.*Expected.*np\.flatnonzero"
    ):
        model.fit(X[rows], Y[rows], verbose=0)


def test_samples_that_keep_their_row_numbers_are_accepted():
    model, keep = fitted(), np.arange(SAMPLES) >= 10
    data = {"inputs": X[keep], "sample_index": np.flatnonzero(keep)}
    history = model.fit(data, Y[keep], verbose=0).history
    assert history["teacher_coverage"] == [1]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        # Augmented inputs with the same labels.
        (X + 1, Y),
        # Corrected labels of the same inputs.
        (X, (Y + 1) % CLASSES),
        (X, np.where(np.arange(SAMPLES) == 4, (Y + 1) % CLASSES, Y)),
        # The same labels in another dtype or form.
        (X, Y.astype("int8")),
        (X[:20], Y[:20]),
    ],
)
def test_changed_inputs_or_changed_labels_are_accepted(x, y):
    model = fitted()
    history = model.fit(x, y, epochs=2, verbose=0).history
    assert history["teacher_coverage"] == [1, 1]


def test_methods_without_memory_per_sample_accept_renumbered_arrays():
    model = compiled(DUPS(student()), run_eagerly=True)
    model.fit(X, Y, verbose=0)
    model.fit(X[10:], Y[10:], verbose=0)
    assert model.epoch == 1


# === Sparse and ragged inputs ===


def ragged():
    import tensorflow as tf

    return tf.ragged.constant([[1.0] * (1 + i % 3) for i in range(SAMPLES)])


def sparse_tensor():
    import tensorflow as tf

    return tf.sparse.from_dense(X)


@pytest.mark.parametrize("format", ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array"])
def test_a_method_with_an_index_rejects_sparse_matrices(format):
    x = getattr(pytest.importorskip("scipy.sparse"), format)(X)
    with pytest.raises(ValueError, match=r"sparse.*Received.*Expected: .*toarray\(\)"):
        compiled(lstsd()).fit(x, Y, verbose=0)


@pytest.mark.tensorflow
@pytest.mark.parametrize("inputs", [sparse_tensor, ragged])
def test_a_method_with_an_index_rejects_sparse_and_ragged_tensors(inputs):
    with pytest.raises(ValueError, match="(sparse|ragged).*Received.*Expected"):
        compiled(lstsd()).fit(inputs(), Y, verbose=0)


def test_rows_of_unequal_lengths_are_rejected():
    x = np.array([np.zeros(1 + i % 3) for i in range(SAMPLES)], dtype=object)
    with pytest.raises(ValueError, match="ragged.*Received.*Expected"):
        compiled(lstsd()).fit(x, Y, verbose=0)


# === Values that are not finite ===


@pytest.mark.parametrize("jit_compile", [False, True])
def test_nan_is_reported_and_never_used_as_a_teacher(jit_compile):
    model = compiled(lstsd(), jit_compile=jit_compile)
    model.fit(X, Y, epochs=2, verbose=0)
    last = model.pending.numpy()[0]
    x = X.copy()
    x[3] = np.nan
    with pytest.raises(ValueError, match="are not finite. Received: a mean loss of nan in epoch 2"):
        model.fit(x, Y, batch_size=SAMPLES, verbose=0)
    assert not model.pending.numpy()[1].any()
    model.start_epoch()
    for table in (model.short_term, model.long_term):
        np.testing.assert_array_equal(table.numpy()[0], last)


def test_weights_that_the_last_step_broke_are_reported_before_they_are_saved(tmp_path):
    model = lstsd()
    model.compile(keras.optimizers.SGD(np.inf), "sparse_categorical_crossentropy")
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(ValueError, match=r"a mean loss of \d.*the first \['.*kernel"):
        model.fit(X, Y, batch_size=SAMPLES, verbose=0, callbacks=[backup])
    assert not list(tmp_path.iterdir())


def test_terminate_on_nan_stops_without_another_error():
    model = compiled(lstsd())
    x = np.full_like(X, np.nan)
    model.fit(x, Y, epochs=3, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert model.epoch == 0
    assert not model.pending.numpy()[1].any()


def test_nan_is_reported_also_when_another_callback_stops_the_training():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    with pytest.raises(ValueError, match="The loss or the weights are not finite"):
        compiled(lstsd()).fit(np.full_like(X, np.nan), Y, verbose=0, callbacks=[Stop()])


# === Arguments ===


def test_labels_in_the_wrong_place_and_arguments_that_keras_rejects_are_rejected():
    data = Indexed(X, np.arange(SAMPLES, dtype="int32"))
    with pytest.raises(ValueError, match="`y` must be None when `x` is a data set"):
        compiled(lstsd()).fit(data, Y)
    with pytest.raises(ValueError, match="sample_weight"):
        compiled(lstsd()).fit(data, sample_weight=np.ones(SAMPLES))
    with pytest.raises(ValueError, match="`y` must be given when `x` is an array"):
        compiled(lstsd()).fit(X)


def test_an_unknown_shuffle_is_rejected():
    with pytest.raises(ValueError, match="shuffle='batches'. Expected: True"):
        compiled(lstsd()).fit(X, Y, shuffle="batches")


@pytest.mark.parametrize("fraction", [1.0, 0.999])
def test_a_validation_split_that_leaves_no_training_samples_is_rejected(fraction):
    with pytest.raises(ValueError, match=f"validation_split={fraction} with 30 samples"):
        compiled(lstsd()).fit(X[:30], Y[:30], validation_split=fraction)


def test_a_student_that_is_not_built_is_rejected_with_a_generator():
    model = compiled(LSTSD(keras.Sequential([layers.Dense(3)]), SAMPLES))
    assert model.epoch == -1
    with pytest.raises(ValueError, match=r"write `student\(x\[:1\]\)`"):
        model.fit(iter([]))


def test_steps_per_epoch_beside_batches_is_rejected():
    batches = SampleBatches(X, Y, batch_size=5)
    with pytest.raises(ValueError, match=r"`SampleBatches\(..., steps_per_epoch=2\)`"):
        compiled(lstsd()).fit(batches, steps_per_epoch=2)


def test_other_objects_than_plain_models_are_rejected_as_student():
    with pytest.raises(ValueError, match="`student` must be the classifier"):
        LSTSD("resnet", SAMPLES)
    with pytest.raises(ValueError, match="wrapped already"):
        LSTSD(lstsd(), SAMPLES)
    with pytest.raises(ValueError, match="wrapped already"):
        MeanTeacher(Distillation(student()))
    with pytest.raises(ValueError, match="softmax over one unit"):
        LSTSD(student(units=1), SAMPLES)
