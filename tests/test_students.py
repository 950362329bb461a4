import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import students
from keras_lstsd.losses import log_softmax


def ending(*last):
    return keras.Sequential([keras.Input((3,)), *last])


def functional(activation):
    x = keras.Input((3,))
    return keras.Model(x, layers.Dense(4, activation=activation)(x))


@pytest.mark.parametrize(
    ("student", "logits"),
    [
        (ending(layers.Dense(4)), True),
        (ending(layers.Dense(1)), True),
        (ending(layers.Dense(4, activation="softmax")), False),
        (ending(layers.Dense(4), layers.Softmax()), False),
        (ending(layers.Dense(4), layers.Activation("softmax", dtype="float32")), False),
        (ending(layers.Dense(1, activation="sigmoid")), False),
        (functional(None), True),
        (functional("softmax"), False),
        (ending(functional("softmax")), False),
    ],
)
def test_the_last_layer_tells_logits_from_probabilities(student, logits):
    assert students.ends_in_logits(student) is logits


@pytest.mark.parametrize(
    "student",
    [
        ending(layers.Dense(4, activation="relu")),
        ending(layers.Dense(4, activation="sigmoid")),
        ending(layers.Dense(4), layers.Activation("linear")),
        ending(layers.Dense(4), layers.Dropout(0.5)),
    ],
)
def test_what_cannot_be_told_is_refused_with_what_to_pass(student):
    with pytest.raises(ValueError, match="pass `from_logits=True`"):
        students.ends_in_logits(student)


def test_classes_are_counted():
    assert students.num_classes(ending(layers.Dense(4))) == 4
    assert students.num_classes(ending(layers.Dense(1))) == 2


def test_other_outputs_are_refused():
    x = keras.Input((3, 3))
    with pytest.raises(ValueError, match=r"one output.*\(None, 3, 4\)"):
        students.num_classes(keras.Model(x, layers.Dense(4)(x)))
    with pytest.raises(ValueError, match="one output"):
        students.num_classes(keras.Model(x, [layers.Flatten()(x), layers.Flatten()(x)]))
    with pytest.raises(ValueError, match="softmax over one unit"):
        students.num_classes(ending(layers.Dense(1, activation="softmax")))


def test_all_kinds_of_outputs_become_logits():
    z = np.array([[-3.0, 0.5], [2.0, 40.0]], "float32")
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_array_equal(students.logits(z, True), z)
    np.testing.assert_allclose(students.logits(p, False), np.log(p), rtol=1e-5, atol=1e-6)
    unit = z[:, :1]
    np.testing.assert_array_equal(students.logits(unit, True), np.hstack([0 * unit, unit]))
    sigmoid = 1 / (1 + np.exp(-unit))
    expected = np.log(np.hstack([1 - sigmoid, sigmoid]))
    np.testing.assert_allclose(students.logits(sigmoid, False), expected, rtol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (1, "sigmoid")])
def test_what_went_into_the_last_activation_is_not_rounded_away(units, activation, policy):
    student = keras.Sequential([keras.Input((1,)), layers.Dense(units, activation, dtype=policy)])
    student.set_weights([np.array([[0.0, 300.0]])[:, -units:], np.zeros(units)])
    outputs = student(np.array([[1.0], [-1.0]]))
    log_probs = log_softmax(students.logits(outputs, False, activation))
    np.testing.assert_allclose(log_probs, [[-300, 0], [0, -300]], atol=1e-4)


def test_several_sigmoid_units_are_the_probabilities_that_they_say():
    x = np.array([[3.0, -1.0, 4.0]], "float32")
    outputs = keras.activations.sigmoid(keras.ops.convert_to_tensor(x))
    found = students.logits(outputs, False, "sigmoid")
    np.testing.assert_allclose(found, -np.log1p(np.exp(-x)), rtol=1e-5)


def test_probabilities_of_zero_have_finite_logits():
    assert np.isfinite(np.asarray(students.logits(np.array([[0.0, 1.0]]), False))).all()
    assert np.isfinite(np.asarray(students.logits(np.array([[0.0], [1.0]]), False))).all()


def test_inputs_of_a_dict_bear_its_keys():
    class Sum(keras.Model):
        def call(self, inputs):
            return inputs["left"] + inputs["more"]["right"]

    student = Sum()
    student({"left": np.ones((2, 4)), "more": {"right": np.ones((2, 4))}})
    (spec,) = students.input_signature(student)
    assert (spec["left"].name, spec["left"].shape) == ("left", (None, 4))
    assert spec["more"]["right"].name == "more_right"


def test_other_inputs_keep_their_names():
    images = keras.Input((3,), dtype="uint8", name="images")
    for student in (
        keras.Model(images, layers.Dense(2)(images)),
        keras.Sequential([images, layers.Dense(2)]),
    ):
        (spec,) = students.input_signature(student)
        assert (spec.name, spec.dtype, spec.shape) == ("images", "uint8", (None, 3))
