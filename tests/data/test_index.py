import numpy as np
import pytest

from keras_lstsd.data import with_sample_index
from keras_lstsd.data.index import is_indexed

pytestmark = pytest.mark.tensorflow


def dataset(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays)


def test_rows_are_numbered_and_the_rest_stays_as_it_was():
    x, y, weight = np.arange(6).reshape(3, 2), np.array([5, 6, 7]), np.array([0.1, 0.2, 0.3])
    found = list(with_sample_index(dataset(x, y, weight)).as_numpy_iterator())
    for row, (inputs, label, sample_weight) in enumerate(found):
        assert is_indexed(inputs)
        np.testing.assert_array_equal(inputs["inputs"], x[row])
        assert (inputs["sample_index"], label, sample_weight) == (row, y[row], weight[row])
        assert inputs["sample_index"].dtype == np.int32


@pytest.mark.parametrize("wrap", [lambda x: {"a": x, "b": x}, lambda x: (x, x)])
def test_structures_stay_whole_under_inputs(wrap):
    x = np.arange(6).reshape(3, 2)
    inputs, _ = next(iter(with_sample_index(dataset(wrap(x), np.arange(3)))))
    assert inputs["sample_index"] == 0
    assert type(inputs["inputs"]) is type(wrap(x))


def test_shuffled_samples_keep_their_number_in_every_epoch():
    data = with_sample_index(dataset(np.arange(50), np.arange(50))).shuffle(50).batch(7)
    for _ in range(2):
        for inputs, _ in data.as_numpy_iterator():
            np.testing.assert_array_equal(inputs["inputs"], inputs["sample_index"])


def test_datasets_that_cannot_be_numbered_are_refused():
    with pytest.raises(ValueError, match="tuples \\(x, y\\)"):
        with_sample_index(dataset({"x": np.arange(3)}).map(lambda d: d))
    once = with_sample_index(dataset(np.arange(3), np.arange(3)))
    with pytest.raises(ValueError, match="already"):
        with_sample_index(once)
