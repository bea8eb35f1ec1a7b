"""The surface on which masks and class maps are painted, boxes drawn and places chosen.

``pad.js`` runs in the browser and sends small plain data: the index of each cell's ink, or shares
of the surface's sides. It is checked here, as anyone may send anything. Gradio's own image editor
was not used: it has colours for brushes but no names, and gives back blended pixels.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
from PIL import Image

from fourm.data.pictures import write_png
from fourm.errors import UserError

Tool = Literal["paint", "boxes", "place", "none"]
BARE, OPEN = 255, 254  # cells that nothing was painted on, and those marked "leave open"
MOST_INKS = 200
MOST_SIDE = 512  # cells of a painting's side

_SCRIPT = Path(__file__).with_name("pad.js").read_text()
_SHOWN = 512  # pixels of a picture below


@dataclass(frozen=True)
class Ink:
    """What a brush writes: its index in the cells, its name and its colour with alpha."""

    index: int
    name: str
    color: tuple[int, int, int, int]

    @property
    def told(self) -> dict[str, Any]:
        """As ``pad.js`` reads it."""
        return {"index": self.index, "name": self.name, "color": list(self.color)}


@dataclass(frozen=True, kw_only=True)
class Pad:
    """A surface and what it is for."""

    tool: Tool
    says: str  # what it is, for those who do not see it
    side: int = 0  # cells of a painting's side
    inks: Sequence[Ink] = ()
    aspect: float = 1.0  # its width by its height
    note: str = ""  # stands above it

    def build(self, picture: str = "", **settings: Any) -> gr.HTML:
        """Its component, with a picture (a data URL) below what is painted."""
        return gr.HTML(
            value="",
            html_template='<div class="pad"></div>',
            js_on_load=_SCRIPT,
            apply_default_css=False,
            **self._props(picture),
            **settings,
        )

    def changed(self, picture: str, **settings: Any) -> gr.HTML:
        """The update to another picture: gradio forgets what an update does not repeat."""
        return gr.HTML(**self._props(picture), **settings)

    def _props(self, picture: str) -> dict[str, Any]:
        inks = [ink.told for ink in self.inks]
        return {**vars(self), "inks": inks, "picture": picture}


def painted(value: Any, side: int) -> np.ndarray:
    """What was painted: index of the ink of each cell, uint8 (side, side). Raises UserError."""
    if value in (None, ""):
        return np.full((side, side), BARE, np.uint8)
    try:
        data = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise UserError("what was painted did not arrive whole: paint again") from None
    if len(data) != side * side:
        raise UserError(f"a painting has {side * side} cells, this has {len(data)}")
    return np.frombuffer(data, np.uint8).reshape(side, side)


def drawn(value: Any, count: int) -> list[float]:
    """So many shares of the surface's sides, each in [0, 1]. Raises UserError."""
    try:
        shares = [float(number) for number in json.loads(value)[:count]]
    except (TypeError, ValueError, LookupError, RecursionError):
        raise UserError("what was drawn did not arrive whole: draw again") from None
    if len(shares) != count or not all(0 <= share <= 1 for share in shares):
        raise UserError("what was drawn lies outside of the picture: draw again")
    return shares


def data_url(picture: Image.Image) -> str:
    """A picture with its data inside, as it is unless it is very large."""
    if max(picture.size) > _SHOWN:
        picture = picture.copy()
        picture.thumbnail((_SHOWN, _SHOWN))
    data = base64.b64encode(write_png(np.asarray(picture.convert("RGB")))).decode()
    return f"data:image/png;base64,{data}"
