import functools

import keras
import numpy as np
import pytest

from keras_lstsd import KnowledgeDistillation
from keras_lstsd.data import with_sample_index
from tests import oracles
from tests.methods.linear import (
    BATCH,
    CLASSES,
    FEATURES,
    RATE,
    SAMPLES,
    Given,
    follow,
    identity_student,
    irregular_batches,
    linear_student,
    nothing,
    one_step,
    problem,
)
from tests.models import slow

X, Y = problem()
SETTINGS = {"alpha": 0.7, "temperature": 3.0}
STORED = {"stored": True, "table_dtype": "float32", "num_samples": SAMPLES}
from_logits = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)


def linear_teacher(activation=None, features=FEATURES):
    """A teacher that differs from the students, and its logits for the given features."""
    network = keras.Sequential(
        [keras.Input((features,)), keras.layers.Dense(CLASSES, activation=activation)]
    )
    draw = np.random.default_rng(8)
    kernel, bias = 2 * draw.normal(size=(features, CLASSES)), draw.normal(size=CLASSES)
    network.set_weights([kernel, bias])
    return network, lambda x: x.astype("float64") @ kernel + bias


def compare(teacher, logits, jit_compile, weights=None, kept=None, **settings):
    before = teacher.get_weights()
    expected = follow(
        oracles.knowledge_distillation,
        KnowledgeDistillation,
        nothing,
        jit_compile,
        simulated=SETTINGS | {"teacher": logits, "kept": kept},
        weights=weights,
        **SETTINGS,
        teacher=teacher,
        **settings,
    )
    for found, weight in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, weight)
    return expected


@pytest.mark.parametrize(
    ("jit_compile", "activation", "settings"),
    [
        (False, None, {}),
        (False, "softmax", {}),
        (True, None, {}),
        (False, None, STORED),
        (False, "softmax", STORED),
        slow(True, None, STORED),
    ],
)
def test_training_follows_the_simulation(jit_compile, activation, settings):
    """Stored answers are those of the live teacher."""
    teacher, logits = linear_teacher(activation)
    expected = compare(teacher, logits(X), jit_compile, **settings)
    assert expected[0].logs["teacher_coverage"] == 1


@pytest.mark.parametrize("settings", [{}, STORED])
def test_the_teacher_can_have_inputs_of_its_own(settings):
    teacher, logits = linear_teacher(features=2)
    compare(teacher, logits(X[:, 3:]), False, teacher_inputs=lambda x: x[:, 3:], **settings)


def test_a_sample_that_the_first_epoch_skips_has_no_stored_teacher():
    """Its loss is the compiled one, in full."""
    teacher, logits = linear_teacher()
    rows = np.where(np.arange(SAMPLES)[:, None] == 7, np.nan, logits(X))
    skips_7, *_, has_all = irregular_batches()[3:]
    expected = compare(teacher, rows, False, batches=[skips_7, has_all], **STORED)
    coverage = [epoch.logs["teacher_coverage"] for epoch in expected]
    assert coverage == [1.0, 1 - 1 / SAMPLES]


@pytest.mark.parametrize("settings", [{}, STORED])
def test_sample_weights_apply_to_both_parts_of_the_loss(settings):
    teacher, logits = linear_teacher()
    weights = np.linspace(0, 3, SAMPLES).astype("float32")
    compare(teacher, logits(X), False, weights=weights, **settings)


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
def test_stored_rows_of_k_classes_teach_these_and_the_mass_of_the_rest(jit_compile):
    """Kept as float16; the simulation takes the rows ln p of the table, which are those at T."""
    teacher, logits = linear_teacher()
    settings = {"stored": True, "top_k": 2}
    model = KnowledgeDistillation(
        linear_student(), teacher, **SETTINGS, **settings, num_samples=SAMPLES
    )
    model.compile(keras.optimizers.SGD(0.0), from_logits())
    model.fit(X, Y, batch_size=BATCH, verbose=0)
    rows, known = model.teacher_rows.read(np.arange(SAMPLES))
    assert keras.ops.convert_to_numpy(known).all()
    temperature = SETTINGS["temperature"]
    p = oracles.softmax(logits(X) / temperature)
    kept = oracles.kept_classes(p, 2)
    expected = oracles.shared_rest(p, kept, np.ones_like(p))
    assert np.abs(expected - p).max() > 0.02
    rows = keras.ops.convert_to_numpy(rows)
    np.testing.assert_allclose(np.exp(rows), expected, atol=2e-3)
    rows = temperature * rows.astype("float64")
    compare(teacher, rows, jit_compile, kept=kept, num_samples=SAMPLES, **settings)


@pytest.mark.parametrize("top_k", [CLASSES, CLASSES + 3])
def test_as_many_kept_classes_as_there_are_keep_the_whole_row(top_k):
    teacher, logits = linear_teacher()
    model = KnowledgeDistillation(
        linear_student(), teacher, **SETTINGS, stored=True, top_k=top_k, num_samples=SAMPLES
    )
    model.compile(keras.optimizers.SGD(0.0), from_logits())
    model.fit(X, Y, batch_size=BATCH, verbose=0)
    found = keras.ops.exp(model.teacher_rows.read(np.arange(SAMPLES))[0])
    expected = oracles.softmax(logits(X) / SETTINGS["temperature"])
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_step_has_the_losses_gradient_at_extreme_logits():
    """alpha T^2 (softmax(s / T) - softmax(t / T)) / T, and (1 - alpha) (softmax(s) - onehot)."""
    student = np.array([[40, -40, 0, 3], [0, 0, 0, 0], [-5, 2, 9, 1]])
    teacher, labels = np.array([[-40, 40, 5, 0], [9, 0, 1, -30], [0, 0, 0, 0]]), [0, 1, 2]
    given = identity_student(3)
    given.set_weights([teacher])
    model = KnowledgeDistillation(identity_student(3), given, alpha=0.6, temperature=4.0)
    logs, gradient = one_step(model, student, labels)
    q, p = oracles.softmax(student / 4), oracles.softmax(teacher / 4)
    hard = oracles.softmax(student) - np.eye(CLASSES)[labels]
    np.testing.assert_allclose(gradient, 0.4 * hard + 0.6 * 4 * (q - p), atol=1e-4)
    soft = -(p * oracles.log_softmax(student / 4)).sum(-1)
    np.testing.assert_allclose(logs["distillation_loss"], [0.6 * 16 * soft.mean()], rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_it_trains_as_the_distiller_of_keras(alpha):
    """On common ground: no regularizers, no sample weights, logits on both sides.

    With the name "kl_divergence", which is its default, Keras 3.15 compares logits with the
    formula for probabilities, and leaves out T^2; with the loss object it has softmax and T^2.
    """
    teacher, _ = linear_teacher()
    loss = keras.losses.KLDivergence()
    start = linear_student().get_weights()
    found = []
    for ours in (True, False):
        student = linear_student()
        student.set_weights(start)
        if ours:
            model = KnowledgeDistillation(student, teacher, alpha=alpha, temperature=2.5)
        else:
            model = keras.distillation.Distiller(
                teacher=teacher,
                student=student,
                distillation_losses=keras.distillation.LogitsDistillation(2.5, loss),
                student_loss_weight=1 - alpha,
            )
        model.compile(keras.optimizers.SGD(RATE, momentum=0.9), from_logits())
        model.fit(X, Y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0)
        found.append(student.get_weights())
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert np.abs(found[0][0] - start[0]).max() > 0.1


def test_a_later_training_of_the_teacher_does_not_change_it():
    teacher, _ = linear_teacher()
    weights = teacher.get_weights()
    start = linear_student().get_weights()
    found = []
    for changed in (False, True):
        teacher.set_weights(weights)
        student = linear_student()
        student.set_weights(start)
        model = KnowledgeDistillation(student, teacher)
        model.compile(keras.optimizers.SGD(RATE), from_logits())
        model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
        if changed:
            teacher.set_weights([2 * w for w in weights])
        model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
        found.append(student.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_teacher_of_other_classes_is_rejected():
    teacher = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES - 1)])
    model = KnowledgeDistillation(linear_student(), teacher)
    model.compile("sgd", from_logits())
    with pytest.raises(ValueError, match="classes do not match"):
        model.fit(X, Y, verbose=0)


@pytest.mark.tensorflow
def test_a_stored_teacher_is_asked_once_per_sample_of_a_data_set_that_repeats():
    import tensorflow as tf

    found = []
    for repeated in (False, True):
        keras.utils.set_random_seed(0)
        model = KnowledgeDistillation(linear_student(), linear_student(), **SETTINGS, **STORED)
        model.compile("sgd", from_logits())
        data = with_sample_index(tf.data.Dataset.from_tensor_slices((X, Y))).batch(BATCH)
        data = data.repeat() if repeated else data
        model.fit(data, epochs=2, steps_per_epoch=-(-SAMPLES // BATCH) if repeated else None)
        found.append(model.get_weights())
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def batches(index):
    return Given(X, Y, [[index]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (batch for batch in batches(np.arange(SAMPLES))), "only once.*Received: x=gen"),
        (lambda: batches(np.arange(SAMPLES) - 1), "Received: sample indices from -1 to"),
    ],
)
def test_data_of_which_a_teacher_cannot_be_asked_is_rejected(make, message):
    model = KnowledgeDistillation(linear_student(), linear_student(), **SETTINGS, **STORED)
    model.compile("sgd", from_logits())
    with pytest.raises(ValueError, match=message):
        model.fit(make(), shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, "alpha=1.5. Expected: from 0 to 1"),
        ({"temperature": 0.0}, "temperature=0.0. Expected: above 0"),
        ({"stored": True, "top_k": 0}, "top_k=0. Expected"),
        ({"stored": True, "table_dtype": "int8"}, "'int8'. Expected"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        KnowledgeDistillation(linear_student(), linear_student(), **arguments)
