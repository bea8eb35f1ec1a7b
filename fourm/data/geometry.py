"""Cutting and resizing raw values, so that all modalities of a picture show the same part of it.

A crop is a square of the picture in shares of its side, maybe mirrored. Crops are a pure function
of the sample's key, so every modality, worker and rerun cuts the same ones. Class ids stay class
ids, normals stay unit vectors (and turn when mirrored), boxes are moved and clipped; what has no
place in the picture (text, palettes, vectors) is left as it is.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fourm.errors import UserError
from fourm.modalities import RawSpec

_MIN_VISIBLE = 0.3  # share of a box's area that must be inside for the box to be kept
_AREA = (0.2, 1.0)  # of a random crop, in shares of the picture (as 4M)
_PLACELESS = ("text", "palette", "numbers", "words", "metadata", "vectors")


@dataclass(frozen=True)
class Crop:
    """A square part of a square picture."""

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    flip: bool = False

    @property
    def whole(self) -> bool:
        return self == Crop()

    def settings(self) -> np.ndarray:
        """(top, left, height, width, flip), float32 (5,)."""
        return np.array([self.top, self.left, self.side, self.side, self.flip], np.float32)


def crops_of(key: str, num: int, seed: int = 0, flip: bool = False) -> list[Crop]:
    """The crops of a sample: the whole picture, then random ones."""
    crops = [Crop()]
    for i in range(1, num):
        digest = hashlib.sha256(f"{seed}:{i}:{key}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        side = math.sqrt(rng.uniform(*_AREA))
        top, left = rng.uniform(0, 1 - side, 2)
        crops.append(Crop(float(top), float(left), side, bool(flip and rng.uniform() < 0.5)))
    return crops


def cut(value: Any, crop: Crop, spec: RawSpec) -> Any:
    """The part of a value that a crop shows, at the size of its modality.

    Raises UserError for a type that cannot be cropped.
    """
    if spec.dense:
        return _cut_picture(value, crop, spec)
    if crop.whole or spec.type in _PLACELESS:
        return value
    if spec.type == "boxes":
        return _cut_boxes(value, crop)
    raise UserError(f"values of type {spec.type} cannot be cropped")


def fit_value(value: np.ndarray, spec: RawSpec) -> np.ndarray:
    """A picture-like value of another size at the size of its modality."""
    if value.shape[:2] == (spec.size, spec.size):
        return value
    size = (spec.size, spec.size)
    if spec.type == "image":
        return np.asarray(Image.fromarray(value).resize(size, Image.Resampling.LANCZOS))
    if spec.type == "labels":
        return np.asarray(Image.fromarray(value).resize(size, Image.Resampling.NEAREST))
    maps = (
        torch.from_numpy(value.astype(np.float32))
        .reshape(*value.shape[:2], -1)
        .permute(2, 0, 1)[None]
    )
    maps = F.interpolate(maps, size, mode="bilinear", antialias=True, align_corners=False)[
        0
    ].permute(1, 2, 0)
    if spec.type == "normal":
        maps = F.normalize(maps, dim=-1)
    return maps[..., 0].numpy() if value.ndim == 2 else maps.numpy()


def _cut_picture(value: np.ndarray, crop: Crop, spec: RawSpec) -> np.ndarray:
    if not crop.whole:
        stored = value.shape[0]
        side = max(1, round(crop.side * stored))
        top, left = (min(round(share * stored), stored - side) for share in (crop.top, crop.left))
        value = value[top : top + side, left : left + side]
        if crop.flip:
            value = value[:, ::-1]
            if spec.type == "normal":
                value = value * np.array([-1.0, 1.0, 1.0], np.float32)
        value = np.ascontiguousarray(value)
    return fit_value(value, spec)


def _cut_boxes(boxes: list[dict[str, Any]], crop: Crop) -> list[dict[str, Any]]:
    kept = []
    for item in boxes:
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
