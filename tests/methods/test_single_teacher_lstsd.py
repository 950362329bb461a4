import pytest

from keras_lstsd import SingleTeacherLSTSD
from tests import oracles
from tests.methods.linear import LSTSD_SETTINGS, follow, weights_of
from tests.models import slow


@pytest.mark.parametrize(
    ("jit_compile", "kl"),
    [(False, "reverse"), (False, "forward"), (True, "reverse"), slow(True, "forward")],
)
def test_training_follows_the_simulation(jit_compile, kl):
    follow(
        oracles.single_teacher,
        SingleTeacherLSTSD,
        lambda m: weights_of(m.short_term, "short_") | weights_of(m.long_term, "long_"),
        jit_compile,
        simulated=LSTSD_SETTINGS | {"direction": kl},
        **LSTSD_SETTINGS,
        kl=kl,
    )
