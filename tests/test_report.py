import base64
import html
import os
import re
import shutil
import statistics
import struct
import sys

import numpy as np
import pytest

from keras_lstsd import report
from keras_lstsd.label_issues import write_issues

pytest.importorskip("matplotlib")

SCORES = {"vanilla": {0: 70.0, 1: 72.0, 2: 71.0}, "lstsd": {0: 80.0, 1: 81.0, 2: 85.0}}
HISTORY = {
    "loss": [2.0, 1.5, 1.0, 0.5],
    "val_loss": [2.1, float("nan"), 1.2, 0.9],
    "short_term_loss": [0.0, 0.0, 0.3, 0.2],
    "teacher_coverage": [0.0, 0.0, 1.0, 1.0],
}
SAMPLES = 6
COLUMNS = {
    "is_label_issue": np.array([False, True, False, False, True, False]),
    "label_score": np.array([0.9, 0.1, 0.8, np.nan, 0.05, 0.5]),
    "given_label": np.array([0, 1, 2, 0, 1, 2]),
    "predicted_label": np.array([0, 2, 2, -1, 0, 2]),
    "predicted_probability": np.array([0.95, 0.7, 0.8, np.nan, 0.85, 0.6]),
    "confidence": np.array([0.9, 0.1, 0.8, np.nan, 0.05, 0.5]),
    "variability": np.array([0.1, 0.2, 0.1, np.nan, 0.0, 0.3]),
    "forgotten": np.array([0, 1, 0, 0, 0, 4]),
}
IMAGES = np.random.default_rng(0).integers(0, 256, (SAMPLES, 4, 5, 3), np.uint8)
ALL = {
    "scores": SCORES,
    "paper": {"lstsd": 83.25},
    "histories": {"vanilla": [{"loss": [2.0, 1.0]}], "lstsd": [HISTORY, HISTORY]},
    "mini_generation_epochs": 2,
    "columns": COLUMNS,
    "samples": IMAGES,
    "class_names": ["cat", "dog & bone", "<b>bird</b>"],
}


def page(tmp_path, title="A title", **content):
    path = tmp_path / "report.html"
    report.write(path, title, **content)
    return path.read_text(encoding="utf-8")


def test_page_loads_nothing_from_outside(tmp_path):
    text = page(tmp_path, **ALL)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) > 5
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in text
    assert "@import" not in text


def test_table_has_spread_paired_difference_and_paper_score(tmp_path):
    text = page(tmp_path, scores=SCORES, paper={"lstsd": 83.25})
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    error = statistics.stdev([10, 9, 14]) / 3**0.5
    assert cells[1:] == [
        ["vanilla", "3", "71.00 +- 1.00", "", ""],
        ["lstsd", "3", "82.00 +- 2.65", f"+11.00 +- {error:.2f}", "83.25"],
    ]


def test_each_value_has_one_plot_with_its_validation_curve(tmp_path):
    text = page(tmp_path, histories=ALL["histories"])
    plots = re.findall(r'alt="([^"]*) over the epochs"', text)
    assert plots == [
        "Loss",
        "Divergence from the short-term teacher (nats)",
        "Share of samples with a teacher",
    ]


def test_gallery_shows_the_lowest_score_first(tmp_path):
    text = page(tmp_path, columns=COLUMNS, class_names=ALL["class_names"], samples=IMAGES, count=3)
    cards = re.findall(r"sample (\d+)<br>label: <b>(.*?)</b>, (\S+)<br>", text)
    assert cards == [
        ("4", "dog &amp; bone", "5%"),
        ("1", "dog &amp; bone", "10%"),
        ("5", "&lt;b&gt;bird&lt;/b&gt;", "50%"),
    ]
    assert re.findall(r"suggested: <b>(.*?)</b>, (\S+)</figure>", text) == [
        ("cat", "85%"),
        ("&lt;b&gt;bird&lt;/b&gt;", "70%"),
        ("&lt;b&gt;bird&lt;/b&gt;", "60%"),
    ]


def test_tables_count_the_issues_of_each_class_and_pair(tmp_path):
    text = page(tmp_path, columns=COLUMNS, class_names=ALL["class_names"])
    assert "2 of 5 labels (40.0%) are probably wrong" in text
    rows = re.findall(r"<tr><td>(.*?)</td></tr>", text)
    assert [row.split("</td><td>") for row in rows] == [
        ["dog &amp; bone", "2", "2", "100.0%"],
        ["cat", "1", "0", "0.0%"],
        ["&lt;b&gt;bird&lt;/b&gt;", "2", "0", "0.0%"],
        ["dog &amp; bone", "cat", "1"],
        ["dog &amp; bone", "&lt;b&gt;bird&lt;/b&gt;", "1"],
    ]


def test_the_page_offers_the_file_of_issues(tmp_path):
    text = page(tmp_path, columns=COLUMNS, class_names=ALL["class_names"])
    ((name, data),) = re.findall(r'<a download="(.*?)" href="data:text/csv;base64,(.*?)">', text)
    write_issues(tmp_path / name, COLUMNS, ALL["class_names"])
    assert base64.b64decode(data) == (tmp_path / name).read_bytes()


def test_sample_images_keep_their_size(tmp_path):
    text = page(tmp_path, columns=COLUMNS, samples=IMAGES)
    for data in re.findall(r'src="data:image/png;base64,([^"]*)"', text):
        assert struct.unpack(">II", base64.b64decode(data)[16:24]) == (5, 4)


def test_text_samples_are_escaped(tmp_path):
    texts = [f"Sentence {number} <i>&" for number in range(SAMPLES)]
    text = page(tmp_path, columns=COLUMNS, samples=texts, count=1)
    assert f"<blockquote>{html.escape(texts[4])}</blockquote>" in text


def test_title_is_escaped(tmp_path):
    assert "<h1>a &lt; b</h1>" in page(tmp_path, "a < b", scores=SCORES)


def test_mini_generation_boundaries_are_described(tmp_path):
    text = page(tmp_path, histories=ALL["histories"], mini_generation_epochs=2)
    assert "Dotted lines: boundaries of mini-generations (2 epochs)." in text
    assert "Dotted lines" not in page(tmp_path, histories=ALL["histories"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"neither scores nor histories nor columns.*histories="),
        ({"columns": COLUMNS, "samples": IMAGES[:2]}, r"Received: 2 samples for 6 rows"),
    ],
)
def test_missing_content_and_unequal_lengths_are_rejected(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        page(tmp_path, **content)


def test_missing_matplotlib_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"need matplotlib.*keras-lstsd\[report\]"):
        page(tmp_path, scores=SCORES)


# === In a browser ===

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [375, 1280])
def test_browser_renders_the_page_without_errors(width, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    report.write(tmp_path / "report.html", "A title", **ALL)
    errors = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.on("console", lambda message: errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("requestfailed", lambda request: errors.append(request.url[:80]))
        tab.goto((tmp_path / "report.html").as_uri())
        broken = tab.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
        images = tab.evaluate("document.images.length")
        overflow = tab.evaluate("document.documentElement.scrollWidth")
        smallest = tab.evaluate(
            "Math.min(...[...document.querySelectorAll('p, td, th, .samples figure')]"
            ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        # Figures are 4.4 inches wide with text of 10 points; this is its size on the screen.
        narrowest = tab.evaluate(
            "Math.min(...[...document.querySelectorAll('.figures img')].map(i => i.clientWidth))"
        )
        if folder := os.environ.get("KERAS_LSTSD_SCREENSHOTS"):
            tab.screenshot(path=f"{folder}/report-{width}.png", full_page=True)
        browser.close()
    assert errors == []
    assert (images, broken) == (1 + 3 + 1 + SAMPLES - 1, 0)
    assert overflow <= width
    assert smallest >= 12
    assert narrowest / (4.4 * 72) * 10 >= 9
