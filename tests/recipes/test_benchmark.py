import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.loading import load

benchmark = load("benchmark")


def test_candidates_are_measured_once_a_round_in_an_order_of_its_own():
    calls = []
    figures = benchmark.in_turn(
        {name: (lambda name=name: calls.append(name) or len(calls)) for name in "abc"}, rounds=20
    )
    rounds = list(zip(*[iter(calls)] * 3, strict=True))
    assert {tuple(sorted(names)) for names in rounds} == {("a", "b", "c")}
    assert len(rounds) == 21
    assert len(set(rounds)) > 3
    for name, values in figures.items():
        # The first round is not counted: it warms up.
        assert values == [1 + n for n, call in enumerate(calls) if call == name][1:]


def test_a_ratio_is_to_plain_of_the_same_round():
    row = benchmark.ratios_row([[2.0, 4.0, 5.0], [3.0, 4.0, 10.0]], unit=0.5)
    assert row == ["8.00", "1.500 (1.000-2.000)"]


def test_a_turn_times_no_step_after_a_pause_or_an_edge(monkeypatch):
    now, steps = [0.0], 5
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])

    class Training:
        """Steps take a second; the first after a pause ten, the first of an epoch a hundred."""

        stop_training = paused = False

        def fit(self, x, batch_size, epochs, verbose, callbacks):
            (callback,) = callbacks
            callback.set_model(self)
            for epoch in range(epochs):
                callback.on_epoch_begin(epoch)
                for batch in range(steps):
                    now[0] += 100 if batch == 0 else 10 if self.paused else 1
                    self.paused = False
                    callback.on_train_batch_end(batch, {"loss": 1.0})
                    if self.stop_training:
                        return

    training = Training()
    turn = benchmark.Turns(2, training, None, batch_size=1)
    figures = []
    for _ in range(6):
        figures.append(turn())
        training.paused = True
    turn.end()
    assert figures == [1.0] * 6


def test_a_step_in_which_the_machine_was_away_counts_as_one_of_many(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])

    class Training:
        stop_training = False

        def fit(self, x, batch_size, epochs, verbose, callbacks):
            (callback,) = callbacks
            callback.set_model(self)
            callback.on_epoch_begin(0)
            for batch in range(3, 10**6, 4):  # as of four steps an execution
                now[0] += 800 if batch % 5 == 0 else 8
                callback.on_train_batch_end(batch, {"loss": 1.0})
                if self.stop_training:
                    return

    turn = benchmark.Turns(20, Training(), None, batch_size=1)
    figures = [turn() for _ in range(6)]
    turn.end()
    assert figures == [2.0] * 6


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
