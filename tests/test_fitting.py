"""`fit`: data of all kinds, the sample index, and arguments of Keras."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import DUPS, LSTSD, MeanTeacher, TemporalEnsembling
from keras_lstsd.data import SampleBatches, with_sample_index
from tests.models import wrapped
from tests.small import CLASSES, SAMPLES, X, Y, compiled, lstsd, student, tensor_slices

# === Data sets and arrays ===


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["tensor", "dict", "tuple"])
def test_a_dataset_with_an_index_trains_as_arrays(kind):
    inputs = keras.Input((4,), name="a")
    output = layers.Dense(CLASSES, activation="softmax")(inputs)
    wrap = {"tensor": lambda x: x, "dict": lambda x: {"a": x}, "tuple": lambda x: (x,)}[kind]
    found = []
    for arrays in (True, False):
        keras.utils.set_random_seed(0)
        network = keras.Model(wrap(inputs), output)
        network.set_weights([np.ones((4, 3)), np.zeros(3)])
        model = compiled(LSTSD(network, SAMPLES, mini_generation_epochs=1), optimizer="sgd")
        if arrays:
            model.fit(wrap(X), Y, batch_size=7, epochs=3, shuffle=False, verbose=0)
        else:
            data = with_sample_index(tensor_slices(wrap(X), Y)).batch(7)
            model.fit(data, epochs=3, verbose=0, validation_data=(wrap(X), Y))
        found.append(model.get_weights()[:5])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("cls", [MeanTeacher, DUPS])
def test_methods_without_memory_per_sample_ignore_an_index(cls):
    found = []
    for x in (X, {"inputs": X, "sample_index": np.full(SAMPLES, 10**6)}):
        keras.utils.set_random_seed(1)
        model = compiled(wrapped(cls, student(), SAMPLES))
        found.append(model.fit(x, Y, epochs=2, shuffle=False, verbose=0).history["loss"])
    assert found[0] == found[1]


def test_arrays_may_have_their_own_index():
    index = np.arange(SAMPLES, dtype="int32")[::-1] + 5
    model = compiled(LSTSD(student(), SAMPLES + 10))
    model.fit({"inputs": X, "sample_index": index}, Y, verbose=0)
    np.testing.assert_array_equal(np.flatnonzero(model.pending.numpy()[1]), index[::-1])


def test_of_arrays_with_a_sample_twice_the_last_row_is_stored():
    network = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)])
    model = LSTSD(network, SAMPLES, temperature=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(model, optimizer=keras.optimizers.SGD(0.0), loss=loss)
    x, index = np.concatenate([X, X[:4] + 1]), np.concatenate([np.arange(SAMPLES), np.arange(4)])
    data = {"inputs": x, "sample_index": index}
    model.fit(data, np.zeros(len(x)), batch_size=len(x), shuffle=False, verbose=0)
    z = np.concatenate([x[SAMPLES:], x[4:SAMPLES]]) @ network.get_weights()[0]
    expected = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(model.pending.numpy()[0], expected, atol=1e-5)


@pytest.mark.tensorflow
def test_an_endless_dataset_trains_with_steps_per_epoch():
    data = with_sample_index(tensor_slices()).shuffle(9).repeat().batch(8)
    model = compiled(lstsd())
    model.fit(data, epochs=3, steps_per_epoch=5, verbose=0)
    assert model.epoch == 2
    assert model.pending.numpy()[1].all()


def test_arrays_train_with_steps_per_epoch():
    model = compiled(lstsd())
    history = model.fit(X, Y, batch_size=8, epochs=3, steps_per_epoch=2, verbose=0).history
    assert model.pending.numpy()[1].all()
    assert history["teacher_coverage"][0] == 0


def test_validation_split_leaves_the_last_samples_out():
    model = compiled(lstsd())
    model.fit(X, Y, validation_split=0.2, verbose=0)
    np.testing.assert_array_equal(model.pending.numpy()[1], np.arange(SAMPLES) < 24)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_all_integer_dtypes_are_valid_for_an_index(dtype):
    model = compiled(lstsd())
    model.fit(Indexed(X, np.arange(SAMPLES).astype(dtype)), epochs=2, verbose=0)
    assert model.pending.numpy()[1].all()


class Indexed(keras.utils.PyDataset):
    def __init__(self, x, index):
        super().__init__()
        self.x, self.index = x, index

    def __len__(self):
        return 1

    def __getitem__(self, step):
        return {"inputs": self.x, "sample_index": self.index}, Y


# === The number of samples ===


@pytest.mark.parametrize("cls", [LSTSD, TemporalEnsembling])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (lambda: (X, Y), SAMPLES),
        (lambda: (X.tolist(), Y), None),
        (lambda: (SampleBatches(X, Y),), SAMPLES),
        (lambda: ({"inputs": X, "sample_index": np.arange(SAMPLES) + 5}, Y), SAMPLES + 5),
    ],
)
def test_fit_counts_the_samples_of_arrays(cls, data, expected):
    model = compiled(cls(student()))
    if expected is None:
        with pytest.raises(ValueError, match=r"Received.*Expected"):
            model.fit(*data(), verbose=0)
        return
    model.fit(*data(), verbose=0)
    assert model.num_samples == expected
    assert model.sample_tables["pending"].num_samples == expected


@pytest.mark.tensorflow
def test_fit_counts_the_samples_of_a_numbered_dataset():
    model = compiled(LSTSD(student()))
    data = with_sample_index(tensor_slices()).shuffle(SAMPLES).batch(7).prefetch(1)
    model.fit(data, verbose=0)
    assert model.num_samples == SAMPLES
    assert model.pending.numpy()[1].all()


def test_the_number_of_samples_is_asked_for_where_the_data_does_not_show_it():
    model = compiled(LSTSD(student()))
    with pytest.raises(ValueError, match=r"num_samples=None.*`LSTSD\(student, num_samples="):
        model.fit(Indexed(X, np.arange(SAMPLES)), verbose=0)


def test_validation_samples_are_counted_too():
    """So a later `fit` may train on all of them."""
    model = compiled(LSTSD(student()))
    model.fit(X, Y, validation_split=0.2, verbose=0)
    assert model.num_samples == SAMPLES


# === An index that `fit` validated ===


class Noted(TemporalEnsembling):
    """Notes whether its step got validated indices."""

    def record(self, step, guidance):
        self.was_validated = step.index_validated
        super().record(step, guidance)


@pytest.mark.parametrize(
    ("index", "options", "expected"),
    [
        (np.arange(SAMPLES), {}, True),
        (np.arange(SAMPLES)[::-1] + 5, {}, True),
        (np.arange(SAMPLES) // 2, {}, False),
        (np.arange(SAMPLES), {"steps_per_epoch": 3, "batch_size": 10}, True),
        # A batch may have the end of a pass and the start of the next.
        (np.arange(SAMPLES), {"steps_per_epoch": 3, "batch_size": 7}, False),
    ],
)
def test_the_step_does_not_validate_an_index_again_that_fit_found_valid(index, options, expected):
    model = compiled(Noted(student(), SAMPLES + 10))
    # Samples of one index have one label.
    batches = SampleBatches({"inputs": X, "sample_index": index}, index % CLASSES, **options)
    model.fit(batches, epochs=2, verbose=0)
    assert model.was_validated == expected
    # What reads from them afterwards gets no such entry.
    assert set(batches[0][0]) == {"inputs", "sample_index"}


def test_the_step_validates_indices_of_a_subclass_that_may_draw_in_another_way():
    class Twice(SampleBatches):
        def epoch_order(self):
            return super().epoch_order() // 2 * 2

    model = compiled(Noted(student(), SAMPLES))
    model.fit(Twice(X, Y), verbose=0)
    assert not model.was_validated


@pytest.mark.tensorflow
def test_a_column_of_the_user_does_not_mean_that_the_index_was_validated():
    x = {"inputs": X, "sample_index": np.arange(SAMPLES), "index_validated": np.ones(SAMPLES)}
    with pytest.raises(ValueError, match="has no sample index"):
        compiled(lstsd()).fit(tensor_slices(x, Y).batch(8))


def test_indices_are_not_marked_as_validated_after_an_error():
    batches = SampleBatches(X, Y)
    with pytest.raises(ValueError, match="from_logits"):
        compiled(Noted(student(None), SAMPLES)).fit(batches)
    assert set(batches[0][0]) == {"inputs", "sample_index"}
