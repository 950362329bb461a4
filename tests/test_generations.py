"""Chains of generations, and the ensemble of their students."""

import keras
import numpy as np
import pytest

from keras_lstsd import KnowledgeDistillation, TolerantTeacher
from keras_lstsd.generations import Ensemble, train
from tests import oracles
from tests.methods.linear import (
    BATCH,
    CLASSES,
    FEATURES,
    RATE,
    SAMPLES,
    linear_student,
    problem,
)
from tests.models import slow

X, Y = problem()
EPOCHS = 4
from_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# === Chains ===


def start(generation):
    """The weights with which a generation starts."""
    draw = np.random.default_rng(generation)
    return [draw.normal(size=(FEATURES, CLASSES)), draw.normal(size=CLASSES)]


def make_linear(generation, students):
    student = linear_student()
    student.set_weights(start(generation))
    if generation == 0:
        model = TolerantTeacher(student, eta=0.6, top_k=3)
    else:
        model = KnowledgeDistillation(student, students[-1], alpha=0.4, temperature=1.5)
    model.compile(keras.optimizers.SGD(RATE), from_logits)
    return model


def fit(model, callbacks, **options):
    settings = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0} | options
    model.fit(X, Y, callbacks=callbacks, **settings)


def test_a_chain_of_two_generations_follows_the_simulation(tmp_path):
    """A tolerant teacher, whose student teaches by knowledge distillation."""
    seen = ([], [])

    def make(generation, students):
        assert len(students) == generation
        model = make_linear(generation, students)
        look = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen[generation].append(
                (model.student.get_weights(), logs)
            )
        )
        model.look = look
        return model

    def fit_and_look(model, callbacks):
        fit(model, [*callbacks, model.look], shuffle=False)

    students = train(tmp_path, make, fit_and_look, generations=2)
    batches = [[np.arange(i, min(i + BATCH, SAMPLES)) for i in range(0, SAMPLES, BATCH)]] * EPOCHS
    starts = [[w.astype("float32") for w in start(generation)] for generation in range(2)]
    expected = oracles.two_generations(
        X, Y, batches, *starts, RATE, eta=0.6, top_k=3, alpha=0.4, temperature=1.5
    )
    for found, simulated in zip(seen, expected, strict=True):
        for (weights, logs), oracle in zip(found, simulated, strict=True):
            np.testing.assert_allclose(weights[0], oracle.kernel, atol=1e-5)
            np.testing.assert_allclose(weights[1], oracle.bias, atol=1e-5)
            for name, value in oracle.logs.items():
                np.testing.assert_allclose(logs[name], value, atol=1e-5, err_msg=name)
    for student, simulated in zip(students, expected, strict=True):
        np.testing.assert_allclose(student.get_weights()[0], simulated[-1].kernel, atol=1e-5)


def make_deep(generation, students):
    """With dropout, BatchNorm and a shuffled order, all of which draw or keep states."""
    student = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(6, "tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(CLASSES, "softmax"),
        ]
    )
    if generation == 0:
        model = TolerantTeacher(student, top_k=3)
    else:
        model = KnowledgeDistillation(student, students[-1], alpha=0.4, temperature=1.0)
    # XLA takes longest, and the chain's repetitions compile a program each.
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    return model


class Interrupt(keras.callbacks.Callback):
    """Raises KeyboardInterrupt where an epoch starts."""

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise KeyboardInterrupt


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), make_deep, fit, generations=2, seed=5)


@pytest.mark.parametrize(("generation", "epoch"), [(1, 1), slow(0, 2), slow(1, 0)])
def test_an_interrupted_chain_resumes_with_the_same_call(
    tmp_path, uninterrupted, generation, epoch
):
    trained = []

    def make(number, students):
        trained.append(number)
        return make_deep(number, students)

    def interrupted(model, callbacks):
        stop = [Interrupt(epoch)] if trained[-1] == generation else []
        fit(model, [*callbacks, *stop])

    keras.utils.set_random_seed(31)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, make, interrupted, generations=2, seed=5)
    assert trained == list(range(generation + 1))
    keras.utils.set_random_seed(32)
    epochs = []
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    students = train(
        tmp_path, make, lambda model, callbacks: fit(model, [*callbacks, count]), 2, seed=5
    )
    assert trained == [*range(generation + 1), *range(generation, 2)]
    assert epochs == [*range(epoch, EPOCHS), *list(range(EPOCHS)) * (1 - generation)]
    assert_same(students, uninterrupted)


def test_a_finished_chain_is_not_trained_again_and_can_be_longer(tmp_path, uninterrupted):
    train(tmp_path, make_deep, fit, generations=1, seed=5)
    trained = []

    def make(generation, students):
        trained.append(generation)
        return make_deep(generation, students)

    assert_same(train(tmp_path, make, fit, generations=1, seed=5), uninterrupted[:1])
    assert trained == []
    assert_same(train(tmp_path, make, fit, generations=2, seed=5), uninterrupted)
    assert trained == [1]


def test_other_seeds_give_other_students(tmp_path, uninterrupted):
    (student,) = train(tmp_path, make_deep, fit, generations=1, seed=6)
    assert np.abs(student.get_weights()[0] - uninterrupted[0].get_weights()[0]).max() > 1e-3


def test_less_than_one_generation_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="generations=0"):
        train(tmp_path, make_deep, fit, generations=0)


# === Ensembles ===


def networks(units, activations):
    """Linear networks and their logits for X."""
    found, logits = [], []
    draw = np.random.default_rng(2)
    for activation in activations:
        dense = keras.layers.Dense(units, activation)
        inputs = keras.Input((FEATURES,))
        network = keras.Model(inputs, dense(inputs))
        kernel, bias = 2 * draw.normal(size=(FEATURES, units)), draw.normal(size=units)
        network.set_weights([kernel, bias])
        found.append(network)
        logits.append(X.astype("float64") @ kernel + bias)
    return found, np.array(logits)


@pytest.mark.parametrize(
    "activations", [(None, None), ("softmax", "softmax"), (None, "softmax", None), (None,)]
)
def test_an_ensemble_predicts_the_mean_of_softmaxes(activations):
    students, logits = networks(CLASSES, activations)
    found = Ensemble(students).predict(X, verbose=0)
    expected = oracles.ensemble(oracles.softmax(logits))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("activations", [("sigmoid", "sigmoid"), (None, "sigmoid")])
def test_an_ensemble_of_one_unit_students_predicts_the_mean_probability(activations):
    students, logits = networks(1, activations)
    found = Ensemble(students).predict(X, verbose=0)
    assert found.shape == (SAMPLES, 1)
    np.testing.assert_allclose(found, oracles.ensemble(1 / (1 + np.exp(-logits))), atol=1e-6)


def test_an_ensemble_of_sequential_students_predicts_the_mean_of_softmaxes():
    students = [linear_student(), linear_student()]
    logits = [student.predict(X, verbose=0) for student in students]
    expected = oracles.ensemble(oracles.softmax(np.array(logits, "float64")))
    np.testing.assert_allclose(Ensemble(students).predict(X, verbose=0), expected, atol=1e-6)


def test_methods_stand_for_their_students():
    students, _ = networks(CLASSES, (None, None))
    methods = [TolerantTeacher(student, top_k=2) for student in students]
    np.testing.assert_array_equal(
        Ensemble(methods).predict(X, verbose=0), Ensemble(students).predict(X, verbose=0)
    )


@pytest.mark.parametrize(
    ("units", "activations"), [(CLASSES, (None, "softmax")), (1, (None, "sigmoid"))]
)
def test_a_saved_ensemble_gives_the_same_outputs(tmp_path, units, activations):
    students, _ = networks(units, activations)
    ensemble = Ensemble(students, name="together")
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert isinstance(loaded, Ensemble)
    assert loaded.name == "together"
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), ensemble.predict(X, verbose=0))


def test_an_ensemble_is_evaluated():
    students, logits = networks(CLASSES, (None, "softmax"))
    ensemble = Ensemble(students)
    ensemble.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    found = ensemble.evaluate(X, Y, verbose=0, return_dict=True)
    p = oracles.ensemble(oracles.softmax(logits))
    np.testing.assert_allclose(found["loss"], -np.log(p[range(SAMPLES), Y]).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], np.mean(p.argmax(-1) == Y), atol=1e-6)


def test_an_ensemble_teaches():
    """As a network whose logits are the ln of the mean probabilities."""
    students, logits = networks(CLASSES, (None, "softmax"))
    mean = np.log(oracles.ensemble(oracles.softmax(logits)))
    student = linear_student()
    weights = student.get_weights()
    model = KnowledgeDistillation(student, Ensemble(students), alpha=0.8, temperature=2.0)
    model.compile(keras.optimizers.SGD(RATE), from_logits)
    model.fit(X, Y, batch_size=SAMPLES, epochs=2, shuffle=False, verbose=0)
    expected = oracles.knowledge_distillation(
        X, Y, [[np.arange(SAMPLES)]] * 2, *weights, RATE, mean, alpha=0.8, temperature=2.0
    )
    np.testing.assert_allclose(student.get_weights()[0], expected[-1].kernel, atol=1e-5)


def test_no_students_and_other_classes_are_rejected():
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])
    students = [networks(units, (None,))[0][0] for units in (3, 4)]
    with pytest.raises(ValueError, match=r"outputs of \[\(3,\), \(4,\)\]"):
        Ensemble(students)
