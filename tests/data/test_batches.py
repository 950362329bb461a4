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


def test_batches_contain_each_sample_once_with_its_own_rows():
    batches = SampleBatches(X, Y, Y / 10, batch_size=4, seed=1)
    assert len(batches) == 3
    assert sorted(flat(batches)) == list(range(10))
    (inputs, y, weight) = batches[2]
    assert len(y) == 2
    np.testing.assert_array_equal(inputs["inputs"], X[inputs["sample_index"]])
    np.testing.assert_array_equal(y, Y[inputs["sample_index"]])
    assert weight.dtype == np.float32


def test_changes_of_a_batch_do_not_change_the_data():
    batches = SampleBatches(X, Y, batch_size=4, shuffle=False)
    x, y = batches[0]
    for array in (x["inputs"], x["sample_index"], y):
        array += 100
    assert flat(batches) == list(range(10))
    np.testing.assert_array_equal(batches[0][0]["inputs"], X[:4])
    np.testing.assert_array_equal(batches[0][1], Y[:4])


def test_epochs_differ_and_are_reproducible():
    batches = SampleBatches(X, Y, batch_size=4, seed=1)
    first = drawn(batches)
    batches.start_epoch(5)
    assert drawn(batches) != first
    batches.start_epoch(0)
    assert drawn(batches) == first
    unshuffled = SampleBatches(X, Y, batch_size=4, shuffle=False)
    assert flat(unshuffled) == list(range(10))


def test_batches_without_a_seed_use_the_seed_of_the_model():
    free, bound = SampleBatches(X, Y), SampleBatches(X, Y, seed=5)
    free.start_epoch(2, 5)
    bound.start_epoch(2, 99)
    assert flat(free) == flat(bound) == sample_order(5, 2, 10).tolist()


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_steps_per_epoch_cut_an_endless_stream_of_passes(shuffle):
    options = {"seed": 1, "shuffle": shuffle}
    passes = SampleBatches(X, Y, batch_size=4, **options)
    stream = []
    for number in range(3):
        passes.start_epoch(number)
        stream += flat(passes)
    batches = SampleBatches(X, Y, batch_size=4, steps_per_epoch=3, **options)
    assert len(batches) == 3
    found = []
    for epoch in range(2):
        batches.start_epoch(epoch)
        found += flat(batches)
    assert found == stream[:24]


def test_shuffle_batch_shuffles_whole_batches_and_keeps_the_last():
    batches = SampleBatches(np.zeros(30), np.zeros(30), batch_size=4, shuffle="batch", seed=1)
    orders = []
    for epoch in range(4):
        batches.start_epoch(epoch)
        *full, last = drawn(batches)
        assert last == [28, 29]
        assert sorted(full) == np.arange(28).reshape(7, 4).tolist()
        orders.append([batch[0] // 4 for batch in full])
    assert orders[0] == sample_order(1, 0, 7).tolist()
    assert len({tuple(order) for order in orders}) == 4
    assert batches.distinct


def test_shuffle_batch_keeps_a_single_smaller_batch():
    assert drawn(SampleBatches(X, Y, batch_size=32, shuffle="batch")) == [list(range(10))]


@pytest.mark.parametrize("shuffle", ["batches", "", "True"])
def test_an_unknown_shuffle_is_rejected(shuffle):
    match = f"Received: shuffle='{shuffle}'. Expected: True .*'batch'.* or False"
    with pytest.raises(ValueError, match=match):
        SampleBatches(X, Y, shuffle=shuffle)


def assert_same_batches(data, batches):
    steps = 0
    for step, element in enumerate(data.as_numpy_iterator()):
        found, expected = keras.tree.flatten(element), keras.tree.flatten(batches[step])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        steps += 1
    assert steps == len(batches)


@pytest.mark.tensorflow
@pytest.mark.parametrize("shuffle", [True, "batch"])
@pytest.mark.parametrize("steps_per_epoch", [None, 3])
def test_a_dataset_yields_the_same_batches(steps_per_epoch, shuffle):
    x = {"a": X, "b": [X, X + 1]}
    options = {"steps_per_epoch": steps_per_epoch, "shuffle": shuffle}
    batches = SampleBatches(x, Y, batch_size=4, seed=1, **options)
    data = batches.tf_dataset()
    assert int(data.cardinality()) == len(batches)
    for epoch in (0, 1, 0):
        batches.start_epoch(epoch)
        assert_same_batches(data, batches)


@pytest.mark.tensorflow
@pytest.mark.parametrize("options", [{}, {"layers": [keras.layers.Rescaling(1.0)]}])
def test_a_dataset_yields_the_same_batches_in_debug_mode(monkeypatch, options):
    """`tf.data.experimental.enable_debug_mode` sets this flag, and has no inverse."""
    from tensorflow.python.data.ops import debug_mode

    monkeypatch.setattr(debug_mode, "DEBUG_MODE", True)
    batches = SampleBatches(X, Y, batch_size=4, seed=1, **options)
    data = batches.tf_dataset()
    for epoch in (0, 1):
        batches.start_epoch(epoch)
        assert_same_batches(data, batches)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("size", "expected"), [(5, 5), (4, None)])
def test_the_batch_size_is_static_if_all_batches_have_one_size(size, expected):
    x, y = SampleBatches(X, Y, batch_size=size).tf_dataset().element_spec
    assert {spec.shape[0] for spec in (*x.values(), y)} == {expected}


@pytest.mark.tensorflow
def test_no_tuner_of_tf_data_delays_the_end_of_an_epoch():
    options = SampleBatches(X, Y, batch_size=4).tf_dataset().options()
    assert options.autotune.enabled is False


def test_validated_indices_are_marked_in_each_batch():
    batches = SampleBatches(X, Y, batch_size=4)
    assert "index_validated" not in batches[0][0]
    batches.index_validated = True
    assert batches[0][0]["index_validated"] == ()


def test_arrays_of_unequal_lengths_are_rejected():
    with pytest.raises(ValueError, match=r"\[\(9,\), \(10,\)\]"):
        SampleBatches(X, Y[:9])
    with pytest.raises(ValueError, match="at least 1"):
        SampleBatches(X[:0], Y[:0])
    with pytest.raises(ValueError, match=r"write `np.asarray\(x\)`"):
        SampleBatches(X.tolist(), Y)
    with pytest.raises(ValueError, match=r"write `np.asarray\(x\)`"):
        SampleBatches(X, Y.tolist())
    with pytest.raises(ValueError, match="batch_size=0"):
        SampleBatches(X, Y, batch_size=0)
    own = {"inputs": X, "sample_index": np.arange(10)}
    with pytest.raises(ValueError, match=r"write `np.asarray\(x\)`"):
        SampleBatches(own, Y.tolist())
    with pytest.raises(ValueError, match="Expected: one length"):
        SampleBatches(own, {"a": Y, "b": Y[:9]})
