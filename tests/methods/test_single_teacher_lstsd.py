import pytest

from keras_lstsd import SingleTeacherLSTSD
from tests import oracles
from tests.methods.linear import GENERATION, follow, weights_of


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kl", ["reverse", "forward"])
def test_training_follows_the_simulation(jit_compile, kl):
    settings = {
        "mini_generation_epochs": GENERATION,
        "long_weight": 2.4,
        "short_weight": 4.0,
        "temperature": 2.0,
    }
    follow(
        oracles.single_teacher,
        SingleTeacherLSTSD,
        lambda m: weights_of(m.short_term, "short_") | weights_of(m.long_term, "long_"),
        jit_compile,
        simulated=settings | {"direction": kl},
        **settings,
        kl=kl,
    )
