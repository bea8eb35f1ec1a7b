"""One self-contained HTML page about a trained project: galleries, curves, figures, the any-to-any
matrix, timings.

Pictures are embedded, curves are SVG, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from fourm.modalities import ModalitySet
from fourm.raw import Raw

_THUMB = 96
_COLORS = (
    "#2563eb",
    "#dc2626",
    "#059669",
    "#d97706",
    "#7c3aed",
    "#0891b2",
    "#be185d",
    "#4d7c0f",
    "#475569",
    "#b45309",
)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1e293b;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{margin-top:2.2rem;font-size:1.2rem;border-bottom:1px solid #e2e8f0;padding-bottom:.3rem}
table{border-collapse:collapse;margin:.6rem 0} td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #e2e8f0}
td:first-child,th:first-child{text-align:left} .good{color:#059669;font-weight:600} .bad{color:#b45309;font-weight:600}
.gallery td{border:0;padding:3px;text-align:center;vertical-align:top;font-size:12px;max-width:150px} .gallery th{border:0;font-size:12px;color:#64748b;text-align:center}
.gallery img{width:96px;height:96px;object-fit:contain;image-rendering:auto;border-radius:4px;background:#f1f5f9}
.note{color:#64748b;font-size:13px} code{background:#f1f5f9;padding:0 .25rem}
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
        self.parts.append(
            f"<h2>{html.escape(text)}</h2>"
            + (f'<p class="note">{html.escape(note)}</p>' if note else "")
        )

    def modalities(self, modalities: ModalitySet) -> None:
        self.heading("Modalities")
        self.parts.append(f"<pre>{html.escape(modalities.table())}</pre>")

    def gallery(self, gallery: Gallery) -> None:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in gallery.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>"
            for row in gallery.rows
        )
        self.heading(gallery.title)
        self.parts.append(f'<table class="gallery"><tr>{head}</tr>{rows}</table>')

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows
        )
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def figures(
        self,
        metrics: dict[str, Any],
        targets: dict[tuple[str, str], tuple[str, float]] | None = None,
    ) -> None:
        """``metrics.json``'s figures; ``targets[(task, metric)] = (">=" or "<=", value)``."""
        rows = []
        for task, figures in metrics.items():
            if task == "seconds":
                continue
            for metric, figure in figures.items():
                goal = (targets or {}).get((task, metric))
                mark = ""
                if goal is not None:
                    met = (
                        figure["value"] >= goal[1]
                        if goal[0] == ">="
                        else figure["value"] <= goal[1]
                    )
                    mark = f'<span class="{"good" if met else "bad"}">{html.escape(goal[0])} {goal[1]:g}</span>'
                shown = [
                    f"{figure[k]:.3f}" if figure.get(k) is not None else "-"
                    for k in ("value", "baseline", "bound")
                ]
                rows.append(
                    [
                        html.escape(task),
                        html.escape(metric),
                        f"<b>{shown[0]}</b>",
                        mark,
                        shown[1],
                        shown[2],
                        str(figure["n"]),
                    ]
                )
        self.table(["task", "metric", "value", "goal", "baseline", "bound", "samples"], rows)

    def matrix(self, matrix: dict[str, dict[str, float]]) -> None:
        """Cross-entropies, shaded by how much lower they are than with nothing given."""
        targets = list(next(iter(matrix.values())))
        empty = matrix["nothing"]
        rows = []
        for given, losses in matrix.items():
            cells = [html.escape(given)]
            for name in targets:
                if name not in losses:
                    cells.append("")
                    continue
                gain = max(0.0, 1 - losses[name] / max(empty[name], 1e-9))
                cells.append(
                    f'<span style="background:rgba(5,150,105,{0.75 * gain:.2f});padding:.1rem .4rem">{losses[name]:.2f}</span>'
                )
            rows.append(cells)
        self.table(["given \\ target", *targets], rows)

    def curves(self, title: str, series: dict[str, list[tuple[float, float]]]) -> None:
        self.parts.append(f"<h3>{html.escape(title)}</h3>" + _svg(series))

    def write(self, path: str | Path) -> None:
        page = (
            "<!doctype html><meta"
            f" charset=utf-8><title>{html.escape(self.title)}</title><style>{_STYLE}</style>"
            f'<h1>{html.escape(self.title)}</h1><p class="note">{html.escape(self.subtitle)}</p>'
            + "\n".join(self.parts)
        )
        temporary = Path(path).with_suffix(".tmp")
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


def _svg(series: dict[str, list[tuple[float, float]]], width: int = 720, height: int = 260) -> str:
    points = [p for line in series.values() for p in line]
    if not points:
        return '<p class="note">no steps logged yet</p>'
    x1 = max(p[0] for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    span = max(y1 - y0, 1e-9)
    place = lambda p: (50 + p[0] / x1 * (width - 190), 15 + (y1 - p[1]) / span * (height - 45))  # noqa: E731
    parts = []
    for i, tick in enumerate((y0, (y0 + y1) / 2, y1)):
        y = place((0, tick))[1]
        parts.append(
            f'<line x1="50" x2="{width - 140}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e2e8f0"/><text x="4" y="{y + 4:.0f}" font-size="11">{tick:.2f}</text>'
        )
        parts.append(
            f'<text x="{place((x1 * i / 2, y0))[0] - 8:.0f}" y="{height - 8}" font-size="11">{x1 * i / 2:.0f}</text>'
        )
    for i, (name, line) in enumerate(series.items()):
        color = _COLORS[i % len(_COLORS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        parts.append(
            f'<text x="{width - 130}" y="{24 + 16 * i}" font-size="12" fill="{color}">{html.escape(name)} {line[-1][1]:.2f}</text>'
        )
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
