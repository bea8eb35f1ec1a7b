"""The widget of boxes: drawn over the picture, or typed, a line each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
import PIL.ImageDraw

from fourm.app.pad import Pad, data_url, drawn
from fourm.app.telling import QUIET, told
from fourm.app.widget import GAP, TypedWidget, widget_of
from fourm.errors import UserError
from fourm.raw._colors import class_colors
from fourm.raw.boxes import Boxes

_DIVIDERS = re.compile(r"[\s:,]+")
_IS_GAP = re.compile(r"\[S_\d+\]")
_SHOWN = 384  # pixels of the picture that they are drawn on
_UNNAMED = "object"


@dataclass
class BoxesWidget(TypedWidget):
    """A line a box: its label and two corners as shares of the picture's sides."""

    lines = 3
    hint = f"A line a box: label, left, top, right, bottom from 0 to 1; {GAP} for unknown ones."

    @property
    def example(self) -> str:
        return "red cube 0.10 0.35 0.45 0.80"

    def build(self, backdrop: gr.State | None) -> list[Any]:
        rows = self.box()
        label = gr.Textbox(
            label="Label of the next box", value=_UNNAMED, elem_id=f"label-{self.modality.name}"
        )
        ground = data_url(PIL.Image.new("RGB", (8, 8), (248, 248, 248)))
        surface = self.surface.build(ground, elem_id=f"pad-{self.modality.name}")
        behind = [] if backdrop is None else [backdrop]
        surface.input(told(self._with_box), [rows, surface, label], rows, **QUIET)
        rows.change(told(self._redrawn), [rows, *behind], surface, **QUIET)
        if backdrop is not None:
            backdrop.change(told(self._redrawn), [rows, backdrop], surface, **QUIET)
        return [rows]

    @property
    def surface(self) -> Pad:
        """What they are drawn on."""
        says = f"{self.modality.name}: drag a box. Arrow keys move, Enter sets its two corners."
        return Pad(tool="boxes", says=says, note="Drag a box over the picture.")

    def parsed(self, text: str) -> Any:
        rows: list[Any] = []
        for number, line in enumerate(text.splitlines(), 1):
            row = line.strip() if _IS_GAP.fullmatch(line.strip()) else _row(line)
            if row is not None:
                rows.append(row)
            elif line.strip():
                raise UserError(
                    f"line {number} of {self.modality.name} is no label with four numbers, such as"
                    f" {self.example!r}"
                )
        _ = self.modality.raw.accept([row for row in rows if isinstance(row, dict)])
        return rows

    def typed(self, value: Any) -> str:
        return "\n".join(_line(item["label"], item["box"]) for item in value)

    def _with_box(self, text: str, chosen: Any, label: str) -> str:
        row = _line((label or "").strip() or _UNNAMED, drawn(chosen, 4))
        return f"{(text or '').rstrip()}\n{row}".strip()

    def _redrawn(self, text: str, held: Any = None) -> Any:
        """The boxes over what is given; lines that are not finished are left out."""
        size = (_SHOWN, _SHOWN)
        ground = PIL.Image.new("RGB", size, (248, 248, 248))
        if held is not None:
            ground = PIL.Image.fromarray(np.asarray(held)).convert("RGB").resize(size)
        draw = PIL.ImageDraw.Draw(ground)
        for i, line in enumerate((text or "").splitlines()):
            row = _row(line)
            if row is None:
                continue
            x0, y0, x1, y1 = (min(max(n, -1.0), 2.0) * _SHOWN for n in row["box"])
            if x0 <= x1 and y0 <= y1:
                color = tuple(int(c) for c in class_colors(i + 3)[-1])
                draw.rectangle((x0, y0, x1, y1), outline=color, width=3)
                draw.text((x0 + 5, y0 + 3), row["label"], fill=color)
        return self.surface.changed(data_url(ground))


def _row(line: str) -> dict[str, Any] | None:
    """The box that a line names; None where it is none (yet)."""
    parts = [part for part in _DIVIDERS.split(line) if part]
    try:
        corners = [float(part) for part in parts[-4:]]
    except ValueError:
        return None
    if len(parts) < 5 or any(corner != corner for corner in corners):
        return None
    return {"box": corners, "label": " ".join(parts[:-4])}


def _line(label: str, box: Any) -> str:
    return " ".join([label, *(f"{corner:.2f}" for corner in box)])


widget_of.register(Boxes, lambda raw: BoxesWidget)
