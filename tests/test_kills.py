"""A training that is killed anywhere and started again ends as an uninterrupted one.

`KERAS_LSTSD_KILLS=5 pytest -m slow tests/test_kills.py` kills five times each method with and
without XLA; without that variable each method is killed twice.
"""

import os

import pytest

from recipes.methods import METHODS
from tests.conftest import on_tensorflow
from tests.kills import assert_resumed_run_equals_uninterrupted_run
from tests.models import NAMES

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KERAS_LSTSD_KILLS", 0))
if KILLS:
    RUNS = [(name, jit) for name in METHODS for jit in ("auto", True)]
elif on_tensorflow:
    RUNS = [(name, ("auto", True)[number % 2]) for number, name in enumerate(NAMES)]
else:
    RUNS = [("lstsd", "auto")]


@pytest.mark.parametrize(("name", "jit_compile"), RUNS)
def test_a_killed_training_ends_as_an_uninterrupted_one(name, jit_compile, tmp_path):
    kills = KILLS or 2
    seed = 1000 * list(METHODS).index(name) + (jit_compile is True)
    count = assert_resumed_run_equals_uninterrupted_run(name, jit_compile, kills, seed, tmp_path)
    assert count >= kills
