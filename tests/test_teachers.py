import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import Distillation, MeanTeacher, Step
from keras_lstsd.losses import kl_divergence
from keras_lstsd.teachers import Snapshot

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
numpy = keras.ops.convert_to_numpy


def student():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )


@pytest.fixture
def model():
    return Distillation(student())


@pytest.fixture
def snapshot(model):
    made = Snapshot()
    made.attach(model)
    return made


def test_a_snapshot_predicts_as_the_student_did(model, snapshot):
    network = model.student
    assert not bool(snapshot.known)
    before = network.predict(X, verbose=0)
    snapshot.take()
    assert bool(snapshot.known)
    network.set_weights([w + 1 for w in network.get_weights()])
    np.testing.assert_allclose(numpy(snapshot(X)), before, atol=1e-5)
    assert np.abs(network.predict(X, verbose=0) - before).max() > 0.1


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (1, "sigmoid"), (3, None)])
def test_a_confident_student_does_not_differ_from_a_copy_of_its_weights(units, activation, policy):
    """Both outputs are converted to logits in the same way."""
    network = keras.Sequential([keras.Input((3,)), layers.Dense(units, activation, dtype=policy)])
    network.set_weights([np.full((3, units), 30.0) * np.arange(1, units + 1), np.zeros(units)])
    model = MeanTeacher(network)
    model.make_memory()
    student = model.logits_of(network(X))
    teacher = model.average.predict(Step(X, None, None, student))
    np.testing.assert_array_equal(kl_divergence(student, teacher, 2.0), np.zeros(len(X)))


def test_a_prediction_is_float32_logits_in_inference_mode(model, snapshot):
    expected = numpy(model.student(X, training=False))
    found = snapshot.predict(Step(X, None, None, None))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(numpy(found), expected, atol=1e-6)


def test_predicting_changes_no_weight_statistic_or_seed(model, snapshot):
    network = model.student
    snapshot.take()
    before = [np.array(v.numpy()) for v in network.variables]
    snapshot(X)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_first_average_is_a_copy_and_the_next_ones_warm_up(model, snapshot):
    network, seen = model.student, []
    for step in range(4):
        network.set_weights([np.full_like(w, 2.0**step) for w in network.get_weights()])
        snapshot.average(0.6)
        seen.append(float(snapshot.copies[0].numpy().flat[0]))
    # a_t = min(1 - 1/(t+1), 0.6) = 0, 1/2, 0.6, 0.6
    np.testing.assert_allclose(seen, [1, 1.5, 0.6 * 1.5 + 1.6, 0.6 * 2.5 + 3.2], rtol=1e-6)


def test_swapped_weights_are_restored_after_an_error(model, snapshot):
    network = model.student
    snapshot.take()
    own = [w + 1 for w in network.get_weights()]
    network.set_weights(own)

    def fail_inside():
        with snapshot.swapped_in():
            np.testing.assert_allclose(network.get_weights()[0], own[0] - 1, atol=1e-6)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    np.testing.assert_array_equal(network.get_weights()[0], own[0])


def test_a_student_whose_weights_changed_since_is_rejected(model, snapshot):
    model.student.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="Received: 10 weights .*Expected: 8, of shapes"):
        snapshot.take()


def test_a_snapshot_does_not_train_and_is_not_the_students(model, snapshot):
    assert snapshot.trainable_weights == []
    copies = {id(copy) for copy in snapshot.weights}
    assert not copies & {id(weight) for weight in model.student.weights}
