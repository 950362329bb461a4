import numpy as np
import pytest

from keras_lstsd.data import with_sample_index
from keras_lstsd.data.index import is_indexed, num_samples_of, without_index

pytestmark = pytest.mark.tensorflow


def dataset(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays)


def test_samples_get_an_index_and_keep_their_values():
    x, y, weight = np.arange(6).reshape(3, 2), np.array([5, 6, 7]), np.array([0.1, 0.2, 0.3])
    found = list(with_sample_index(dataset(x, y, weight)).as_numpy_iterator())
    for row, (inputs, label, sample_weight) in enumerate(found):
        assert is_indexed(inputs)
        np.testing.assert_array_equal(inputs["inputs"], x[row])
        assert (inputs["sample_index"], label, sample_weight) == (row, y[row], weight[row])
        assert inputs["sample_index"].dtype == np.int32


@pytest.mark.parametrize("wrap", [lambda x: {"a": x, "b": x}, lambda x: (x, x)])
def test_structures_are_kept_in_inputs(wrap):
    x = np.arange(6).reshape(3, 2)
    inputs, _ = next(iter(with_sample_index(dataset(wrap(x), np.arange(3)))))
    assert inputs["sample_index"] == 0
    assert type(inputs["inputs"]) is type(wrap(x))


def test_shuffled_samples_keep_their_index_in_every_epoch():
    data = with_sample_index(dataset(np.arange(50), np.arange(50))).shuffle(50).batch(7)
    for _ in range(2):
        for inputs, _ in data.as_numpy_iterator():
            np.testing.assert_array_equal(inputs["inputs"], inputs["sample_index"])


def test_datasets_without_single_samples_are_rejected():
    with pytest.raises(ValueError, match="tuples \\(x, y\\)"):
        with_sample_index(dataset({"x": np.arange(3)}).map(lambda d: d))
    once = with_sample_index(dataset(np.arange(3), np.arange(3)))
    with pytest.raises(ValueError, match="already"):
        with_sample_index(once)


@pytest.mark.parametrize("later", [lambda d: d, lambda d: d.map(lambda *e: e).batch(2)])
def test_a_shuffle_of_each_epoch_before_the_index_is_rejected(later):
    data = later(dataset(np.arange(9), np.arange(9)).shuffle(9))
    match = r"shuffled before.*Received.*Expected.*`with_sample_index\(dataset\).shuffle\(...\)`"
    with pytest.raises(ValueError, match=match):
        with_sample_index(data)


@pytest.mark.parametrize(
    "fixed",
    [
        lambda d: d.shuffle(9, seed=1, reshuffle_each_iteration=False),
        lambda d: d.shuffle(9).cache(),
    ],
)
def test_one_order_for_all_epochs_is_accepted_before_the_index(fixed):
    data = with_sample_index(fixed(dataset(np.arange(9), np.arange(9))))
    epochs = [[(int(x["sample_index"]), int(y)) for x, y in data] for _ in range(2)]
    assert epochs[0] == epochs[1]


def numbered(samples=50):
    return with_sample_index(dataset(np.zeros((samples, 2)), np.zeros(samples)))


def generated(*elements):
    import tensorflow as tf

    index = tf.TensorSpec((), tf.int32)
    signature = ({"inputs": index, "sample_index": index}, index)
    data = tf.data.Dataset.from_generator(lambda: iter(elements), output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(len(elements)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d, 50),
        (lambda d: d.shuffle(50).batch(7).prefetch(1), 50),
        (lambda d: d.batch(8, drop_remainder=True).repeat(), 50),
        (lambda d: d.repeat(3).shuffle(9).batch(4), 50),
        (lambda d: d.map(lambda x, y: ({**x, "inputs": x["inputs"] * 2}, y)).batch(7), 50),
        (lambda d: d.filter(lambda x, y: x["sample_index"] > 3).batch(7), 50),
        (lambda d: d.take(10).cache().batch(7), 50),
        (lambda d: d.batch(7).map(lambda x, y: (x["inputs"], y)), 50),
        (lambda d: d.batch(7).unbatch().batch(3), 50),
        (lambda d: d.concatenate(numbered(70)).batch(7), 70),
        (lambda d: numbered(70).concatenate(d).batch(7), 70),
    ],
)
def test_the_number_of_samples_is_found_after_other_operations(change, expected):
    """It needs `Dataset._inputs`, which is private in TensorFlow."""
    found = num_samples_of(change(numbered()))
    assert found == expected, "TensorFlow may have moved tf.data.Dataset._inputs"


def test_the_number_of_samples_is_that_of_the_indexed_dataset():
    samples = dataset(np.zeros(50), np.zeros(50))
    assert num_samples_of(with_sample_index(samples.take(20)).batch(4)) == 20
    assert num_samples_of(with_sample_index(samples.repeat(2)).batch(4)) == 100


def test_datasets_have_the_private_attributes_that_this_module_reads():
    data = numbered()
    assert callable(getattr(data, "_inputs", None)), "TensorFlow has moved Dataset._inputs"
    assert data.shuffle(3)._reshuffle_each_iteration is True
    assert data.shuffle(3, reshuffle_each_iteration=False)._reshuffle_each_iteration is False
    assert type(data.cache()).__name__ == "CacheDataset"


def test_an_unknown_number_of_samples_is_none():
    unknown = dataset(np.zeros(50), np.zeros(50)).filter(lambda x, y: y == 0)
    assert num_samples_of(with_sample_index(unknown).batch(4)) is None
    endless = dataset(np.zeros(50), np.zeros(50)).repeat()
    assert num_samples_of(with_sample_index(endless).shuffle(9).take(20)) is None
    assert num_samples_of(numbered().concatenate(with_sample_index(unknown))) is None
    assert num_samples_of(dataset(np.zeros(50), np.zeros(50)).batch(4)) is None
    own = {"inputs": np.zeros(3), "sample_index": np.array([0, 5, 90])}
    assert num_samples_of(dataset(own, np.zeros(3)).shuffle(3).batch(2)) is None
    batches = dataset(np.zeros((5, 7, 2)), np.zeros((5, 7)))
    own = batches.map(lambda x, y: ({"inputs": x, "sample_index": np.arange(7)}, y))
    assert num_samples_of(own.shuffle(5)) is None
    data = generated(({"inputs": 1, "sample_index": 90}, 0))
    assert int(data.cardinality()) == 1
    assert num_samples_of(data.batch(2)) is None
    for other in (None, np.zeros(3), [1, 2], (batch for batch in [])):
        assert num_samples_of(other) is None


def test_the_number_of_samples_of_a_distributed_dataset_is_none(two_replicas):
    distributed = two_replicas.experimental_distribute_dataset(numbered().batch(4))
    assert num_samples_of(distributed) is None


@pytest.mark.parametrize("extra", [{}, {"draws": 1}, {"mixing": 1}, {"index_validated": ()}])
def test_inputs_with_an_index_are_recognised(extra):
    x = {"inputs": 1, "sample_index": 2, **extra}
    assert is_indexed(x)
    assert without_index(x) == 1


@pytest.mark.parametrize(
    "x",
    [
        1,
        {"inputs": 1},
        {"sample_index": 1},
        {"inputs": 1, "sample_index": 2, "other": 3},
        {"inputs": 1, "sample_index": 2, "index_validated": 3},
    ],
)
def test_inputs_of_the_student_itself_are_not_indexed(x):
    assert not is_indexed(x)
    assert without_index(x) is x
