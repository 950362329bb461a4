import numpy as np

from keras_lstsd.data import sample_order
from keras_lstsd.data.order import mix


def test_an_order_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = {(seed, epoch): sample_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)}
    for order in orders.values():
        assert order.dtype == np.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert len({tuple(order) for order in orders.values()}) == 4
    np.testing.assert_array_equal(sample_order(1, 1, 1000), orders[1, 1])


def test_orders_are_uncorrelated_with_positions_and_with_each_other():
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


def test_one_integer_has_its_own_hash():
    with np.errstate(over="ignore"):
        hashes = mix(np.arange(100_000))
    assert hashes.dtype == np.uint32
    assert len(np.unique(hashes)) == 100_000
