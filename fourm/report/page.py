"""The page: sections in the order they are added, headline figures and contents above them.

It is HTML with its style and its script inside, and is read on a phone as on a wide screen, in the
light or the dark, aloud or by eye.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from fourm.modalities import ModalitySet
from fourm.report.curves import Curves
from fourm.report.figures import COLUMNS, Figure, Goals, headline, read_figures, row
from fourm.report.gallery import Gallery
from fourm.report.line_chart import line_chart

_SHOWN_GAIN = 0.75  # opacity where an input tells everything


@dataclass
class Report:
    """A page in the making."""

    title: str
    subtitle: str = ""
    facts: dict[str, str] = field(default_factory=dict)  # told below the title
    headlines: list[Figure] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)  # headings

    def heading(self, text: str, note: str = "") -> None:
        """Begin a section, with a note below its heading."""
        self.contents.append(text)
        self.parts.append(f'<h2 id="{_anchor(text)}">{html.escape(text)}</h2>{_note(note)}')

    def part(self, text: str, note: str = "") -> None:
        """Begin a part of a section."""
        self.parts.append(f"<h3>{html.escape(text)}</h3>{_note(note)}")

    def modalities(self, modalities: ModalitySet) -> None:
        """A section with the table of a modality set."""
        self.heading("Modalities")
        self.lines(modalities.table())

    def lines(self, text: str) -> None:
        """Text as it stands: a table of a terminal, commands."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def gallery(self, gallery: Gallery) -> None:
        """A section of pictures and texts, a sample a row."""
        self.heading(gallery.title, gallery.note)
        self.parts.append(gallery.html())

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; cells are HTML."""
        head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in rows
        )
        self.parts.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')

    def figures(self, metrics: Mapping[str, Any], goals: Goals | None = None) -> None:
        """``metrics.json``'s figures between their bounds."""
        self.table(COLUMNS, [row(figure) for figure in read_figures(metrics, goals)])

    def matrix(self, matrix: Mapping[str, Mapping[str, float]]) -> None:
        """Cross-entropies, shaded by how much lower they are than with nothing given."""
        targets = list(next(iter(matrix.values())))
        empty = matrix["nothing"]
        rows = [
            [html.escape(given), *(_loss_cell(losses.get(n), empty[n]) for n in targets)]
            for given, losses in matrix.items()
        ]
        self.table(["given \\ target", *targets], rows)

    def curves(self, title: str, curves: Curves) -> None:
        """Lines by name over steps."""
        self.part(title)
        self.parts.append(line_chart(curves.training, curves.held_out))

    def html(self) -> str:
        """The whole page."""
        title = html.escape(self.title)
        facts = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in self.facts.items()
        )
        contents = "".join(
            f'<a href="#{_anchor(text)}">{html.escape(text)}</a>' for text in self.contents
        )
        cards = "".join(map(headline, self.headlines))
        return "\n".join(
            [
                '<!doctype html><html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{title}</title><style>{_file('page.css')}</style></head><body>",
                f"<header><h1>{title}</h1>{_note(self.subtitle)}",
                f'<dl class="facts">{facts}</dl>' if facts else "",
                f'<div class="headlines">{cards}</div>' if cards else "",
                f'<nav aria-label="contents">{contents}</nav></header><main>',
                *self.parts,
                f"</main><script>{_file('page.js')}</script></body></html>",
            ]
        )

    def write(self, path: str | Path) -> None:
        """The page as one file, which appears whole or not at all."""
        temporary = Path(path).with_suffix(".tmp")
        temporary.write_text(self.html(), encoding="utf-8")
        temporary.replace(path)


def _file(name: str) -> str:
    return files("fourm.report").joinpath(name).read_text(encoding="utf-8")


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def _loss_cell(loss: float | None, empty: float) -> str:
    if loss is None:
        return ""
    gain = max(0.0, 1 - loss / max(empty, 1e-9))
    shade = f"background: rgba(var(--gain), {_SHOWN_GAIN * gain:.2f})"
    return f'<span class="gain" style="{shade}">{loss:.2f}</span>'
