import keras
import numpy as np

from keras_lstsd import variables

numpy = keras.ops.convert_to_numpy


def test_chosen_rows_are_added_where_they_belong():
    draw = np.random.default_rng(0)
    start, rows = draw.normal(size=(2, 40, 3)).astype("float32")
    index, chosen = draw.integers(0, 7, 40).astype("int32"), draw.random(40) < 0.7
    variable = keras.Variable(start)
    variables.add_rows(keras.ops.convert_to_tensor(index), chosen, (variable, rows))
    expected = start.astype("float64")
    np.add.at(expected, index[chosen], rows[chosen])
    np.testing.assert_allclose(numpy(variable), expected, atol=1e-5)


def test_rows_of_one_number_are_added():
    variable = keras.Variable(np.zeros(4, "float32"))
    index = keras.ops.convert_to_tensor(np.int32([3, 0, 3]))
    variables.add_rows(index, np.array([True, True, True]), (variable, np.ones(3, "float32")))
    np.testing.assert_array_equal(numpy(variable), [1, 0, 0, 2])
