import re

import keras
import numpy as np
import pytest

from keras_lstsd.data import SampleBatches, arrays

X = np.arange(12, dtype="float32").reshape(6, 2)
Y = np.arange(6)


def rejected(x, y=Y, sample_weight=None):
    """The message of the error."""
    with pytest.raises(ValueError, match=r"(?s)Received.*Expected.*write") as error:
        SampleBatches(x, y, sample_weight)
    return re.sub(r"\s+", " ", str(error.value))


@pytest.mark.parametrize("name", ["csr_matrix", "csr_array", "coo_matrix"])
def test_sparse_matrices_are_rejected(name):
    import scipy.sparse

    x = getattr(scipy.sparse, name)(X)
    text = rejected(x)
    assert f"sparse {name} of shape (6, 2)" in text
    assert "`x.toarray()`" in text
    assert "sparse" in rejected({"a": X, "b": x})
    assert "sparse" in rejected({"inputs": x, "sample_index": Y})
    assert "sparse" in rejected(X, x)
    assert "sparse" in rejected(X, Y, scipy.sparse.csr_matrix(Y[:, None]))


def test_sparse_jax_arrays_are_rejected():
    sparse = pytest.importorskip("jax.experimental.sparse")
    text = rejected(sparse.BCOO.fromdense(X))
    assert "sparse BCOO" in text
    assert "`x.todense()`" in text


@pytest.mark.tensorflow
def test_sparse_and_ragged_tensors_are_rejected():
    import tensorflow as tf

    text = rejected(tf.sparse.from_dense(X))
    assert "sparse SparseTensor" in text
    assert "`tf.sparse.to_dense(x)`" in text
    text = rejected(tf.ragged.constant([[1], [1, 2], [], [3], [4], [5]]))
    assert "ragged" in text
    assert "`x.to_tensor()`" in text


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_object_arrays_of_unequal_rows_are_rejected(kind):
    x = np.empty(6, object)
    x[:] = [kind([1] * (1 + row % 3)) for row in range(6)]
    text = rejected(x)
    assert "ragged" in text
    assert "lengths [1, 2, 3]" in text
    assert "`keras.utils.pad_sequences(x)`" in text
    assert "ragged" in rejected(X, x)


def test_strings_in_object_arrays_are_accepted():
    words = np.array(["one", "two", "three", "four", "five", "six"], object)
    batches = SampleBatches(words, Y, shuffle=False, batch_size=4)
    assert batches[0][0]["inputs"].tolist() == ["one", "two", "three", "four"]


class Frame:
    """Converts to an array as a DataFrame does; its length and its items are not those of one."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


def frame(values):
    return pytest.importorskip("pandas").DataFrame(values, index=np.arange(len(values))[::-1])


def series(values):
    return pytest.importorskip("pandas").Series(values, index=np.arange(len(values))[::-1])


@pytest.mark.parametrize(
    ("of_x", "of_y"),
    [
        (np.asarray, np.asarray),
        (keras.ops.convert_to_tensor, keras.ops.convert_to_tensor),
        (Frame, Frame),
        (frame, series),
    ],
)
def test_tensors_data_frames_and_float64_are_converted(of_x, of_y):
    expected = SampleBatches(X, Y, shuffle=False)[0]
    found = SampleBatches(of_x(X.astype("float64")), of_y(Y), of_y(Y / 2), shuffle=False)[0]
    for array in (found[0]["inputs"], *found[1:]):
        assert type(array) is np.ndarray
    assert found[0]["inputs"].dtype == found[2].dtype == np.float32
    np.testing.assert_array_equal(found[0]["inputs"], X)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[2], Y / 2)


def test_a_checksum_depends_on_types_shapes_and_values():
    a = np.arange(6, dtype="int32")
    found = {arrays.checksum(b) for b in (a, a + 1, a.reshape(2, 3), a.astype("int64"), [a, a])}
    assert len(found) == 5
    assert arrays.checksum({"b": a, "a": a + 1}) == arrays.checksum({"a": a + 1, "b": a})
    assert arrays.checksum(a[::2]) == arrays.checksum(a[::2].copy())


def test_a_label_checksum_depends_on_the_value_only():
    types = (np.int64, np.uint8, np.float32, np.bool_)
    assert len({arrays.label_checksum(kind(1)) for kind in types}) == 1
    assert arrays.label_checksum(np.int64(1)) != arrays.label_checksum(np.int64(2))
    one_hot = np.eye(3)
    assert arrays.label_checksum(one_hot[0]) != arrays.label_checksum(one_hot[1])
