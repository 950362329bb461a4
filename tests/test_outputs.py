"""What a student's outputs and labels mean."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lstsd import outputs
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
        (ending(layers.Dense(4, activation="sigmoid")), False),
        (functional(None), True),
        (functional("softmax"), False),
        (ending(functional("softmax")), False),
    ],
)
def test_the_last_layer_shows_logits_or_probabilities(student, logits):
    assert outputs.ends_in_logits(student) is logits


@pytest.mark.parametrize(
    "student",
    [
        ending(layers.Dense(4, activation="relu")),
        ending(layers.Dense(4), layers.Activation("linear")),
        ending(layers.Dense(4), layers.Dropout(0.5)),
    ],
)
def test_other_last_layers_are_rejected_with_the_argument_to_pass(student):
    with pytest.raises(ValueError, match="pass `from_logits=True`"):
        outputs.ends_in_logits(student)


def test_the_last_axis_has_the_units():
    assert outputs.shape(ending(layers.Dense(4))) == (4,)
    assert outputs.shape(ending(layers.Dense(1))) == (1,)
    x = keras.Input((None, 3))
    assert outputs.shape(keras.Model(x, layers.Dense(4)(x))) == (None, 4)


def several_outputs(kind):
    x = keras.Input((3,))
    tensors = [layers.Dense(4, name=name)(x) for name in ("species", "size")]
    return keras.Model(
        x,
        {
            "list": tensors,
            "list of one": tensors[:1],
            "dict": {"species": tensors[0], "size": tensors[1]},
            "dict of one": {"species": tensors[0]},
        }[kind],
    )


@pytest.mark.parametrize("kind", ["list", "dict", "dict of one"])
def test_several_outputs_are_rejected(kind):
    with pytest.raises(ValueError, match=r"one output tensor.*Received.*\(None, 4\).*Expected"):
        outputs.shape(several_outputs(kind))


def test_the_line_to_write_for_a_dict_of_outputs_makes_a_student():
    student = several_outputs("dict of one")
    assert outputs.shape(keras.Model(student.inputs, student.outputs[0])) == (4,)


def test_a_subclassed_student_with_a_dict_of_outputs_is_rejected():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def call(self, x):
            return {"species": self.dense(x)}

    student = Net()
    student(np.ones((2, 3)))
    with pytest.raises(ValueError, match="one output tensor.*Received.*species.*Expected"):
        outputs.shape(student)


def test_outputs_of_another_shape_are_rejected():
    x = keras.Input((3, 3))
    with pytest.raises(ValueError, match=r"one output.*\(None,\)"):
        outputs.shape(keras.Model(x, keras.ops.sum(x, axis=(1, 2))))
    with pytest.raises(ValueError, match="one output"):
        outputs.shape(keras.Model(x, [layers.Flatten()(x), layers.Flatten()(x)]))
    with pytest.raises(ValueError, match="softmax over one unit"):
        outputs.shape(ending(layers.Dense(1, activation="softmax")))


def test_all_kinds_of_outputs_become_logits():
    z = np.array([[-3.0, 0.5], [2.0, 40.0]], "float32")
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_array_equal(outputs.logits(z, True), z)
    np.testing.assert_allclose(outputs.logits(p, False), np.log(p), rtol=1e-5, atol=1e-6)
    unit = z[:, :1]
    np.testing.assert_array_equal(outputs.logits(unit, True), np.hstack([0 * unit, unit]))
    sigmoid = 1 / (1 + np.exp(-unit))
    expected = np.log(np.hstack([1 - sigmoid, sigmoid]))
    np.testing.assert_allclose(outputs.logits(sigmoid, False), expected, rtol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (1, "sigmoid")])
def test_the_input_of_the_last_activation_is_used_where_keras_keeps_it(units, activation, policy):
    student = keras.Sequential([keras.Input((1,)), layers.Dense(units, activation, dtype=policy)])
    student.set_weights([np.array([[0.0, 300.0]])[:, -units:], np.zeros(units)])
    predicted = student(np.array([[1.0], [-1.0]]))
    log_probs = log_softmax(outputs.logits(predicted, False, activation))
    np.testing.assert_allclose(log_probs, [[-300, 0], [0, -300]], atol=1e-4)


def test_sigmoid_units_of_a_multi_label_student_have_two_classes_each():
    x = np.array([[3.0, -1.0, 4.0]], "float32")
    predicted = keras.activations.sigmoid(ops.convert_to_tensor(x))
    for y_pred, activation in ((predicted, "sigmoid"), (predicted + 0, None)):
        found = log_softmax(outputs.logits(y_pred, False, activation, multi_label=True))
        expected = np.stack([-np.log1p(np.exp(x)), -np.log1p(np.exp(-x))], axis=-1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = log_softmax(outputs.logits(ops.convert_to_tensor(x), True, None, multi_label=True))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_several_sigmoid_units_are_used_as_given_probabilities():
    x = np.array([[3.0, -1.0, 4.0]], "float32")
    predicted = keras.activations.sigmoid(ops.convert_to_tensor(x))
    found = outputs.logits(predicted, False, "sigmoid")
    np.testing.assert_allclose(found, -np.log1p(np.exp(-x)), rtol=1e-5)


def test_probabilities_of_zero_have_finite_logits():
    assert np.isfinite(np.asarray(outputs.logits(np.array([[0.0, 1.0]]), False))).all()
    assert np.isfinite(np.asarray(outputs.logits(np.array([[0.0], [1.0]]), False))).all()


def test_inputs_of_a_dict_have_the_names_of_its_keys():
    class Sum(keras.Model):
        def call(self, inputs):
            return inputs["left"] + inputs["more"]["right"]

    student = Sum()
    student({"left": np.ones((2, 4)), "more": {"right": np.ones((2, 4))}})
    (spec,) = outputs.input_signature(student)
    assert (spec["left"].name, spec["left"].shape) == ("left", (None, 4))
    assert spec["more"]["right"].name == "more_right"


def test_other_inputs_keep_their_names():
    images = keras.Input((3,), dtype="uint8", name="images")
    for student in (
        keras.Model(images, layers.Dense(2)(images)),
        keras.Sequential([images, layers.Dense(2)]),
    ):
        (spec,) = outputs.input_signature(student)
        assert (spec.name, spec.dtype, spec.shape) == ("images", "uint8", (None, 3))


# === Labels ===


LABELS = [
    # A class per sample.
    ([2, 0, 1], [2, 0, 1], True),
    ([[2], [0], [1]], [2, 0, 1], True),
    (np.array([2, 0, 1], "float32"), [2, 0, 1], True),
    (np.array([2, 0, 1], "uint8"), [2, 0, 1], True),
    # One-hot.
    (np.eye(3, dtype="float32"), [0, 1, 2], True),
    (np.eye(3, dtype="int32"), [0, 1, 2], True),
    (np.eye(3, dtype=bool), [0, 1, 2], True),
    # Soft labels have the class of their largest share.
    (np.array([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1]], "float32"), [1, 0], False),
    (np.array([[0.05, 0.9, 0.05], [0.0, 1.0, 0.0]], "float32"), [1, 1], [False, True]),
    # Several labels of one sample.
    (np.array([[0, 1, 1], [0, 0, 1]], "float32"), [1, 2], [False, True]),
]
MISSING = [
    ([-1, 2, 3], [2]),
    (np.array([-1, 2, np.nan, np.inf], "float32"), [2]),
    (np.array([[0, 0, 0], [0, 0, 1]], "float32"), [2]),
    (np.array([[np.nan] * 3, [0, 0, 1], [np.nan, 1, 0]], "float32"), [2]),
    (np.array([2**31 - 1, 2, -(2**31)]), [2]),
]


def hard(y, num_classes=3):
    return ops.convert_to_numpy(outputs.hard_classes_of(y, num_classes)).tolist()


def classes(y, num_classes=3):
    found = outputs.classes_of(y, num_classes)
    assert keras.backend.standardize_dtype(found.dtype) == "int32"
    return ops.convert_to_numpy(found).tolist()


@pytest.mark.parametrize(("y", "expected", "is_hard"), LABELS)
def test_labels_of_all_forms_are_classes(y, expected, is_hard):
    assert classes(y) == expected
    assert hard(y) == np.where(is_hard, expected, -1).tolist()


@pytest.mark.parametrize(("y", "expected"), MISSING)
def test_missing_labels_are_out_of_range(y, expected):
    for found in (classes(y), hard(y)):
        assert [label for label in found if 0 <= label < 3] == expected
        assert found[1] == 2


@pytest.mark.parametrize("column", [False, True])
def test_labels_of_one_unit_are_the_nearer_class(column):
    y = np.array([0.0, 1.0, 0.05, 0.95, 0.5, np.nan], "float32")
    y = y[:, None] if column else y
    assert classes(y, 2) == [0, 1, 0, 1, 1, -1]
    assert hard(y, 2) == [0, 1, -1, -1, -1, -1]
    assert classes(np.array([True, False]), 2) == hard(np.array([True, False]), 2) == [1, 0]


@pytest.mark.parametrize("shape", [(0,), (0, 1), (0, 3)])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_an_empty_batch_has_no_classes(shape, dtype):
    if keras.backend.backend() == "jax" and shape == (0, 3):
        pytest.skip("Keras takes no empty batch on JAX")
    assert classes(np.zeros(shape, dtype)) == hard(np.zeros(shape, dtype)) == []
