import json
import sys
from types import SimpleNamespace

import pytest

from recipes import machine, options, runs, tables

RUNS = [{"method": method, "seed": seed} for seed in range(3) for method in ("vanilla", "lstsd")]
OUTPUT_DIR = "/home/me/results"


def results(tmp_path):
    stored = runs.Results(tmp_path / "a/results.json", {"epochs": 3, "bert": "/data/me/uncased"})
    for run in RUNS:
        stored.add(run, {"score": 10 * (run["method"] == "lstsd") + run["seed"] ** 2})
    return stored


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


@pytest.fixture
def command(monkeypatch):
    """A command line with an absolute path, and the values of the shared flags."""
    flags = [f"--output_dir={OUTPUT_DIR}", "--publish=mine", "--seeds=3"]
    monkeypatch.setattr(sys, "argv", ["digits.py", *flags])
    monkeypatch.setattr(machine.sys.modules["__main__"], "__spec__", SimpleNamespace(name="r.d"))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return "python -m r.d --output_dir=results --seeds=3"


def set_flags(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setattr(options, name, SimpleNamespace(value=value))
        monkeypatch.setattr(tables, name, SimpleNamespace(value=value), raising=False)


def test_a_table_shows_spread_difference_and_the_papers_number(tmp_path):
    table = tables.method_table(results(tmp_path), ["vanilla", "lstsd"], {"vanilla": 1.5})
    rows = cells(table)
    assert rows[0][2] == "accuracy, mean +- std"
    assert rows[2] == ["vanilla", "3", "1.67 +- 2.08", "", "1.50"]
    assert rows[3] == ["lstsd", "3", "11.67 +- 2.08", "+10.00 +- 0.00", ""]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_a_table_shows_likelihood_and_calibration_where_they_were_measured(tmp_path):
    stored = runs.Results(tmp_path / "results.json", {})
    for seed, nll in enumerate((0.5, 1.5)):
        run = {"method": "vanilla", "seed": seed}
        stored.add(run, {"score": 90.0, "nll": nll, "ece": 4.0})
    header, _, row = cells(tables.method_table(stored, ["vanilla"], {}))
    assert header[4:] == ["NLL", "ECE, %", "paper"]
    assert row[4:] == ["1.00 +- 0.71", "4.00 +- 0.00", ""]


def test_rankings_are_compared_with_the_first_methods_loss(tmp_path):
    stored = runs.Results(tmp_path / "results.json", {})
    for seed, (plain, guided) in enumerate([(80.0, 90.0), (82.0, 96.0)]):
        for method, ranking, auc in (
            ("vanilla", "loss after training", plain),
            ("lstsd", "tables", guided),
        ):
            figures = {ranking: {"auc": auc, "precision": auc - 10}}
            stored.add({"method": method, "seed": seed}, {"score": 1.0, "detection": figures})
    rows = cells(tables.detection_table(stored, ["vanilla", "lstsd"]))[2:]
    assert [row[:2] for row in rows] == [["vanilla", "loss after training"], ["lstsd", "tables"]]
    assert rows[1][2:] == ["93.00 +- 4.24", "+12.00 +- 2.00", "83.00 +- 4.24", "+12.00 +- 2.00"]


def test_a_page_begins_with_command_machine_versions_and_date(tmp_path, command):
    stored = results(tmp_path)
    page = tables.write(tmp_path / "table.md", "| a |", stored.record())
    assert (tmp_path / "table.md").read_text() == page
    here = machine.environment()
    assert page.splitlines() == [
        "```bash",
        command,
        "```",
        "",
        f"Machine: {here['machine']}.",
        f"Versions: {here['versions']}.",
        f"Date: {here['date']}.",
        "",
        "| a |",
    ]


def test_a_heading_names_the_machines_and_dates_of_all_runs(command):
    def run(**values):
        return {"environment": {"machine": "A", "versions": "K 1", "date": "2026-02-03"} | values}

    others = [run(machine="B"), run(date="2026-01-02"), {"score": 1.0}]
    lines = tables.heading({"runs": [run(), *others]}).splitlines()
    assert lines[-3:] == [
        "Machine: A and B.",
        "Versions: K 1.",
        "Date: 2026-01-02 to 2026-02-03.",
    ]


def test_publish_copies_table_and_runs_without_absolute_paths(
    tmp_path, monkeypatch, command, capsys
):
    monkeypatch.setattr(tables, "PUBLISHED", tmp_path / "published")
    set_flags(monkeypatch, PUBLISH="mine")
    stored = results(tmp_path)
    tables.present(stored, "table", "| a |\n", done=False)
    assert "Not published as mine" in capsys.readouterr().out
    assert not (tmp_path / "published").exists()
    tables.present(stored, "table", "| a |\n", done=True)
    output = capsys.readouterr().out
    assert "Published: mine.md and mine.json" in output
    assert output.endswith("| a |\n")
    page = (tmp_path / "published/mine.md").read_text()
    assert page == (tmp_path / "a/table.md").read_text()
    record = json.loads((tmp_path / "published/mine.json").read_text())
    assert record["command"] == command
    assert record["settings"] == {"epochs": 3, "bert": "uncased"}
    assert record["runs"] == stored.runs
    for text in (page, json.dumps(record)):
        assert "/home" not in text
        assert "/data" not in text


def test_without_publish_nothing_is_copied(tmp_path, monkeypatch, command):
    monkeypatch.setattr(tables, "PUBLISHED", tmp_path / "published")
    set_flags(monkeypatch, PUBLISH=None)
    tables.present(results(tmp_path), "table", "| a |\n", done=True)
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--publish", "mine", "--smoke"], "--smoke"),
        (["--smoke", "-publish=mine"], "--smoke"),
        (["--data_dir", "/a/glue"], "--data_dir glue"),
        (["--data_dir=~/glue", "--optimizer=adam"], "--data_dir=glue --optimizer=adam"),
        (["--data_dir=/a/my data"], "'--data_dir=my data'"),
    ],
)
def test_the_command_has_no_publish_and_no_absolute_path(monkeypatch, command, words, expected):
    monkeypatch.setattr(sys, "argv", ["digits.py", *words])
    assert machine.command() == f"python -m r.d {expected}"
    monkeypatch.setenv("KERAS_BACKEND", "any")
    assert machine.command().startswith("KERAS_BACKEND=")


def test_names_of_a_flag():
    assert options.names("task", "all", ["a", "b"]) == ["a", "b"]
    assert options.names("task", "b", ["a", "b"]) == ["b"]
    with pytest.raises(SystemExit, match="No such task.*c.*a, b"):
        options.names("task", "a,c", ["a", "b"])


@pytest.mark.parametrize("name", ["a/b", "../a", "a.md", ""])
def test_publish_needs_a_file_name(monkeypatch, name):
    set_flags(monkeypatch, PUBLISH=name, REPORT=False)
    with pytest.raises(SystemExit, match="--publish needs a name"):
        options.check_command(["digits"])
