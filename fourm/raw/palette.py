"""Colour palettes: ``[[r, g, b], ...]`` in 0..255.

Spelled ``v1=<count>`` and three ``v0=`` a colour: the numbers themselves if there are bins enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import PIL.Image
import PIL.ImageDraw

from fourm.errors import UserError
from fourm.raw._json import Json
from fourm.raw._spelling import coordinates, from_bin, numbers, to_bin

_WIDTH = 192  # pixels of the picture that shows it
_LEVELS = 256  # values of a colour


@dataclass(frozen=True, kw_only=True)
class Palette(Json, name="palette"):
    """A list of colours, say the main ones of a picture."""

    element: ClassVar[tuple[type, ...]] = (list, tuple)
    has_picture: ClassVar[bool] = True
    placeless: ClassVar[bool] = True

    def is_element(self, first: Any) -> bool:
        """A palette is a list of triples, a batch a list of lists of triples."""
        holds_colors = isinstance(first, self.element) and len(first) > 0
        return not (holds_colors and isinstance(first[0], self.element))

    def check(self, value: Any) -> list[list[float]]:
        """Colours in 0..255; those in 0..1 would all be black and are refused."""
        colors = [numbers(color, 3, "a colour of a palette") for color in self.listed(value)]
        parts = [part for color in colors for part in color]
        if any(not 0 <= part <= _LEVELS - 1 for part in parts):
            raise UserError(f"colours of a palette are numbers in 0..{_LEVELS - 1}")
        if any(0 < part < 1 for part in parts) and max(parts) <= 1:
            raise UserError(f"colours of a palette are numbers in 0..{_LEVELS - 1}, not in 0..1")
        return value

    def picture(self, value: list[list[int]]) -> PIL.Image.Image:
        picture = PIL.Image.new("RGB", (_WIDTH, _WIDTH // 2), (255, 255, 255))
        draw = PIL.ImageDraw.Draw(picture)
        for i, color in enumerate(value):
            left, right = i * _WIDTH / len(value), (i + 1) * _WIDTH / len(value)
            draw.rectangle((left, 0, right, _WIDTH // 2), fill=tuple(int(c) for c in color))
        return picture

    def line(self, value: list[list[int]]) -> str:
        return ""

    def to_text(self, value: Any, num_bins: int) -> str:
        colors = [numbers(color, 3, "a colour of a palette") for color in self.listed(value)]
        bins = min(num_bins, _LEVELS)
        parts = [f"v0={to_bin(number, 0.0, 255.0, bins)}" for color in colors for number in color]
        return " ".join([f"v1={min(len(colors), num_bins - 1)}", *parts])

    def from_text(self, line: str, num_bins: int) -> list[list[int]]:
        bins = min(num_bins, _LEVELS)
        found = [
            min(from_bin(bin_, 0.0, 255.0, bins), 255.0)
            for axis, bin_ in coordinates(line)
            if axis == 0
        ]
        return [[round(n) for n in found[i : i + 3]] for i in range(0, len(found) - 2, 3)]
