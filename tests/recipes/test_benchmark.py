import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.loading import load

benchmark = load("benchmark")


def test_candidates_are_measured_in_turn_after_a_round_to_warm_up():
    calls = []
    figures = benchmark.in_turn(
        {name: (lambda name=name: calls.append(name) or len(calls)) for name in "ab"}, rounds=2
    )
    assert calls == ["a", "b"] * 3
    assert figures == {"a": [3, 5], "b": [4, 6]}


def test_a_ratio_is_to_plain_right_before_and_after():
    times = iter([1.0, 4.0, 3.0, 8.0, 5.0])
    candidates = {"a": lambda: next(times), "b": lambda: next(times)}
    ratios, figures = benchmark.between_plain(candidates, lambda: next(times), rounds=1)
    assert ratios == {"a": [4.0 / 2.0], "b": [8.0 / 4.0]}
    assert figures == [1.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("n", "ranks"), [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (11, (2, 10)), (25, (8, 18))]
)
def test_the_interval_of_a_median_is_the_sign_tests(n, ranks):
    """The ranks of tables of the sign test, e.g. Conover, Practical Nonparametric Statistics."""
    values = list(range(n, 0, -1))
    assert benchmark.median_interval(values) == ranks


@pytest.mark.parametrize("what", ["step", "compile", "edge"])
def test_a_table_with_a_row_for_each_setting(what, tmp_path):
    command = [sys.executable, "-m", "recipes.benchmark", f"--what={what}", "--student=mlp"]
    command += ["--method=lstsd,distiller", "--rounds=1", "--steps_per_execution=2", "--xla=off"]
    subprocess.run([*command, f"--output_dir={tmp_path}"], check=True, capture_output=True)
    lines = Path(tmp_path / f"{what}-tensorflow.md").read_text().splitlines()
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].split("|")[1].strip() == ("lstsd" if what == "edge" else "mlp")


def test_tokenising_stands_beside_training(tmp_path):
    command = [sys.executable, "-m", "recipes.benchmark", "--what=text", "--rounds=1"]
    command += ["--samples=1280", f"--output_dir={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True)
    lines = Path(tmp_path / "text-tensorflow.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows][:3] == [
        "training, batches cut",
        "training, batches padded",
        "tokenising",
    ]
    assert rows[0][3] == "1.000 (1.000-1.000)"
    cut, padded = (int(row[4].strip(" %")) for row in rows[:2])
    assert 0 < cut < padded < 100
