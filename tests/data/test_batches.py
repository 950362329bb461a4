import keras
import numpy as np
import pytest

from keras_lstsd.data import SampleBatches, sample_order

X = np.arange(20).reshape(10, 2)
Y = np.arange(10)


def drawn(batches):
    return [batches[step][0]["sample_index"].tolist() for step in range(len(batches))]


def flat(batches):
    return [index for batch in drawn(batches) for index in batch]


def test_an_order_is_a_permutation_that_seed_and_epoch_decide():
    orders = {(seed, epoch): sample_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)}
    for order in orders.values():
        assert order.dtype == np.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert len({tuple(order) for order in orders.values()}) == 4
    np.testing.assert_array_equal(sample_order(1, 1, 1000), orders[1, 1])


def test_orders_are_unrelated_to_positions_and_to_each_other():
    """Rank correlations of 5000 samples are noise of size 1/sqrt(5000)."""
    samples = np.arange(5000)
    ranks = [np.argsort(sample_order(3, epoch, 5000)) for epoch in range(20)]
    correlations = [np.corrcoef(samples, rank)[0, 1] for rank in ranks]
    correlations += [np.corrcoef(ranks[i], ranks[i + 1])[0, 1] for i in range(19)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(5000)
    firsts = np.array([rank < 500 for rank in ranks]).sum(0)
    np.testing.assert_allclose(firsts.var(), 20 * 0.1 * 0.9, rtol=0.1)


def test_the_order_is_pinned():
    """A saved run resumes under later versions with the same batches."""
    assert sample_order(0, 0, 8).tolist() == PINNED[0]
    assert sample_order(123456789, 3, 8).tolist() == PINNED[1]


PINNED = ([7, 0, 1, 4, 5, 6, 3, 2], [3, 5, 6, 0, 4, 7, 1, 2])


def test_batches_hold_each_sample_once_with_its_own_rows():
    batches = SampleBatches(X, Y, Y / 10, batch_size=4, seed=1)
    assert len(batches) == 3
    assert sorted(flat(batches)) == list(range(10))
    (inputs, y, weight) = batches[2]
    assert len(y) == 2
    np.testing.assert_array_equal(inputs["inputs"], X[inputs["sample_index"]])
    np.testing.assert_array_equal(y, Y[inputs["sample_index"]])
    assert weight.dtype == np.float32


def test_a_batch_is_the_callers_own():
    batches = SampleBatches(X, Y, batch_size=4, shuffle=False)
    x, y = batches[0]
    for array in (x["inputs"], x["sample_index"], y):
        array += 100
    assert flat(batches) == list(range(10))
    np.testing.assert_array_equal(batches[0][0]["inputs"], X[:4])
    np.testing.assert_array_equal(batches[0][1], Y[:4])


def test_epochs_differ_and_come_again():
    batches = SampleBatches(X, Y, batch_size=4, seed=1)
    first = drawn(batches)
    batches.start_epoch(5)
    assert drawn(batches) != first
    batches.start_epoch(0)
    assert drawn(batches) == first
    unshuffled = SampleBatches(X, Y, batch_size=4, shuffle=False)
    assert flat(unshuffled) == list(range(10))


def test_batches_without_a_seed_take_the_models():
    free, bound = SampleBatches(X, Y), SampleBatches(X, Y, seed=5)
    free.start_epoch(2, 5)
    bound.start_epoch(2, 99)
    assert flat(free) == flat(bound) == sample_order(5, 2, 10).tolist()


def test_steps_per_epoch_cut_an_endless_stream_of_passes():
    passes = SampleBatches(X, Y, batch_size=10, seed=1)
    stream = []
    for number in range(3):
        passes.start_epoch(number)
        stream += flat(passes)
    batches = SampleBatches(X, Y, batch_size=4, seed=1, steps_per_epoch=3)
    assert len(batches) == 3
    found = []
    for epoch in range(2):
        batches.start_epoch(epoch)
        found += flat(batches)
    assert found == stream[:24]


@pytest.mark.tensorflow
@pytest.mark.parametrize("steps_per_epoch", [None, 3])
def test_a_dataset_yields_the_same_batches(steps_per_epoch):
    x = {"a": X, "b": [X, X + 1]}
    batches = SampleBatches(x, Y, batch_size=4, seed=1, steps_per_epoch=steps_per_epoch)
    data = batches.tf_dataset()
    assert int(data.cardinality()) == len(batches)
    for epoch in (0, 1, 0):
        batches.start_epoch(epoch)
        for step, element in enumerate(data.as_numpy_iterator()):
            found, expected = keras.tree.flatten(element), keras.tree.flatten(batches[step])
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("size", "expected"), [(5, 5), (4, None)])
def test_batches_of_one_size_tell_it_before_they_are_drawn(size, expected):
    x, y = SampleBatches(X, Y, batch_size=size).tf_dataset().element_spec
    assert {spec.shape[0] for spec in (*x.values(), y)} == {expected}


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[\(9,\), \(10,\)\]"):
        SampleBatches(X, Y[:9])
    with pytest.raises(ValueError, match="at least 1"):
        SampleBatches(X[:0], Y[:0])
    with pytest.raises(ValueError, match=r"write `np.asarray\(x\)`"):
        SampleBatches(X.tolist(), Y)
    with pytest.raises(ValueError, match="batch_size=0"):
        SampleBatches(X, Y, batch_size=0)
