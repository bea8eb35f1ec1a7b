"""Colours for what has none: numbers on a map, classes in distinct hues."""

from __future__ import annotations

import colorsys
import re

import numpy as np

from fourm.errors import UserError, shown
from fourm.raw._legend import Color

# viridis, five stops
_MAP = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float32
)
IGNORED = (128, 128, 128)  # of what has no class
_BACKGROUNDS = [(0.82, 0.88, 0.95), (0.62, 0.60, 0.58)]


def class_colors(num: int) -> np.ndarray:
    """Distinct colours (num, 3) uint8; the first two muted, as they are backgrounds more often than
    not.
    """
    hues = [colorsys.hsv_to_rgb((0.61 * i) % 1.0, 0.65, 0.95) for i in range(num)]
    return (np.array([*_BACKGROUNDS, *hues])[:num] * 255).astype(np.uint8)


def color_of(given: Color | str) -> Color:
    """A colour from three numbers in 0..255 or from ``#rrggbb``. Raises UserError."""
    if isinstance(given, str):
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", given):
            raise UserError(f"colour {shown(given)} is not of the form '#rrggbb' (in quotes)")
        return int(given[1:3], 16), int(given[3:5], 16), int(given[5:], 16)
    if not all(0 <= part <= 255 for part in given):
        raise UserError(f"colour {list(given)}: its numbers are 0..255")
    return given


def scale_colors() -> tuple[Color, ...]:
    """Colours of ``colored`` at even distances from 0 to 1."""
    return tuple((int(r), int(g), int(b)) for r, g, b in _MAP)


def colored(values: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] (H, W) -> uint8 (H, W, 3)."""
    place = np.clip(values, 0, 1) * (len(_MAP) - 1)
    low = np.minimum(place.astype(int), len(_MAP) - 2)
    share = (place - low)[..., None]
    return (_MAP[low] * (1 - share) + _MAP[low + 1] * share).astype(np.uint8)
