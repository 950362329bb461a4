import keras
import numpy as np
import pytest

from keras_lstsd import ProKT
from tests import oracles
from tests.methods.linear import (
    BATCH,
    CLASSES,
    FEATURES,
    RATE,
    SAMPLES,
    follow,
    linear_student,
    problem,
)
from tests.models import slow

X, Y = problem()
MOMENTUM, TEACHER_RATE = 0.9, 0.05
SETTINGS = {"projection": 0.4, "alpha": 0.7, "temperature": 2.0}


def linear_teacher(l2=0.0, activation=None):
    regularizer = keras.regularizers.L2(l2) if l2 else None
    dense = keras.layers.Dense(CLASSES, activation, kernel_regularizer=regularizer)
    network = keras.Sequential([keras.Input((FEATURES,)), dense])
    network.set_weights([np.random.default_rng(8).normal(size=w.shape) for w in network.weights])
    return network


def compare(jit_compile, l2=0.0, activation=None, weights=None, **changed):
    """Weights of both networks, after every epoch."""
    teacher, settings = linear_teacher(l2, activation), SETTINGS | changed
    start = teacher.get_weights()

    def memory(model):
        kernel, bias = teacher.get_weights()
        return {"teacher_kernel": kernel, "teacher_bias": bias}

    expected = follow(
        oracles.prokt,
        ProKT,
        memory,
        jit_compile,
        simulated=settings
        | {"teacher": start, "teacher_rate": TEACHER_RATE, "momentum": MOMENTUM, "l2": l2},
        weights=weights,
        compiled={
            "optimizer": keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            "teacher_optimizer": keras.optimizers.SGD(TEACHER_RATE, momentum=MOMENTUM),
        },
        **settings,
        teacher=teacher,
    )
    assert np.abs(expected[-1].memory["teacher_kernel"] - start[0]).max() > 0.1
    return expected


@pytest.mark.parametrize(
    ("jit_compile", "projection"), [(False, 0.0), (False, 0.4), (True, 0.4), slow(True, 0.0)]
)
def test_training_follows_a_simulation_of_algorithm_1(jit_compile, projection):
    compare(jit_compile, projection=projection)


def test_a_softmax_teacher_is_trained_as_one_of_logits():
    compare(False, activation="softmax")


def test_the_teachers_regularizer_is_part_of_its_loss_only():
    compare(False, l2=0.05)


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
def test_sample_weights_apply_to_both_networks(jit_compile):
    compare(jit_compile, weights=np.linspace(0, 3, SAMPLES).astype("float32"))


def one_epoch(teacher, **options):
    student = linear_student()
    student.set_weights([np.full(w.shape, 0.1) for w in student.weights])
    model = ProKT(student, teacher, **SETTINGS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, **options)
    model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
    return student.get_weights() + teacher.get_weights()


def test_without_a_teacher_optimizer_it_has_a_copy_of_the_students():
    found = one_epoch(linear_teacher())
    expected = one_epoch(linear_teacher(), teacher_optimizer=keras.optimizers.SGD(RATE))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"projection": -0.1}, "projection=-0.1. Expected: from 0 to 1"),
        ({"alpha": 1.5}, "alpha=1.5. Expected: from 0 to 1"),
        ({"temperature": 0.0}, "temperature=0.0. Expected: above 0"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProKT(linear_student(), linear_teacher(), **arguments)
