"""Methods without a memory per sample train on (x, y) from any source, as on arrays."""

import functools

import keras
import numpy as np
import pytest

from recipes.methods import METHODS
from tests.models import (
    NAMES,
    SAMPLES,
    X,
    Y,
    assert_same,
    dense_student,
    made,
    marked,
    rarely,
)

BATCH, EPOCHS = 8, 3
STEPS = -(-SAMPLES // BATCH)
BY_SETTINGS = ("stored_teacher", "dropping")
WITHOUT_INDEX = [
    name for name in NAMES if not METHODS[name].cls.needs_sample_index and name not in BY_SETTINGS
]
BATCHES = [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, SAMPLES, BATCH)]


class Listed(keras.utils.PyDataset):
    """The batches in order."""

    def __len__(self):
        return STEPS

    def __getitem__(self, step):
        return BATCHES[step]


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def generator():
    while True:
        yield from BATCHES


def with_index():
    """Also an index of the samples, which these methods ignore."""
    while True:
        for x, y in BATCHES:
            # No row of any table.
            yield {"inputs": x, "sample_index": np.full(len(x), -5)}, y


SOURCES = {
    "dataset": (dataset, {}),
    "generator": (generator, {"steps_per_epoch": STEPS, "shuffle": False}),
    "py_dataset": (Listed, {"shuffle": False}),
    "with_index": (with_index, {"steps_per_epoch": STEPS, "shuffle": False}),
}


def trained(name, *data, **options):
    keras.utils.set_random_seed(1)
    model = made(name, dense_student())
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[accuracy])
    history = model.fit(*data, epochs=EPOCHS, verbose=0, **options).history
    return model, history


@functools.cache
def on_arrays(name):
    return trained(name, X, Y, batch_size=BATCH, shuffle=False)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param("mean_teacher", "dataset", marks=pytest.mark.tensorflow),
        ("mean_teacher", "generator"),
        ("mean_teacher", "py_dataset"),
        *(rarely(it, "with_index") for it in WITHOUT_INDEX),
    ],
)
def test_any_source_trains_as_arrays_do(name, source):
    make, options = SOURCES[source]
    expected, logs = on_arrays(name)
    model, found = trained(name, make(), **options)
    assert found == logs
    assert_same(expected, model)


@pytest.mark.parametrize("name", marked(WITHOUT_INDEX))
def test_methods_without_an_index_have_no_tables_of_samples(name):
    model, logs = on_arrays(name)
    assert model.sample_tables == {}
    assert model.num_samples is None
    if METHODS[name].cls.logged:
        assert logs["distillation_loss"][-1] > 0
