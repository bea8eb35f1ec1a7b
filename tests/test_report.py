"""The page about a trained project: true, readable on a phone, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from fourm.errors import UserError
from fourm.evaluation.comparison import add_comparison
from fourm.project.project import Project
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm.report import Figure, Gallery, Report
from fourm.report.curves import Curves, read_curves
from fourm.report.figures import bar, read_figures
from fourm.report.line_chart import Series, line_chart

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
METRICS = {
    "rgb->depth": {
        "absrel": {"value": 0.05, "baseline": 0.11, "bound": 0.02, "n": 64, "deviation": 0.004}
    },
    "caption->rgb": {"accuracy": {"value": 0.8, "baseline": 0.05, "bound": 0.9, "n": 64}},
    "seconds": {"all": 12},
}
GOALS = {("rgb->depth", "absrel"): ("<=", 0.045), ("caption->rgb", "accuracy"): (">=", 0.75)}
VOID = {"meta", "img", "br", "line", "circle", "polyline"}


class Balanced(HTMLParser):
    """Fails where an element is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict] = []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page() -> Report:
    """A page with everything that a page can have, long words and wide tables too."""
    rng = np.random.default_rng(0)
    raw = Image(size=48)
    found = list(read_figures(METRICS, GOALS))
    report = Report("A <project>", "64 samples", {"parameters": "2.3 M", "seed": "0"}, found)
    columns = ["given", *(f"target {i}" for i in range(11))]
    gallery = Gallery("rgb -> everything", columns)
    for _ in range(3):
        pictures = rng.integers(0, 256, (11, 48, 48, 3), np.uint8)
        gallery.rows.append(["a " + "very " * 20 + "x" * 60, *((p, raw) for p in pictures)])
    report.gallery(gallery)
    report.gallery(Gallery("few", ["text", "rgb"], [[("so it is", Text()), (pictures[0], raw)]]))
    report.heading("Figures")
    report.figures(METRICS, GOALS)
    names = [f"modality_{i}" for i in range(14)]
    report.matrix({n: dict.fromkeys(names, 1.0 + i) for i, n in enumerate(["nothing", *names])})
    report.lines("fourm pretrain " + "loop.batch_size=32 " * 12)
    series: Series = {n: [(float(s), 5.0 / s) for s in range(1, 900)] for n in names}
    report.curves("loss", Curves(series, {"modality_3": [(899, 0.4)]}))
    return report


def test_every_element_is_closed_every_picture_told_and_nothing_loaded_from_elsewhere():
    text = page().html()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert len(parser.pictures) == 34 and all(p["alt"] for p in parser.pictures)
    assert '<html lang="en">' in text and "A &lt;project&gt;" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "http" not in text


def test_contents_lead_to_every_section():
    text = page().html()
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    assert anchors == set(re.findall(r'<h2 id="([^"]+)"', text)) and len(anchors) == 3


def test_a_figure_lies_between_baseline_and_bound_whichever_is_larger():
    lower, higher = read_figures(METRICS, GOALS)
    assert lower.share == pytest.approx(0.06 / 0.09) and lower.is_met is False
    assert higher.share == pytest.approx(0.75 / 0.85) and higher.is_met is True
    assert "67 %" in bar(lower)
    assert bar(Figure(task="a", metric="b", value=1.0, baseline=0.5, bound=0.5)) == ""


def test_curves_of_a_log_hold_training_and_held_out_losses(tmp_path):
    log = tmp_path / "log.jsonl"
    records = [{"step": s, "loss": 1.0 * s, "terms": {"rgb": 2.0 * s}} for s in range(1, 5)]
    records.insert(2, {"step": 2, "eval": {"loss": 7.0, "loss/rgb": 8.0}})
    log.write_text("\n".join(map(json.dumps, [{"note": "start"}, *records])))
    curves = read_curves(log, smooth=2)
    assert curves.training == {"loss": [(2, 1.5), (4, 3.5)], "rgb": [(2, 3.0), (4, 7.0)]}
    assert curves.held_out == {"loss": [(2, 7.0)], "rgb": [(2, 8.0)]}


def test_a_line_of_one_point_is_seen_and_wide_ranges_are_logarithmic():
    assert "<circle" in line_chart({"loss": [(5, 1.0)]})
    assert ">log<" in line_chart({"loss": [(0, 100.0), (5, 1.0)]})
    assert ">log<" not in line_chart({"loss": [(0, 10.0), (5, 1.0)]})


def test_two_projects_are_compared_with_their_deviation(tmp_path):
    for name, value in (("a", 0.80), ("b", 0.79)):
        run = tmp_path / name / "pretrain"
        run.mkdir(parents=True)
        (run / "log.jsonl").write_text(json.dumps({"step": 20, "loss": value, "terms": {}}))
        figure = {"value": value, "baseline": None, "bound": None, "n": 64, "deviation": 0.02}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"t": {"m": figure}}))
    report = Report("x")
    add_comparison(report, Project(tmp_path / "a"), Project(tmp_path / "b"))
    assert "+0.010 ± 0.028 (within noise)" in "".join(report.parts)
    with pytest.raises(UserError, match="no log of a pretraining"):
        add_comparison(report, Project(tmp_path / "a"), Project(tmp_path / "none"))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_in_a_browser_nothing_is_wider_than_the_screen(tmp_path, width):
    path = tmp_path / "page.html"
    measure = (
        "<script>for (const chart of document.querySelectorAll('svg'))"
        " chart.dispatchEvent(new PointerEvent('pointermove', {clientX: 100}));"
        "document.body.dataset.width = document.documentElement.scrollWidth;"
        "document.body.dataset.told = document.querySelector('output').textContent</script>"
    )
    frame = tmp_path / "frame.html"  # a headless window is never narrower than 500 pixels
    path.write_text(page().html().replace("</body>", measure + "</body>"))
    frame.write_text(
        f'<iframe id="f" style="width: {width}px; height: 900px; border: 0" src="page.html">'
        "</iframe><script>addEventListener('load', () => { const b = document.getElementById('f')"
        ".contentDocument.body; document.title = b.dataset.width + '|' + b.dataset.told })</script>"
    )
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
    dom = subprocess.run(
        [*command, frame.as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    found = re.search(r"<title>(\d+)\|(.*)</title>", dom)
    assert found and int(found[1]) <= width
    assert "step " in found[2] and "modality_3 (held out)" in found[2]
