"""Raw values as pictures and text that a person can look at."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fourm.errors import UserError
from fourm.modalities import RawSpec

# viridis, five stops
_MAP = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float32
)
_BOX_CANVAS = 192


def class_colors(num: int) -> np.ndarray:
    """Distinct colours (num, 3) uint8; the first two muted, as they are backgrounds more often than
    not.
    """
    colors = [colorsys.hsv_to_rgb((0.61 * i) % 1.0, 0.65, 0.95) for i in range(num)]
    return (np.array([(0.82, 0.88, 0.95), (0.62, 0.60, 0.58), *colors])[:num] * 255).astype(
        np.uint8
    )


def picture_of(value: Any, spec: RawSpec) -> Image.Image:
    """One raw value as a picture. Raises UserError for text: it is its own picture."""
    if spec.type == "image":
        return Image.fromarray(value)
    if spec.type == "depth":
        low, high = spec.range
        return Image.fromarray(_colored((np.asarray(value, np.float32) - low) / (high - low)))
    if spec.type == "normal":
        return Image.fromarray(((np.asarray(value) + 1) * 127.5).clip(0, 255).astype(np.uint8))
    if spec.type == "labels":
        return Image.fromarray(class_colors(len(spec.classes))[np.asarray(value)])
    if spec.type == "array":
        low, high = spec.range
        first = np.asarray(value, np.float32)
        first = first if first.ndim == 2 else first[..., 0]
        return Image.fromarray(_colored((first - low) / (high - low)))
    if spec.type == "boxes":
        return _boxes_picture(value)
    if spec.type == "palette":
        return _palette_picture(value)
    raise UserError(f"{spec.type} has no picture")


def text_of(value: Any, spec: RawSpec) -> str:
    """One raw value as a line of text; empty for what is shown as a picture."""
    if spec.type == "text":
        return str(value)
    if spec.type == "boxes":
        return ", ".join(str(box["label"]) for box in value)
    if spec.type == "words":
        return ", ".join(value)
    if spec.type == "numbers":
        return ", ".join(f"{number:.3g}" for number in value)
    return ""


def has_picture(spec: RawSpec) -> bool:
    return spec.dense or spec.type in ("boxes", "palette")


def _colored(values: np.ndarray) -> np.ndarray:
    place = np.clip(values, 0, 1) * (len(_MAP) - 1)
    low = np.minimum(place.astype(int), len(_MAP) - 2)
    share = (place - low)[..., None]
    return (_MAP[low] * (1 - share) + _MAP[low + 1] * share).astype(np.uint8)


def _boxes_picture(boxes: list[dict[str, Any]]) -> Image.Image:
    picture = Image.new("RGB", (_BOX_CANVAS, _BOX_CANVAS), (248, 248, 248))
    draw = ImageDraw.Draw(picture)
    for i, box in enumerate(boxes):
        color = tuple(int(c) for c in class_colors(i + 3)[-1])
        x0, y0, x1, y1 = (float(c) * _BOX_CANVAS for c in box["box"])
        x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        draw.rectangle((x0, y0, x1, y1), outline=color, width=3)
        draw.text((x0 + 4, y0 + 3), str(box["label"]), fill=(30, 30, 30))
    return picture


def _palette_picture(colors: list[list[int]]) -> Image.Image:
    picture = Image.new("RGB", (_BOX_CANVAS, _BOX_CANVAS // 2), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    for i, color in enumerate(colors):
        left, right = i * _BOX_CANVAS / len(colors), (i + 1) * _BOX_CANVAS / len(colors)
        draw.rectangle((left, 0, right, _BOX_CANVAS // 2), fill=tuple(int(c) for c in color))
    return picture
