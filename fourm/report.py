"""One self-contained HTML page about a trained project: galleries, curves, figures, the any-to-any
matrix, timings.

Pictures are embedded, curves are SVG, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from fourm.line_chart import line_chart
from fourm.modalities import ModalitySet
from fourm.raw import Raw

_THUMB = 96
_VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
_STYLE = """
:root { color-scheme: light dark; --ink: #1e293b; --paper: #fff; --faint: #64748b;
  --line: #e2e8f0; --soft: #f1f5f9; --good: #047857; --bad: #b45309 }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e8f0; --paper: #0f172a; --faint: #94a3b8;
  --line: #334155; --soft: #1e293b; --good: #34d399; --bad: #fbbf24 } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.6rem; margin-bottom: .2rem }
h2 { margin-top: 2.2rem; font-size: 1.2rem; border-bottom: 1px solid var(--line);
  padding-bottom: .3rem }
table { border-collapse: collapse; margin: .6rem 0 }
td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line) }
td:first-child, th:first-child { text-align: left }
.good { color: var(--good); font-weight: 600 }
.bad { color: var(--bad); font-weight: 600 }
.gain { padding: .1rem .4rem }
.gallery td { border: 0; padding: 3px; text-align: center; vertical-align: top; font-size: 12px;
  max-width: 150px }
.gallery th { border: 0; font-size: 12px; color: var(--faint); text-align: center }
.gallery img { width: 96px; height: 96px; object-fit: contain; border-radius: 4px;
  background: var(--soft) }
.wide, pre { overflow-x: auto }
svg { max-width: 100%; height: auto }
.note { color: var(--faint); font-size: 13px }
code { background: var(--soft); padding: 0 .25rem }
"""


@dataclass
class Gallery:
    """Rows of pictures: what was given, what came out, what is true."""

    title: str
    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)  # cells: (value, its raw type) or text


@dataclass
class Report:
    """Sections in the order they are added."""

    title: str
    subtitle: str = ""
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str, note: str = "") -> None:
        """Begin a section, with a note below its heading."""
        self.parts.append(
            f"<h2>{html.escape(text)}</h2>"
            + (f'<p class="note">{html.escape(note)}</p>' if note else "")
        )

    def modalities(self, modalities: ModalitySet) -> None:
        """A section with the table of a modality set."""
        self.heading("Modalities")
        self.parts.append(f"<pre>{html.escape(modalities.table())}</pre>")

    def gallery(self, gallery: Gallery) -> None:
        """A section of pictures and texts, a sample a row."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in gallery.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>"
            for row in gallery.rows
        )
        self.heading(gallery.title)
        self.parts.append(
            f'<div class="wide"><table class="gallery"><tr>{head}</tr>{rows}</table></div>'
        )

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """A table; cells are HTML."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows
        )
        self.parts.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')

    def figures(
        self,
        metrics: dict[str, Any],
        targets: dict[tuple[str, str], tuple[str, float]] | None = None,
    ) -> None:
        """``metrics.json``'s figures; ``targets[(task, metric)] = (">=" or "<=", value)``."""
        rows = [
            _figure_row(task, metric, figure, (targets or {}).get((task, metric)))
            for task, figures in metrics.items()
            if task != "seconds"
            for metric, figure in figures.items()
        ]
        self.table(["task", "metric", "value", "goal", "baseline", "bound", "samples"], rows)

    def matrix(self, matrix: dict[str, dict[str, float]]) -> None:
        """Cross-entropies, shaded by how much lower they are than with nothing given."""
        targets = list(next(iter(matrix.values())))
        empty = matrix["nothing"]
        rows = [
            [html.escape(given), *(_loss_cell(losses.get(n), empty[n]) for n in targets)]
            for given, losses in matrix.items()
        ]
        self.table(["given \\ target", *targets], rows)

    def curves(self, title: str, series: dict[str, list[tuple[float, float]]]) -> None:
        """Lines by name, each of (step, value)."""
        self.parts.append(f"<h3>{html.escape(title)}</h3>" + line_chart(series))

    def write(self, path: str | Path) -> None:
        """The page as one file, which appears whole or not at all."""
        title, subtitle = html.escape(self.title), html.escape(self.subtitle)
        page = (
            f"<!doctype html><meta charset=utf-8>{_VIEWPORT}<title>{title}</title>"
            f"<style>{_STYLE}</style>"
            f'<h1>{title}</h1><p class="note">{subtitle}</p>' + "\n".join(self.parts)
        )
        temporary = Path(path).with_suffix(f".tmp{os.getpid()}")
        temporary.write_text(page)
        temporary.replace(path)


def read_curves(log: str | Path, smooth: int = 20) -> dict[str, list[tuple[float, float]]]:
    """Loss and its terms from a ``log.jsonl``, averaged over ``smooth`` steps."""
    sums: dict[str, list[float]] = {}
    series: dict[str, list[tuple[float, float]]] = {}
    for line in Path(log).read_text().splitlines():
        record = json.loads(line)
        if "loss" not in record:
            continue
        for name, value in {"loss": record["loss"], **record["terms"]}.items():
            sums.setdefault(name, []).append(value)
        if record["step"] % smooth == 0:
            for name, values in sums.items():
                if values:
                    series.setdefault(name, []).append((record["step"], sum(values) / len(values)))
            sums = {}
    return series


def embed(picture: Image.Image, size: int = _THUMB) -> str:
    """A picture as an ``img`` element with its data inside."""
    if max(picture.size) < 2 * size:
        scale = -(-2 * size // max(picture.size))
        picture = picture.resize(
            (picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC
        )
    else:
        picture.thumbnail((2 * size, 2 * size))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=82)
    return f'<img src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _cell(cell: tuple[Any, Raw] | str) -> str:
    if isinstance(cell, str):
        return html.escape(cell)
    value, raw = cell
    text = html.escape(raw.line(value))
    if not raw.has_picture:
        return text
    return embed(raw.picture(value)) + (f"<br>{text}" if text else "")


def _figure_row(
    task: str, metric: str, figure: dict[str, Any], goal: tuple[str, float] | None
) -> list[str]:
    mark = ""
    if goal is not None:
        sign, wanted = goal
        met = figure["value"] >= wanted if sign == ">=" else figure["value"] <= wanted
        mark = f'<span class="{"good" if met else "bad"}">{html.escape(sign)} {wanted:g}</span>'
    value, baseline, bound = (
        "-" if figure.get(name) is None else f"{figure[name]:.3f}"
        for name in ("value", "baseline", "bound")
    )
    names = [html.escape(task), html.escape(metric)]
    return [*names, f"<b>{value}</b>", mark, baseline, bound, str(figure["n"])]


def _loss_cell(loss: float | None, empty: float) -> str:
    if loss is None:
        return ""
    gain = max(0.0, 1 - loss / max(empty, 1e-9))
    color = f"rgba(5,150,105,{0.75 * gain:.2f})"
    return f'<span class="gain" style="background:{color}">{loss:.2f}</span>'
