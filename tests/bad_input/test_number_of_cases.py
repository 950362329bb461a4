"""The number of generated cases."""

import importlib
from pathlib import Path

from tests.bad_input.cases import GENERATED


def test_at_least_1390_cases_are_generated():
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.bad_input.{path.stem}")
    assert sum(GENERATED.values()) >= 1390
