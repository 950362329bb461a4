import numpy as np
import pytest

from keras_lstsd import TemporalEnsembling
from tests import oracles
from tests.methods.linear import SAMPLES, follow, linear_student
from tests.models import slow

MOMENTUM = 0.6


def memory(model):
    """Z and k: the table stores ln(Z / (1 - a^k))."""
    updates = model.ensemble.updates.numpy()[:SAMPLES]
    rows, known = model.ensemble.numpy()
    z = np.where(known[:, None], np.exp(rows), 0) * (1 - MOMENTUM ** updates[:, None])
    return {"ensemble": z, "updates": updates}


@pytest.mark.parametrize(
    ("jit_compile", "kl"),
    [(False, "reverse"), (False, "forward"), (True, "reverse"), slow(True, "forward")],
)
def test_training_follows_the_simulation(jit_compile, kl):
    settings = {"momentum": MOMENTUM, "weight": 3.0, "temperature": 2.0}
    follow(
        oracles.temporal_ensembling,
        TemporalEnsembling,
        memory,
        jit_compile,
        simulated=settings | {"direction": kl},
        **settings,
        kl=kl,
    )


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
def test_a_ramp_raises_the_weight(jit_compile):
    settings = {"momentum": MOMENTUM, "weight": 3.0, "temperature": 2.0, "ramp": 4}
    follow(
        oracles.temporal_ensembling,
        TemporalEnsembling,
        memory,
        jit_compile,
        simulated=settings | {"direction": "reverse"},
        **settings,
    )


def test_a_squared_error_follows_the_simulation():
    settings = {"momentum": MOMENTUM, "weight": 30.0, "temperature": 1.0, "ramp": 4}
    follow(
        oracles.temporal_ensembling,
        TemporalEnsembling,
        memory,
        True,
        simulated=settings | {"direction": "reverse", "loss": "mse"},
        **settings,
        divergence="mse",
    )


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="divergence='l1'. Expected: 'kl' or 'mse'"):
        TemporalEnsembling(linear_student(), SAMPLES, divergence="l1")
    with pytest.raises(ValueError, match="momentum=1.0. Expected: at least 0 and below 1"):
        TemporalEnsembling(linear_student(), SAMPLES, momentum=1.0)
    with pytest.raises(ValueError, match="weight=-1. Expected: at least 0"):
        TemporalEnsembling(linear_student(), SAMPLES, weight=-1)
