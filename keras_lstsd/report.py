"""Self-contained HTML reports of one training or of a comparison of trainings."""

import base64
import html
import io
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstsd.label_issues import confused_classes, issues_by_class, write_issues
from keras_lstsd.label_quality import ranked
from keras_lstsd.saving import replacing
from keras_lstsd.statistics import paired_difference, spread

_TITLES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "distillation_loss": "Distillation loss",
    "short_term_loss": "Divergence from the short-term teacher (nats)",
    "long_term_loss": "Divergence from the long-term teacher (nats)",
    "teacher_coverage": "Share of samples with a teacher",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
       max-width: 1200px; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p { max-width: 45rem; }
.figures, .samples { display: grid; gap: 1rem; }
.figures { grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); }
figure { margin: 0; } figure img { width: 100%; max-width: 560px; height: auto; }
.samples { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
.samples.texts { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.samples figure { border: 1px solid #ccc; border-radius: 6px; padding: .5rem; font-size: .85rem; }
.samples img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; }
.samples blockquote { margin: 0 0 .25rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""
# Rows of the tables of classes, which may have very many.
_CLASSES = 12
# Samples in the data map; more dots cover each other and make the file large.
_POINTS = 5000


def write(
    path: str | Path,
    title: str,
    *,
    scores: Mapping[str, Mapping[int, float]] | None = None,
    baseline: str = "vanilla",
    paper: Mapping[str, float] | None = None,
    histories: Mapping[str, Sequence[Mapping[str, Sequence[float]]]] | None = None,
    mini_generation_epochs: int | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    samples: Any = None,
    class_names: Sequence[str] | None = None,
    count: int = 24,
) -> None:
    """Writes an HTML page with scores, learning curves, a data map and label issues.

    Each part is optional and appears for the arguments that are given. The page contains its
    images and its style, and loads nothing from the network. Its layout fits phones.

    The data map shows two statistics of each sample i with label y_i over the E epochs of the
    training: the confidence `m_i = 1/E sum_e p_e(y_i | x_i)` and the variability
    `sqrt(1/E sum_e (p_e(y_i | x_i) - m_i)^2)`.

    Args:
        path: the HTML file to write. An existing file is replaced in one move.
        title: the heading of the page.
        scores: the score of each seed, in %, by method. The page shows a plot and a table with
            means, standard deviations, and paired differences to the baseline with standard
            errors.
        baseline: the method in `scores` that the others are compared with.
        paper: the paper's score in %, by method.
        histories: the `history` of each run's `fit` (lists of values by name), by method. The page
            shows one plot per name, with the mean and the range over the runs.
        mini_generation_epochs: epochs of a mini-generation; dotted lines mark the boundaries of
            mini-generations.
        columns: arrays `[samples]` by name, from `TrainingDynamics.columns()` or from the table
            that it writes (`keras_lstsd.columns.read`). The page shows a data map, the label issues
            of each class, the classes that are confused, and the most suspicious samples. It offers
            the file of `keras_lstsd.label_issues.write_issues` for people who correct labels.
        samples: all training samples in the order of their index: images `[samples, height,
            width, channels]` (uint8, or floats in any range) or texts. The gallery shows them.
        class_names: the names of the classes, in the order of their numbers.
        count: the number of samples in the gallery.

    Raises:
        ValueError: without any content, and for `samples` of another length than `columns`.
        ImportError: without matplotlib.

    Example:
        >>> dynamics = keras_lstsd.TrainingDynamics(y_train)
        >>> history = model.fit(x_train, y_train, epochs=164, callbacks=[dynamics])
        >>> keras_lstsd.report.write(
        ...     "report.html", "My classifier", histories={"lstsd": [history.history]},
        ...     mini_generation_epochs=6, columns=dynamics.columns())

    Source: Swayamdipta et al. 2020, for the data map.
    """
    sections = []
    if scores:
        sections.append(_scores(scores, baseline, paper or {}))
    if histories:
        sections.append(_curves(histories, mini_generation_epochs))
    if columns is not None:
        if samples is not None and len(samples) != len(columns["given_label"]):
            raise ValueError(
                "`samples` must have one entry per row of `columns`. "
                f"Received: {len(samples)} samples for {len(columns['given_label'])} rows. "
                "Expected: all training samples in the order of their index, as in "
                "`samples=x_train`."
            )
        sections.append(_data_map(columns))
        sections.append(_issues(columns, class_names))
        sections.append(_gallery(columns, samples, class_names, count))
    if not sections:
        raise ValueError(
            "The report has no content. Received: neither scores nor histories nor columns. "
            "Expected: at least one of them, as in `histories={'lstsd': [history.history]}`."
        )
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def _class_name(number: Any, names: Sequence[str] | None) -> str:
    return str(int(number) if names is None else names[int(number)])


def _figure(width: float = 4.4, height: float = 3.1) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Reports need matplotlib, which is not installed. "
            "Write: pip install 'keras-lstsd[report]'"
        ) from error
    # pyplot would keep every figure in memory and look for a display.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plot(figure: Any, description: str) -> str:
    """A matplotlib figure as HTML with inline SVG data."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", dpi=150, metadata={"Date": None})
    return f"<figure>{_image(file.getvalue(), 'svg+xml', description)}</figure>"


def _image(data: bytes, kind: str, description: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" alt="{html.escape(description, quote=True)}">'


def _section(heading: str, text: str, *parts: str, layout: str = "figures") -> str:
    inner = "".join(parts)
    return f'<section><h2>{heading}</h2><p>{text}</p><div class="{layout}">{inner}</div></section>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>{line(header, "th")}{body}</table></div>'


def _scores(
    scores: Mapping[str, Mapping[int, float]], baseline: str, paper: Mapping[str, float]
) -> str:
    scores = {method: by_seed for method, by_seed in scores.items() if by_seed}
    figure, axes = _figure(4.4, 1 + 0.28 * len(scores))
    rows = []
    for row, (method, by_seed) in enumerate(scores.items()):
        values = list(by_seed.values())
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(statistics.mean(values), row, xerr=deviation, fmt="o", color="C0", capsize=3)
        axes.plot(values, [row] * len(values), "|", color="C0", alpha=0.5)
        if method in paper:
            axes.plot(paper[method], row, "x", color="C3")
        difference = ""
        if method != baseline:
            difference = paired_difference(by_seed, scores.get(baseline, {}))
        published = [f"{paper[method]:.2f}" if method in paper else ""] * bool(paper)
        rows.append([method, str(len(values)), spread(values), difference, *published])
    axes.set_yticks(range(len(scores)), scores)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlabel("%")
    axes.grid(axis="x", alpha=0.3)
    header = ["method", "seeds", "mean +- std", f"paired difference to {baseline} +- s.e."]
    text = "Dots: means over the seeds. Bars: standard deviations. Ticks: single runs."
    if paper:
        text += " Red crosses: scores in the paper."
    plot = _plot(figure, "Scores of the methods")
    table = _table(header + ["paper"] * bool(paper), rows)
    return _section("Comparison", text, plot, table, layout="scores")


def _curves(histories: Mapping[str, Sequence[Mapping]], mini_generation_epochs: int | None) -> str:
    names = dict.fromkeys(
        name.removeprefix("val_") for runs in histories.values() for run in runs for name in run
    )
    plots = []
    for name in names:
        figure, axes = _figure()
        length = 0
        for number, (method, runs) in enumerate(histories.items()):
            for key, style in ((name, "-"), (f"val_{name}", "--")):
                curves = [np.asarray(run[key], "float64") for run in runs if key in run]
                if not curves:
                    continue
                shortest = min(map(len, curves))
                values = np.stack([curve[:shortest] for curve in curves])
                # Epochs without validation have no value.
                measured = ~np.isnan(values).any(0)
                epochs = np.arange(1, shortest + 1)[measured]
                color, values = f"C{number % 10}", values[:, measured]
                label = method if key == name else None
                axes.plot(epochs, values.mean(0), style, color=color, label=label, linewidth=1.2)
                axes.fill_between(
                    epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0
                )
                length = max(length, shortest)
        if mini_generation_epochs:
            for boundary in range(mini_generation_epochs, length, mini_generation_epochs):
                axes.axvline(boundary + 0.5, color="0.6", linestyle=":", linewidth=0.8)
        title = _TITLES.get(name, name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        if axes.lines:
            axes.legend(fontsize=7, frameon=False)
        plots.append(_plot(figure, f"{title} over the epochs"))
    text = "Lines: means over the runs of a method. Shaded: range of the runs."
    if any(name.startswith("val_") for runs in histories.values() for run in runs for name in run):
        text += " Dashed lines: validation data."
    if mini_generation_epochs:
        text += f" Dotted lines: boundaries of mini-generations ({mini_generation_epochs} epochs)."
    return _section("Learning curves", text, *plots)


def _data_map(columns: Mapping[str, np.ndarray]) -> str:
    confidence, variability = (
        np.asarray(columns[name], "float64") for name in ("confidence", "variability")
    )
    shown = np.flatnonzero(~np.isnan(confidence))
    total = len(shown)
    if total > _POINTS:
        shown = np.random.default_rng(0).choice(shown, _POINTS, replace=False)
    figure, axes = _figure()
    dots = axes.scatter(
        variability[shown],
        confidence[shown],
        c=np.asarray(columns["forgotten"])[shown],
        s=4,
        cmap="viridis",
        alpha=0.7,
        rasterized=True,
    )
    figure.colorbar(dots, ax=axes, label="times forgotten")
    axes.set_xlabel("variability")
    axes.set_ylabel("confidence")
    axes.set_ylim(-0.02, 1.02)
    text = (
        "Each dot is a training sample. Confidence and variability are the mean and the standard "
        "deviation of the probability of its label over the epochs. High confidence: easy "
        "samples. High variability: ambiguous samples. Low confidence and low variability: hard or "
        f"wrongly labelled samples. {len(shown):,} of {total:,} samples are shown."
    )
    return _section("Data map", text, _plot(figure, "Data map: confidence against variability"))


def _issues(columns: Mapping[str, np.ndarray], names: Sequence[str] | None) -> str:
    by_class, confused = issues_by_class(columns), confused_classes(columns)
    classes = [
        [_class_name(given, names), f"{labels:,}", f"{issues:,}", f"{share:.1%}"]
        for given, labels, issues, share in zip(*by_class.values(), strict=True)
    ]
    pairs = [
        [_class_name(given, names), _class_name(predicted, names), f"{issues:,}"]
        for given, predicted, issues in zip(*confused.values(), strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "issues.csv"
        write_issues(file, columns, names)
        data = base64.b64encode(file.read_bytes()).decode()
    total, found = sum(by_class["labels"]), sum(by_class["issues"])
    text = (
        f"{found:,} of {total:,} labels ({found / max(total, 1):.1%}) are probably wrong: another "
        "class led in the mean over the epochs. Left: the classes with the largest share of such "
        "labels. Right: labels and the classes that led, the most frequent pairs. "
        f'<a download="issues.csv" href="data:text/csv;base64,{data}">issues.csv</a> lists all of '
        "them, with an empty column for the correct label. <code>corrected_labels</code> reads it."
    )
    return _section(
        "Label issues",
        text,
        _table(["label", "samples", "issues", "share"], classes[:_CLASSES]),
        _table(["label", "suggested", "samples"], pairs[:_CLASSES]),
    )


def _gallery(
    columns: Mapping[str, np.ndarray], samples: Any, names: Sequence[str] | None, count: int
) -> str:
    order = ranked(columns["label_score"])[: np.isfinite(columns["label_score"]).sum()]
    texts = samples is not None and isinstance(samples[0], str)
    cards = []
    for number in order[:count]:
        label, predicted = (
            html.escape(_class_name(columns[name][number], names))
            for name in ("given_label", "predicted_label")
        )
        content = ""
        if texts:
            content = f"<blockquote>{html.escape(samples[number])}</blockquote>"
        elif samples is not None:
            content = _image(_png(samples[number]), "png", f"sample {number}") + "<br>"
        cards.append(
            f"<figure>{content}sample {number}<br>label: <b>{label}</b>, "
            f"{float(columns['confidence'][number]):.0%}<br>suggested: <b>{predicted}</b>, "
            f"{float(columns['predicted_probability'][number]):.0%}</figure>"
        )
    text = (
        "Training samples in ascending order of the label's mean margin over the epochs. With each "
        "label stands its mean probability. Where no other class led in the mean, the suggested "
        "label is the given one."
    )
    layout = "samples texts" if texts else "samples"
    return _section("Suspicious labels", text, *cards, layout=layout)


def _png(image: Any) -> bytes:
    """An image `[height, width(, channels)]` as PNG; dtypes other than uint8 are rescaled."""
    from matplotlib.image import imsave

    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8:
        lowest, highest = float(image.min()), float(image.max())
        image = (image - lowest) / ((highest - lowest) or 1)
    file = io.BytesIO()
    imsave(file, image, format="png", cmap="gray")
    return file.getvalue()
