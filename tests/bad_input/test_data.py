"""Arrays and data sets of all kinds: batches are right, or an error explains the fault."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstsd.data import SampleBatches, sample_order, with_sample_index
from tests.bad_input.cases import (
    DTYPES,
    EVERYONE,
    EXPLAINED,
    SAMPLES,
    X,
    Y,
    around,
    cases,
    fresh,
    structures,
)


def standard(array):
    return array.astype("float32") if array.dtype == np.float64 else array


def assert_same_structure(found, expected):
    found, expected = keras.tree.flatten(found), keras.tree.flatten(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@cases(150)
@given(
    data=st.data(),
    samples=st.integers(1, 7),
    batch_size=st.integers(1, 10),
    shuffle=st.booleans(),
    seed=st.integers(-(2**31), 2**32 - 1),
    epoch=st.integers(0, 1000),
    steps=st.none() | st.integers(1, 5),
)
def test_batches_have_the_rows_of_the_epoch_order(
    data, samples, batch_size, shuffle, seed, epoch, steps
):
    x, own = data.draw(structures(samples)), data.draw(st.booleans())
    index = data.draw(st.lists(around(samples), min_size=samples, max_size=samples))
    index = np.array(index, "int32") if own else np.arange(samples, dtype="int32")
    y = np.random.default_rng(0).integers(0, 3, samples).astype(data.draw(st.sampled_from(DTYPES)))
    weight = data.draw(st.none() | st.just(np.linspace(-1, 1, samples)))
    batches = SampleBatches(
        {"inputs": x, "sample_index": index} if own else x,
        y,
        weight,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        steps_per_epoch=steps,
    )
    batches.start_epoch(epoch, seed=seed + 1)
    drawn = steps * batch_size if steps else samples
    passes = range(epoch * drawn // samples, (epoch + 1) * drawn // samples + 1)
    orders = {n: sample_order(seed, n, samples) if shuffle else np.arange(samples) for n in passes}
    places = range(epoch * drawn, (epoch + 1) * drawn)
    order = np.array([orders[place // samples][place % samples] for place in places])
    assert len(batches) == -(-drawn // batch_size)
    for step in range(len(batches)):
        rows = order[step * batch_size : (step + 1) * batch_size]
        expected = ({"inputs": x, "sample_index": index}, y, weight)[: 2 + (weight is not None)]
        expected = keras.tree.map_structure(lambda a, rows=rows: standard(a)[rows], expected)
        assert_same_structure(batches[step], expected)


@cases(60)
@given(data=st.data(), samples=st.integers(1, 7), batch_size=st.integers(-3, 9))
def test_arrays_without_one_row_per_sample_are_rejected(data, samples, batch_size):
    x, labels = data.draw(structures(samples)), data.draw(st.integers(0, 8))
    weights = data.draw(st.none() | st.integers(0, 8))
    arrays = x, np.zeros(labels, int), None if weights is None else np.zeros(weights)
    if labels == samples and weights in (None, samples) and batch_size >= 1:
        assert len(SampleBatches(*arrays, batch_size=batch_size)) == -(-samples // batch_size)
        return
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(*arrays, batch_size=batch_size)


@pytest.mark.tensorflow
@cases(25)
@given(
    data=st.data(),
    samples=st.integers(1, 7),
    take=st.integers(0, 9),
    repeat=st.sampled_from((1, 2, None)),
    batch_size=st.integers(1, 5),
)
def test_data_sets_are_numbered_from_zero_and_otherwise_unchanged(
    data, samples, take, repeat, batch_size
):
    import tensorflow as tf

    x, weighted = data.draw(structures(samples)), data.draw(st.booleans())
    x = keras.tree.lists_to_tuples(x)
    y = np.arange(samples, dtype=data.draw(st.sampled_from(DTYPES[:-1])))
    arrays = (x, y, y / 2) if weighted else (x, y)
    numbered = with_sample_index(tf.data.Dataset.from_tensor_slices(arrays).take(take))
    found = numbered.repeat(repeat).take(9).batch(batch_size).as_numpy_iterator()
    length = min(take, samples)
    drawn = 9 if repeat is None and length else min(9, length * (repeat or 0))
    order = np.arange(drawn) % max(length, 1)
    found = list(found)
    assert len(found) == -(-drawn // batch_size)
    for step, batch in enumerate(found):
        rows = order[step * batch_size : (step + 1) * batch_size]
        expected = keras.tree.map_structure(lambda a, rows=rows: a[rows], arrays)
        inputs = {"inputs": expected[0], "sample_index": rows.astype("int32")}
        assert_same_structure(batch, (inputs, *expected[1:]))


@pytest.mark.parametrize("steps", [0, -1])
def test_an_epoch_without_steps_is_rejected(steps):
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(X, Y, steps_per_epoch=steps)[0]


@pytest.mark.parametrize("size", [2.5, "8"])
def test_a_batch_size_that_is_not_a_whole_number_is_rejected(size):
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(X, Y, batch_size=size)


def test_a_single_label_is_rejected():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches(X, np.array(3))


def test_empty_inputs_are_rejected():
    with pytest.raises(ValueError, match=EXPLAINED):
        SampleBatches({}, Y)


def test_an_index_of_strings_is_rejected():
    with pytest.raises(ValueError, match=EXPLAINED):
        fresh("lstsd").fit({"inputs": X, "sample_index": np.array(list("abcdef"))}, Y, verbose=0)


def test_seeds_of_all_sizes_are_valid():
    order = sample_order(2**64, 0, SAMPLES)
    np.testing.assert_array_equal(np.sort(order), EVERYONE)
