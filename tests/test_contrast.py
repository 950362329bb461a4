import keras
import numpy as np
import pytest
from keras import ops

from keras_lstsd import CRD, ProKT
from keras_lstsd.contrast import Contrast, FeatureTable, mix
from keras_lstsd.data import order
from tests.methods.linear import CLASSES, FEATURES, SAMPLES, problem
from tests.methods.test_feature_matching import compiled, network

X, Y = problem()
numpy = ops.convert_to_numpy


def made(**settings):
    contrast = Contrast(**{"negatives": 4000, "size": 4} | settings)
    return CRD(network(3), network(6, seed=1), contrast=contrast, num_samples=SAMPLES)


def draws_of(model, index, step=0):
    model.make_memory()
    model.contrast.draws.assign(step)
    return numpy(model.contrast._other_samples(np.asarray(index, "int32")))


def test_negatives_are_all_other_samples_with_equal_chances():
    drawn = draws_of(made(), [0, 7, SAMPLES - 1])
    expected = 4000 / (SAMPLES - 1)
    for own, row in zip([0, 7, SAMPLES - 1], drawn, strict=True):
        counts = np.bincount(row, minlength=SAMPLES)
        assert counts[own] == 0
        assert len(counts) == SAMPLES
        # Chi squared of 21 degrees of freedom has a mean of 21 and a deviation of 6.5.
        others = np.delete(counts, own)
        assert ((others - expected) ** 2 / expected).sum() < 50


def test_features_of_zeros_train_on():
    """The biases are zero at first, so the vectors of the contrast are zeros, too."""
    model = compiled(made())
    model.fit(np.zeros_like(X), Y, epochs=2, batch_size=SAMPLES, verbose=0)
    memory = numpy(model.contrast.student_memory.rows)[:SAMPLES]
    assert np.isfinite(memory).all()
    for weight in model.student.get_weights():
        assert np.isfinite(weight).all()


def test_the_hash_of_a_step_is_that_of_the_order_of_samples():
    words = 1_999_999_999, np.arange(-2, 3)[:, None], np.arange(7)
    with np.errstate(over="ignore"):
        expected = order.mix(*words)
    found = mix(*(ops.convert_to_tensor(np.asarray(word, "int32")) for word in words))
    np.testing.assert_array_equal(numpy(found), expected)


def test_draws_differ_by_sample_step_and_seed_and_repeat_otherwise():
    model = made()
    first = draws_of(model, [3, 4])
    np.testing.assert_array_equal(draws_of(model, [4, 3])[::-1], first)
    others = [draws_of(model, [3, 4], step=1)[0], first[1]]
    model.contrast.seed.assign(5)
    others.append(draws_of(model, [3, 4])[0])
    for other in others:
        # Of 22 samples, by chance.
        assert 0.02 < (other == first[0]).mean() < 0.08


def test_negatives_of_other_classes_come_from_the_labels_of_the_data():
    y = Y.copy()
    model = made(other_classes=True)
    compiled(model)
    model.fit(X, y, batch_size=8, epochs=1, verbose=0)
    drawn = draws_of(model, np.arange(SAMPLES))
    for own, row in enumerate(drawn):
        counts = np.bincount(row, minlength=SAMPLES)
        np.testing.assert_array_equal(counts > 0, y != y[own])
        expected = 4000 / (y != y[own]).sum()
        np.testing.assert_allclose(counts[y != y[own]], expected, rtol=0.4)


def test_labels_of_one_class_have_no_others():
    model = compiled(made(other_classes=True))
    with pytest.raises(ValueError, match="(?s)at least two classes.*Received: 23 samples"):
        model.fit(X, np.zeros_like(Y), verbose=0)


def test_features_are_random_directions_at_first():
    table = FeatureTable()
    table.build((1000, 16))
    rows = numpy(table.rows)[:1000]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-5)
    assert np.abs(rows.mean(axis=0)).max() < 0.05
    np.testing.assert_allclose(rows.T @ rows / 1000, np.eye(16) / 16, atol=0.02)


def test_a_row_moves_towards_the_feature_and_others_stay():
    table = FeatureTable()
    table.build((4, 2))
    table.rows.assign(np.tile(np.float32([1, 0]), (table.rows.shape[0], 1)))
    table.average(np.int32([2, -1]), np.float32([[0, 1], [0, 1]]), 0.75)
    length = np.hypot(0.75, 0.25)
    expected = [[1, 0], [1, 0], [0.75 / length, 0.25 / length], [1, 0]]
    np.testing.assert_allclose(numpy(table.rows)[:4], expected, atol=1e-6)


def test_a_feature_that_is_not_finite_is_not_stored():
    table = FeatureTable()
    table.build((4, 2))
    before = np.array(numpy(table.rows))
    table.average(np.int32([0, 1]), np.float32([[np.nan, 0], [np.inf, 1]]), 0.5)
    np.testing.assert_array_equal(numpy(table.rows), before)


def test_the_default_layers_are_those_before_the_last_one_with_weights():
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    x = keras.layers.Dropout(0.1, name="dropped")(x)
    x = keras.layers.Dense(CLASSES, name="head")(x)
    student = keras.Model(inputs, keras.layers.Softmax()(x))
    first, head = keras.layers.Dense(6, name="first"), keras.layers.Dense(CLASSES)
    teacher = keras.Sequential([keras.Input((FEATURES,)), first, head])
    model = CRD(student, teacher)
    assert model.contrast.layers == ("dropped", "first")
    # A name that Keras gives may be another one in the process that resumes.
    assert model.contrast.student_layer is model.contrast.teacher_layer is None


def test_the_default_layer_of_a_network_inside_another_one_is_found_there():
    inputs = keras.Input((FEATURES,))
    core = network(3)
    student = keras.Model(inputs, core(keras.layers.Rescaling(2.0)(inputs)))
    assert CRD(student, core).contrast.layers[0] == f"{core.name}/body"


def test_a_network_that_is_one_layer_has_no_features():
    student = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    with pytest.raises(ValueError, match="(?s)layer before the last.*student_layer="):
        CRD(student, network(6))


def test_features_without_a_fixed_size_are_rejected():
    inputs = keras.Input((None, FEATURES))
    x = keras.layers.Dense(4, name="positions")(inputs)
    student = keras.Model(
        inputs, keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling1D()(x))
    )
    contrast = Contrast(student_layer="positions")
    with pytest.raises(ValueError, match="(?s)fixed size.*after a pooling"):
        CRD(student, student, contrast=contrast, num_samples=SAMPLES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "negatives"),
        ({"temperature": 0}, "temperature"),
        ({"momentum": 1.0}, "momentum"),
        ({"size": 0}, "size"),
    ],
)
def test_invalid_settings_are_rejected(options, message):
    with pytest.raises(ValueError, match=f"(?s){message}.*Received.*Expected"):
        Contrast(**options)


def test_a_contrast_and_a_temperature_of_prokt_are_rejected_together():
    with pytest.raises(ValueError, match="temperature of its own"):
        ProKT(network(3), network(6), temperature=2.0, contrast=Contrast())


def test_a_low_temperature_gives_a_finite_loss():
    model = compiled(made(temperature=0.002, size=128))
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_one_contrast_in_two_models_gives_each_its_memories():
    contrast = Contrast(negatives=3, size=4)
    models = [CRD(network(3), network(6), contrast=contrast, num_samples=SAMPLES) for _ in range(2)]
    for model in models:
        compiled(model).fit(X, Y, verbose=0)
    first, second = (model.contrast.student_memory for model in models)
    assert first is not second
    assert not contrast.built
