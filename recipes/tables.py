"""Markdown tables of results, the files that contain them, and HTML reports."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_lstsd import columns, report, saving
from keras_lstsd.statistics import paired_difference, spread
from recipes.machine import command, short
from recipes.options import PUBLISH, REPORT
from recipes.runs import MINI_GENERATION_EPOCHS, History, Results

PUBLISHED = Path(__file__).parent / "results"
RANKINGS = ("loss after training", "tables", "all epochs", "margin, all epochs")
READING = (
    "`vanilla` is plain training. Difference: score of the method minus score of vanilla with the\n"
    "same seed, mean +- standard error."
)
READING_DETECTION = (
    "ROC AUC: how often a wrong label ranks before a correct one. Precision: the share of wrong\n"
    "labels among the first n, where n labels are wrong. Differences are to the first row."
)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def method_table(
    results: Results,
    methods: Sequence[str],
    paper: Mapping[str, float] | None = None,
    metric: str = "accuracy",
    **name: str,
) -> str:
    """Mean and standard deviation of each method, and its paired difference to plain training.

    Where the runs have them, also the top-5 accuracy, the negative log-likelihood and the
    calibration error.

    Args:
        results: the results.
        methods: the rows.
        paper: the paper's scores, by method; they get a column.
        metric: what the scores are.
        name: what the runs have in common apart from method and seed.
    """
    baseline = results.scores(method="vanilla", **name)
    figures = {
        figure: column
        for figure, column in {"top_5": "top-5, %", "nll": "NLL", "ece": "ECE, %"}.items()
        if any(figure in stored for stored in results.runs)
    }
    rows = []
    for method in methods:
        scores = results.scores(method=method, **name)
        row = [method, str(len(scores)), spread(list(scores.values()))]
        row.append("" if method == "vanilla" else paired_difference(scores, baseline))
        row += [
            spread([*results.scores(figure, method=method, **name).values()]) for figure in figures
        ]
        if paper is not None:
            row.append(f"{paper[method]:.2f}" if method in paper else "")
        rows.append(row)
    header = ["method", "seeds", f"{metric}, mean +- std", "difference to vanilla"]
    header += figures.values()
    return markdown(header + (["paper"] if paper is not None else []), rows)


def detection_table(results: Results, methods: Sequence[str], **name: Any) -> str:
    """What `runs.detection` measured, by method and ranking.

    Differences are to the ranking by the loss of the first method after its training.
    """

    def by_seed(method, ranking, figure):
        return results.scores("detection", ranking, figure, method=method, **name)

    rows = []
    for method in methods:
        for ranking in RANKINGS:
            row = [method, ranking]
            for figure in ("auc", "precision"):
                values = by_seed(method, ranking, figure)
                baseline = by_seed(methods[0], RANKINGS[0], figure)
                row += [spread(list(values.values())), paired_difference(values, baseline)]
            if row[2] != "-":
                rows.append(row)
    header = ["method", "labels ranked by", "ROC AUC", "difference", "precision", "difference"]
    return markdown(header, rows)


def detection_lines(results: Results, methods: Sequence[str], **name: Any) -> list[str]:
    """`detection_table` with its heading, for results of trainings with wrong labels."""
    if not results.settings.get("wrong_labels"):
        return []
    table = detection_table(results, methods, **name)
    heading = "How well the training finds the wrong labels (%), mean +- std over the seeds."
    return [f"{heading}\n{READING_DETECTION}", "", table, ""]


def heading(record: Mapping[str, Any]) -> str:
    """The command, and the machines, versions and dates of the runs in `record["runs"]`."""
    environments = [run["environment"] for run in record["runs"] if "environment" in run]
    machines, versions, dates = (
        dict.fromkeys(environment[key] for environment in environments)
        for key in ("machine", "versions", "date")
    )
    days = sorted(dates)
    lines = [
        f"```bash\n{command()}\n```\n",
        f"Machine: {' and '.join(machines) or 'unknown'}.",
        f"Versions: {' and '.join(versions) or 'unknown'}.",
        f"Date: {' to '.join(dict.fromkeys([days[0], days[-1]])) if days else 'unknown'}.",
    ]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str, record: Mapping[str, Any]) -> str:
    """Writes tables after their heading.

    Args:
        path: the Markdown file.
        text: the tables.
        record: settings and runs, as in `results.json`.

    Returns:
        The content of the file.
    """
    page = f"{heading(record)}\n{text.rstrip()}\n"
    with saving.replacing(path) as part:
        part.write_text(page)
    return page


def publish(page: str, record: Mapping[str, Any], done: bool = True) -> None:
    """With `--publish`, copies a page and the record of its runs to `recipes/results`.

    Args:
        page: what `write` returned.
        record: settings and runs; absolute paths in the settings are cut to their last part.
        done: whether all runs have a result; otherwise nothing is published.
    """
    name = PUBLISH.value
    if name is None:
        return
    if not done:
        print(f"Not published as {name}: some runs have no result.")
        return
    settings = {
        key: short(value) if isinstance(value, str) else value
        for key, value in record["settings"].items()
    }
    published = {"command": command(), "settings": settings, "runs": record["runs"]}
    contents = {".md": page, ".json": json.dumps(published, indent=1) + "\n"}
    PUBLISHED.mkdir(exist_ok=True)
    for ending, content in contents.items():
        with saving.replacing(PUBLISHED / f"{name}{ending}") as part:
            part.write_text(content)
    print(f"Published: {name}.md and {name}.json in recipes/{PUBLISHED.name}")


def present(results: Results, name: str, text: str, done: bool) -> None:
    """Writes the tables to `NAME.md` beside the results, publishes and prints them."""
    record = results.record()
    page = write(results.path.with_name(f"{name}.md"), text, record)
    publish(page, record, done)
    print(f"\nResults of each run: {results.path}\n\n{text.rstrip()}")


def write_report(
    results: Results,
    title: str,
    methods: Sequence[str],
    paper: Mapping[str, float] | None = None,
    samples: Any = None,
    class_names: Sequence[str] | None = None,
    **name: str,
) -> None:
    """With `--report`, writes an HTML page beside the table.

    Its samples are those of the last method with training dynamics, with its lowest seed.
    """
    if not REPORT.value:
        return
    scores = {method: results.scores(method=method, **name) for method in methods}
    histories, of_samples = {}, None
    for method, by_seed in scores.items():
        for seed in sorted(by_seed, reverse=True):
            # The order of the keys is that of the runs: the seed is last.
            folder = results.folder(name | {"method": method, "seed": seed})
            if (folder / "history.csv").exists():
                histories.setdefault(method, []).append(History.read(folder / "history.csv"))
            if (folder / "dynamics.csv").exists():
                of_samples = columns.read(folder / "dynamics.csv")
    path = results.path.with_name("-".join(["report", *name.values()]) + ".html")
    report.write(
        path,
        title,
        scores=scores,
        paper=paper,
        histories=histories,
        mini_generation_epochs=MINI_GENERATION_EPOCHS,
        columns=of_samples,
        samples=samples,
        class_names=class_names,
    )
    print(f"Report: {path}")
