"""A training that is killed anywhere and started again ends as an uninterrupted one.

`KERAS_LSTSD_KILLS=5 pytest -m slow tests/test_kills.py` kills each method five times, variants
that differ in settings included; without that variable each method is killed twice.
"""

import os
import time

import numpy as np
import pytest

from recipes.methods import METHODS
from tests.conftest import on_tensorflow
from tests.kills import (
    Kill,
    assert_resumed_run_equals_uninterrupted_run,
    assert_same_end,
    finish,
    killed,
    killed_after,
    start,
    train_chain,
    train_tiny_bert,
    two_folders,
)
from tests.models import CHOSEN, NAMES

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KERAS_LSTSD_KILLS", 0))
# The memories and networks of the others are among those of these.
MOST = [name for name in NAMES if name not in ("vanilla", "crd", "feature_matching", "elr")]
TRAINED = METHODS if KILLS else [*MOST, "crd_prokt"] if on_tensorflow else ["lstsd"]
RUNS = [(name, True if on_tensorflow and name in CHOSEN else "auto") for name in TRAINED]


@pytest.mark.parametrize(("name", "jit_compile"), RUNS)
def test_a_killed_training_ends_as_an_uninterrupted_one(name, jit_compile, tmp_path):
    kills = KILLS or 2
    seed = 1000 * list(METHODS).index(name) + (jit_compile is True)
    count = assert_resumed_run_equals_uninterrupted_run(name, jit_compile, kills, seed, tmp_path)
    assert count >= kills


@pytest.mark.parametrize("part", [0.0, 0.8])
def test_a_stored_teacher_that_is_killed_while_it_is_asked_is_asked_again(part, tmp_path):
    whole, resumed = two_folders(tmp_path)
    finish("stored_teacher", "auto", whole, 0, None, {})
    assert killed("stored_teacher", "auto", resumed, 0, Kill("storing", 0, part), {})
    finish("stored_teacher", "auto", resumed, 0, None, {})
    assert_same_end(whole, resumed)


@pytest.mark.parametrize(
    "train", [train_chain, pytest.param(train_tiny_bert, marks=pytest.mark.tensorflow)]
)
def test_a_training_of_two_stages_killed_at_random_ends_as_an_uninterrupted_one(train, tmp_path):
    whole, resumed = two_folders(tmp_path)
    began = time.monotonic()
    finish(whole, target=train)
    duration = time.monotonic() - began
    draw = np.random.default_rng(KILLS)
    count = 0
    for _ in range(KILLS or 2):
        (resumed / "began").unlink(missing_ok=True)
        process = start(resumed, target=train)
        count += killed_after(draw.uniform(0, duration / 2), process, resumed)
    finish(resumed, target=train)
    assert count > 0
    assert_same_end(whole, resumed)
