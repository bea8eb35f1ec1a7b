"""Structured values spelled as text: boxes, colour palettes, lists of numbers, lists of words (and
those of ``structured_4m``).

Numbers become coordinate tokens ``v<axis>=<bin>`` with ``num_bins`` bins; encoding rounds, decoding
gives the bin's value, so a round trip is exact up to half a bin. Decoding never fails: what a model
spells wrongly is left out.

* boxes: ``[{"box": [x0, y0, x1, y1], "label": "red cube"}, ...]``, corners in [0, 1] -> ``v0= v1=
  v2= v3= red cube``; their order is kept: sort them as the model should learn to say them.
* palette: ``[[r, g, b], ...]`` in 0..255 -> ``v1=<count>`` and three ``v0=`` a colour: the numbers
  themselves if there are bins enough.
* numbers: ``[0.3, ...]`` over the modality's range -> one ``v0=`` each.
* words: ``["wood", "metal", ...]`` -> the words with commas.
"""

from __future__ import annotations

import re
from typing import Any

from fourm.errors import UserError
from fourm.modalities import RawSpec
from fourm_tokenizers.structured_4m import (
    instances_from_text,
    instances_to_text,
    metadata_from_text,
    metadata_to_text,
    poses_from_text,
    poses_to_text,
)

_TOKEN = re.compile(r"v([0-9])=([0-9]+)")


def to_text(value: Any, spec: RawSpec, num_bins: int) -> str:
    """One raw value as a line. Raises UserError that says what is wrong with the value."""
    if spec.type == "text":
        if not isinstance(value, str):
            raise UserError(f"text must be a string, not {type(value).__name__}")
        return value
    if spec.type == "metadata":
        return metadata_to_text(value)
    if spec.type == "poses":
        return poses_to_text(value, num_bins)
    if spec.type == "instances":
        return instances_to_text(value, spec.size or num_bins)
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{spec.type} must be a list, not {type(value).__name__}")
    if spec.type == "boxes":
        return " ".join(_box(item, num_bins) for item in value)
    if spec.type == "palette":
        colors = [_numbers(color, 3, "a colour of a palette") for color in value]
        parts = [
            f"v0={_bin(number, 0.0, 255.0, _color_bins(num_bins))}"
            for color in colors
            for number in color
        ]
        return " ".join([f"v1={min(len(colors), num_bins - 1)}", *parts])
    if spec.type == "numbers":
        return " ".join(
            f"v0={_bin(number, *spec.range, num_bins)}"
            for number in _numbers(value, len(value), "numbers")
        )
    if spec.type == "words":
        if not all(isinstance(word, str) for word in value):
            raise UserError("words must be strings")
        return ", ".join(value)
    raise UserError(f"raw type {spec.type} is not spelled as text")


def from_text(line: str, spec: RawSpec, num_bins: int) -> Any:
    """A line back to the raw value; malformed parts are left out."""
    if spec.type == "text":
        return line
    if spec.type == "words":
        return [word.strip() for word in line.split(",") if word.strip()]
    if spec.type == "metadata":
        return metadata_from_text(line)
    if spec.type == "poses":
        return poses_from_text(line, num_bins)
    if spec.type == "instances":
        return instances_from_text(line)
    if spec.type == "boxes":
        return _boxes(line, num_bins)
    if spec.type == "palette":
        bins = _color_bins(num_bins)
        numbers = [
            min(_value(bin_, 0.0, 255.0, bins), 255.0) for axis, bin_ in _tokens(line) if axis == 0
        ]
        return [[round(n) for n in numbers[i : i + 3]] for i in range(0, len(numbers) - 2, 3)]
    if spec.type == "numbers":
        return [_value(bin_, *spec.range, num_bins) for axis, bin_ in _tokens(line) if axis == 0]
    raise UserError(f"raw type {spec.type} is not spelled as text")


def _box(item: Any, num_bins: int) -> str:
    if not isinstance(item, dict) or "box" not in item or "label" not in item:
        raise UserError('a box must be {"box": [x0, y0, x1, y1], "label": "..."}')
    corners = _numbers(item["box"], 4, "the corners of a box")
    places = " ".join(
        f"v{axis}={_bin(corner, 0.0, 1.0, num_bins)}" for axis, corner in enumerate(corners)
    )
    return f"{places} {item['label']}"


def _boxes(line: str, num_bins: int) -> list[dict[str, Any]]:
    boxes = []
    for part in re.split(r"(?=\bv0=)", line):
        corners = dict(_tokens(part))
        label = " ".join(_TOKEN.sub(" ", part).split())
        if set(corners) == {0, 1, 2, 3} and label:
            boxes.append(
                {
                    "box": [_value(corners[axis], 0.0, 1.0, num_bins) for axis in range(4)],
                    "label": label,
                }
            )
    return boxes


def _color_bins(num_bins: int) -> int:
    return 256 if num_bins >= 256 else num_bins


def _tokens(line: str) -> list[tuple[int, int]]:
    return [(int(axis), int(value)) for axis, value in _TOKEN.findall(line)]


def _numbers(value: Any, count: int, what: str) -> list[float]:
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError):
        raise UserError(f"{what} must be {count} numbers, not {value!r}") from None
    if len(numbers) != count or any(number != number for number in numbers):
        raise UserError(f"{what} must be {count} numbers, not {value!r}")
    return numbers


def _bin(number: float, low: float, high: float, num_bins: int) -> int:
    return round(min(max((number - low) / (high - low), 0.0), 1.0) * (num_bins - 1))


def _value(bin_: int, low: float, high: float, num_bins: int) -> float:
    return low + bin_ / (num_bins - 1) * (high - low)
