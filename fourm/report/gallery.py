"""Samples as pictures: what was given, what came out, what is true."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from fourm.raw import Raw

Cell = tuple[Any, Raw] | str  # a value with its raw type, or text

_SHOWN = 224  # pixels of a side that a page has room for
_FEW = 5  # columns that would be blown up beyond their pixels if they filled the page


@dataclass
class Gallery:
    """A row a sample; on a narrow screen each row becomes a block of its own."""

    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def html(self) -> str:
        """All rows."""
        few = len(self.columns) <= _FEW
        style = f' class="few" style="--columns: {len(self.columns)}"' if few else ""
        return f"<div{style}>" + "".join(map(self._row, range(len(self.rows)))) + "</div>"

    def _row(self, number: int) -> str:
        cells = zip(self.columns, self.rows[number], strict=False)
        figures = (
            _figure(cell, column, f"{column}, sample {number + 1}") for column, cell in cells
        )
        return f'<div class="sample">{"".join(figures)}</div>'


def embed(picture: Image.Image, alt: str = "", size: int = _SHOWN) -> str:
    """A picture as an ``img`` element with its data inside, enlarged by a whole number to about
    ``size`` pixels where it is small.
    """
    if max(picture.size) < size:
        scale = max(1, round(size / max(picture.size)))
        picture = picture.resize(
            (picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC
        )
    else:
        picture = picture.copy()
        picture.thumbnail((2 * size, 2 * size))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img alt="{html.escape(alt)}" width="{picture.width}" height="{picture.height}"'
        f' loading="lazy" style="height: auto" src="data:image/webp;base64,{data}">'
    )


def _figure(cell: Cell, column: str, alt: str) -> str:
    name = f"<b>{html.escape(column)}</b>"
    if isinstance(cell, str):
        shown = f'<div class="text">{html.escape(cell)}</div>'
        return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"
    value, raw = cell
    text = html.escape(raw.line(value))
    if not raw.has_picture:
        shown = f'<div class="text">{text}</div>'
        return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"
    below = f"{name} {text}" if text else name
    return f"<figure>{embed(raw.picture(value), alt)}<figcaption>{below}</figcaption></figure>"
