"""Boxes with labels: ``[{"box": [x0, y0, x1, y1], "label": "red cube"}, ...]``, corners in [0, 1].

Spelled ``v0= v1= v2= v3= red cube``. Their order is kept: sort them as a model should learn to say
them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import PIL.ImageDraw

from fourm.data.crops import Crop
from fourm.errors import UserError
from fourm.raw._colors import class_colors
from fourm.raw._json import Json
from fourm.raw._spelling import (
    coordinates,
    finite,
    from_bin,
    numbers,
    sized,
    to_bin,
    without_coordinates,
)

_MIN_VISIBLE = 0.3  # share of a box's area that must be inside of a crop for the box to be kept
# of a picture's side that corners may lie outside of it (detectors guess what is hidden); corners
# further out are in other units
_MARGIN = 1.0
_SLACK = 1e-3  # what rounding may put outside
_CANVAS = 192  # pixels of the picture that shows them


@dataclass(frozen=True, kw_only=True)
class Boxes(Json, name="boxes"):
    """A list of boxes; crops move and clip them."""

    element: ClassVar[type] = dict
    has_picture: ClassVar[bool] = True
    num_coordinates: ClassVar[int] = 4

    def check(self, value: Any) -> list[dict[str, Any]]:
        """A list of labelled boxes in shares of the picture; corners in pixels and boxes whose
        second corner lies before the first are refused.
        """
        return [_checked(item) for item in self.listed(value)]

    def remark(self, value: list[dict[str, Any]]) -> str | None:
        corners = _corners(value)
        if ((corners < -_SLACK) | (corners > 1 + _SLACK)).any():
            return "boxes that reach out of the picture, which are cut off at its border"
        return "boxes without area" if (corners[:, 2:] <= corners[:, :2]).any() else None

    def measured(self, value: list[dict[str, Any]]) -> Mapping[str, np.ndarray]:
        corners = _corners(value)
        size = corners[:, 2:] - corners[:, :2]
        return {"boxes": np.array([len(value)]), "area": size.prod(1)}

    def counted(self, value: list[dict[str, Any]]) -> Mapping[str, int]:
        return Counter(str(item["label"]) for item in value)

    def cut(self, value: list[dict[str, Any]], crop: Crop) -> list[dict[str, Any]]:
        if crop.whole:
            return value
        kept = []
        for item in value:
            x0, y0, x1, y1 = item["box"]
            moved = [
                (x0 - crop.left) / crop.side,
                (y0 - crop.top) / crop.side,
                (x1 - crop.left) / crop.side,
                (y1 - crop.top) / crop.side,
            ]
            inside = [min(max(c, 0.0), 1.0) for c in moved]
            area = (moved[2] - moved[0]) * (moved[3] - moved[1])
            visible = max(0.0, inside[2] - inside[0]) * max(0.0, inside[3] - inside[1])
            if area <= 0 or visible < _MIN_VISIBLE * area:
                continue
            if crop.flip:
                inside = [1 - inside[2], inside[1], 1 - inside[0], inside[3]]
            kept.append({**item, "box": [round(c, 4) for c in inside]})
        return kept

    def picture(self, value: list[dict[str, Any]]) -> PIL.Image.Image:
        picture = PIL.Image.new("RGB", (_CANVAS, _CANVAS), (248, 248, 248))
        draw = PIL.ImageDraw.Draw(picture)
        for i, box in enumerate(value):
            color = tuple(int(c) for c in class_colors(i + 3)[-1])
            x0, y0, x1, y1 = (float(c) * _CANVAS for c in box["box"])
            x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
            draw.rectangle((x0, y0, x1, y1), outline=color, width=3)
            draw.text((x0 + 4, y0 + 3), str(box["label"]), fill=(30, 30, 30))
        return picture

    def line(self, value: list[dict[str, Any]]) -> str:
        return ", ".join(str(box["label"]) for box in value)

    def to_text(self, value: Any, num_bins: int) -> str:
        return " ".join(_spelled(item, num_bins) for item in self.listed(value))

    def from_text(self, line: str, num_bins: int) -> list[dict[str, Any]]:
        boxes = []
        for part in re.split(r"(?=\bv0=)", line):
            corners, label = dict(coordinates(part)), without_coordinates(part)
            if set(corners) == {0, 1, 2, 3} and label:
                bins = (min(corners[axis], num_bins - 1) for axis in range(4))
                places = [from_bin(bin_, 0.0, 1.0, num_bins) for bin_ in bins]
                boxes.append({"box": places, "label": label})
        return boxes


def _checked(item: Any) -> dict[str, Any]:
    _form(item)
    box = [finite(c, "a corner of a box") for c in sized(item["box"], 4, "the corners of a box")]
    if any(not -_MARGIN <= c <= 1 + _MARGIN for c in box):
        raise UserError(
            f"box {item['box']}: corners are shares of the picture's sides in [0, 1]; divide pixels"
            " by its width and height"
        )
    if box[2] < box[0] or box[3] < box[1]:
        raise UserError(f"box {item['box']}: the second corner lies before the first")
    return item


def _form(item: Any) -> None:
    if not isinstance(item, dict) or "box" not in item or "label" not in item:
        raise UserError('a box must be {"box": [x0, y0, x1, y1], "label": "..."}')


def _corners(value: list[dict[str, Any]]) -> np.ndarray:
    """Corners (n, 4) of checked boxes."""
    return np.array([item["box"] for item in value], np.float64).reshape(-1, 4)


def _spelled(item: Any, num_bins: int) -> str:
    _form(item)
    corners = numbers(item["box"], 4, "the corners of a box")
    places = (f"v{axis}={to_bin(c, 0.0, 1.0, num_bins)}" for axis, c in enumerate(corners))
    return f"{' '.join(places)} {item['label']}"
