import numpy as np
import pytest

from keras_lstsd import PSKD
from tests import oracles
from tests.methods.linear import (
    EPOCHS,
    SAMPLES,
    follow,
    identity_student,
    linear_student,
    one_step,
    rows_of,
)
from tests.models import slow


def memory(model):
    return {name: np.exp(rows_of(getattr(model, name))) for name in ("previous", "pending")}


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
def test_training_follows_the_simulation(jit_compile):
    """Of one fit of 6 epochs; a sample drawn twice in an epoch, one skipped and one never drawn."""
    expected = follow(oracles.ps_kd, PSKD, memory, jit_compile, final_alpha=0.8)
    assert [epoch.logs["teacher_coverage"] for epoch in expected] == [0.0] + [1.0] * (EPOCHS - 1)
    assert np.isnan(expected[-1].memory["pending"][SAMPLES - 1]).all()


def test_a_sample_without_a_row_has_the_compiled_loss_only():
    """Also with the largest share: a first epoch that is the last one has a = final_alpha."""
    logits = np.random.default_rng(1).normal(size=(5, 4))
    labels = np.arange(5) % 4
    model = PSKD(identity_student(5), num_samples=5, final_alpha=1.0)
    logs, gradient = one_step(model, logits, labels)
    value, slope = oracles.cross_entropy(logits, labels)
    assert (logs["distillation_loss"], logs["teacher_coverage"]) == ([0.0], [0.0])
    np.testing.assert_allclose(logs["loss"], [value.mean()], atol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)


@pytest.mark.parametrize("final_alpha", [-0.1, 1.1])
def test_invalid_arguments_are_rejected(final_alpha):
    with pytest.raises(ValueError, match=f"final_alpha={final_alpha}"):
        PSKD(linear_student(), SAMPLES, final_alpha=final_alpha)
