"""Interruption is boring: a training that is killed anywhere ends as if it had not been.

`KERAS_LSTSD_KILLS=5 pytest tests/test_kills.py` kills five times each method with and without
XLA; the suite itself takes a sample.
"""

import os

import pytest

from keras_lstsd.methods.registry import METHODS
from tests.conftest import on_tensorflow
from tests.kills import assert_resumed_runs_equal_one_that_went_through

KILLS = int(os.environ.get("KERAS_LSTSD_KILLS", 0))
if KILLS:
    RUNS = [(name, jit) for name in METHODS for jit in ("auto", True)]
elif on_tensorflow:
    RUNS = [(name, ("auto", True)[number % 2]) for number, name in enumerate(METHODS)]
else:
    RUNS = [("lstsd", "auto")]


@pytest.mark.parametrize(("name", "jit_compile"), RUNS)
def test_a_killed_training_ends_as_if_it_had_not_been(name, jit_compile, tmp_path):
    kills = KILLS or 2
    seed = 1000 * list(METHODS).index(name) + (jit_compile is True)
    count = assert_resumed_runs_equal_one_that_went_through(
        name, jit_compile, kills, seed, tmp_path
    )
    assert count >= kills
