import pytest

from keras_lstsd import SnapshotDistillation
from tests import oracles
from tests.methods.linear import GENERATION, follow, linear_student, weights_of


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("student_weight", [1.0, 0.7])
def test_training_follows_the_simulation(jit_compile, student_weight):
    follow(
        oracles.snapshot_distillation,
        SnapshotDistillation,
        lambda model: weights_of(model.snapshot),
        jit_compile,
        mini_generation_epochs=GENERATION,
        student_weight=student_weight,
        teacher_weight=1.5,
        temperature=3.0,
    )


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="teacher_weight=-2"):
        SnapshotDistillation(linear_student(), teacher_weight=-2)
