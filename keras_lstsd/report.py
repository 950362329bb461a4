"""One page of HTML that shows a training, or a comparison of trainings, and stands by itself."""

import base64
import html
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstsd.label_quality import ranked
from keras_lstsd.saving import replacing
from keras_lstsd.statistics import paired_difference, spread

_TITLES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "distillation_loss": "Guidance in the loss",
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
    """Writes a page with what is given: scores, curves, a data map, doubtful labels.

    The page needs no other file and no network, and reads on a phone.

    Args:
        path: the HTML file.
        title: its heading.
        scores: for each method its score by seed, in %: a picture and a table, with standard
            deviations, and differences to the baseline paired by seed with standard errors.
        baseline: the method that others are compared with, where `scores` has it.
        paper: the paper's score of a method.
        histories: for each method the `history` of each run's `fit` (lists of values by name):
            a curve of each value, mean over the runs, with their range.
        mini_generation_epochs: E; the curves mark the edges of mini-generations.
        columns: `TrainingDynamics.columns()`, or what was read of its table: a data map, and the
            samples whose label is doubted most.
        samples: the training samples in the order of their index, images `[samples, height, width,
            channels]` (uint8, or any other range) or texts: the gallery shows them.
        class_names: names of the classes.
        count: how many samples the gallery shows.

    Raises:
        ValueError: when there is nothing to show, or samples do not fit the columns.
        ImportError: without matplotlib.

    Example:
        >>> dynamics = keras_lstsd.TrainingDynamics(y_train)
        >>> history = model.fit(x_train, y_train, epochs=164, callbacks=[dynamics])
        >>> keras_lstsd.report.write(
        ...     "report.html", "My classifier", histories={"lstsd": [history.history]},
        ...     mini_generation_epochs=6, columns=dynamics.columns())

    Source: the data map is that of Swayamdipta et al. 2020.
    """
    sections = []
    if scores:
        sections.append(_scores(scores, baseline, paper or {}))
    if histories:
        sections.append(_curves(histories, mini_generation_epochs))
    if columns is not None:
        if samples is not None and len(samples) != len(columns["label"]):
            raise ValueError(
                "The gallery shows the samples of the columns. "
                f"Received: {len(samples)} samples for {len(columns['label'])} rows. Expected: "
                "all training samples, in the order of their index."
            )
        sections += [_data_map(columns), _gallery(columns, samples, class_names, count)]
    if not sections:
        raise ValueError(
            "A report shows something. Received: neither scores nor histories nor columns. "
            "Expected: one of them at least, as `histories={'lstsd': [history.history]}`."
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
    return html.escape(str(int(number) if names is None else names[int(number)]))


def _figure(width: float = 4.4, height: float = 3.1) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Pictures are drawn by matplotlib. Expected: `pip install "keras-lstsd[report]"`.'
        ) from error
    # No pyplot: it would keep the figures, and ask for a screen.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(figure: Any, description: str) -> str:
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
        against = "" if method == baseline else paired_difference(by_seed, scores.get(baseline, {}))
        published = f"{paper[method]:.2f}" if method in paper else ""
        rows.append(
            [method, str(len(values)), spread(values), against, published][: 4 + bool(paper)]
        )
    axes.set_yticks(range(len(scores)), scores)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlabel("%")
    axes.grid(axis="x", alpha=0.3)
    header = ["method", "seeds", "mean +- std", f"paired difference to {baseline} +- s.e."]
    text = "Dots are means over seeds, bars standard deviations, ticks the single runs."
    if paper:
        text += " Red crosses: the paper's numbers."
    picture = _picture(figure, "Scores of the methods")
    table = _table(header + ["paper"] * bool(paper), rows)
    return _section("Comparison", text, picture, table, layout="scores")


def _curves(histories: Mapping[str, Sequence[Mapping]], mini_generation_epochs: int | None) -> str:
    names = dict.fromkeys(
        name.removeprefix("val_") for runs in histories.values() for run in runs for name in run
    )
    pictures = []
    for name in names:
        figure, axes = _figure()
        length = 0
        for number, (method, runs) in enumerate(histories.items()):
            for key, style in ((name, "-"), (f"val_{name}", "--")):
                runs_of_it = [np.asarray(run[key], "float64") for run in runs if key in run]
                if not runs_of_it:
                    continue
                shortest = min(map(len, runs_of_it))
                values = np.stack([run[:shortest] for run in runs_of_it])
                # A validation that is not of each epoch leaves gaps.
                there = ~np.isnan(values).any(0)
                epochs = np.arange(1, shortest + 1)[there]
                color, values = f"C{number % 10}", values[:, there]
                label = method if key == name else None
                axes.plot(epochs, values.mean(0), style, color=color, label=label, linewidth=1.2)
                axes.fill_between(
                    epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0
                )
                length = max(length, shortest)
        if mini_generation_epochs:
            for edge in range(mini_generation_epochs, length, mini_generation_epochs):
                axes.axvline(edge + 0.5, color="0.6", linestyle=":", linewidth=0.8)
        title = _TITLES.get(name, name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        if axes.lines:
            axes.legend(fontsize=7, frameon=False)
        pictures.append(_picture(figure, f"{title} over the epochs"))
    text = "Mean over the runs of a method, shaded from the lowest to the highest."
    if any(name.startswith("val_") for runs in histories.values() for run in runs for name in run):
        text += " Dashed: on validation data."
    if mini_generation_epochs:
        text += f" Dotted: a new mini-generation, each {mini_generation_epochs} epochs."
    return _section("Learning curves", text, *pictures)


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
    axes.set_ylabel("confidence in the label")
    axes.set_ylim(-0.02, 1.02)
    text = (
        "Each dot is a training sample: the mean and the standard deviation, over the epochs, of "
        "the probability of its label. Above: easy. On the right: ambiguous. Below: hard, or "
        f"wrongly labelled. {len(shown):,} of {total:,} samples are drawn."
    )
    return _section("Data map", text, _picture(figure, "Data map: confidence over variability"))


def _gallery(
    columns: Mapping[str, np.ndarray], samples: Any, names: Sequence[str] | None, count: int
) -> str:
    confidence = np.asarray(columns["confidence"], "float64")
    order = ranked(confidence)
    texts = samples is not None and isinstance(samples[0], str)
    cards = []
    for number in order[:count]:
        label = _class_name(columns["label"][number], names)
        believed = _class_name(columns["believed_class"][number], names)
        picture = ""
        if texts:
            picture = f"<blockquote>{html.escape(samples[number])}</blockquote>"
        elif samples is not None:
            picture = _image(_png(samples[number]), "png", f"sample {number}") + "<br>"
        cards.append(
            f"<figure>{picture}#{number}<br>label: <b>{label}</b>, believed "
            f"{confidence[number]:.0%} on average<br>teachers: <b>{believed}</b>, "
            f"{float(columns['belief'][number]):.0%}</figure>"
        )
    text = (
        "Training samples by the mean probability that the model gave to their label, lowest "
        "first, with what its teachers believe in the end."
    )
    layout = "samples texts" if texts else "samples"
    return _section("Labels that the model's past doubts", text, *cards, layout=layout)


def _png(image: Any) -> bytes:
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
