"""Structured values of 4M-21 spelled as text: picture metadata, human poses, SAM instances.
Spelling as the released models know it.

* metadata: ``{"brightness": 130.5, "n_humans": 2, ...}`` -> ``v1=<kind> v0=<bin>`` for each entry;
  ranged kinds have 50 bins.
* poses: ``[{"box": [x0, y0, x1, y1], "pose": [8 ids], "global": [9 numbers], "shape": [10],
  "camera": [3]}, ...]`` -> ``human``, the corners, then the four blocks in the order of the
  mapping; nobody -> ``none``. The ids are those of the pose tokenizer.
* instances: ``{"points": [{"at": [x, y], "instances": [{"box": [x0, y0, x1, y1], "mask": [16 ids]},
  ...]}, ...]}`` in pixels -> ``point v0=<y> v1=<x>``, then ``polygon`` with corners and mask ids
  for each instance at that point, or ``none``.

A decoded value encodes to the same ids again. Decoding never fails: what a model spells wrongly is
left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fourm.errors import UserError

_MAX_COUNT = 999
_RANGED_BINS = 50
_HALF_IDS = 512  # ids below are v0=, the others v1= less this
POSE_BLOCKS = {"pose": 8, "global": 9, "shape": 10, "camera": 3}  # numbers in each
# bin = round(a x + b)
_BLOCK_SCALE = {"global": (499.5, 499.5), "shape": (166.5, 499.5), "camera": (49.95, 49.95)}
NUM_MASK_IDS = 16
_WORD = re.compile(r"v([0-3])=([0-9]+)|([a-z]+)")


@dataclass(frozen=True)
class MetadataKind:
    """How one kind of metadata becomes a bin: a count in units, a range of 50 bins, or
    thresholds.
    """

    name: str
    unit: int = 1  # counts: this many make one
    range: tuple[float, float] | None = None
    thresholds: tuple[float, ...] = ()

    def to_bin(self, value: float) -> int:
        if self.thresholds:
            return sum(value >= t for t in self.thresholds)
        if self.range is not None:
            low, high = self.range
            return int(min(max((value - low) / (high - low), 0.0), 1.0) * (_RANGED_BINS - 1))
        return int(min(max(value, 0), _MAX_COUNT * self.unit) // self.unit)

    def to_value(self, bin_: int) -> float | int:
        """The middle of a bin (of thresholds: half a unit beyond the outer ones)."""
        if self.thresholds:
            edges = [self.thresholds[0] - 1.0, *self.thresholds, self.thresholds[-1] + 1.0]
            bin_ = min(bin_, len(self.thresholds))
            return (edges[bin_] + edges[bin_ + 1]) / 2
        if self.range is not None:
            low, high = self.range
            bin_ = min(bin_, _RANGED_BINS - 1)
            share = 1.0 if bin_ == _RANGED_BINS - 1 else (bin_ + 0.5) / (_RANGED_BINS - 1)
            return low + share * (high - low)
        return min(bin_, _MAX_COUNT) * self.unit


METADATA = (
    MetadataKind("original_width", unit=32),
    MetadataKind("original_height", unit=32),
    MetadataKind("caption_n_chars"),
    MetadataKind("caption_n_words"),
    MetadataKind("caption_n_sentences"),
    MetadataKind("n_humans"),
    MetadataKind("n_sam_instances"),
    MetadataKind("n_coco_instances"),
    MetadataKind("coco_instance_diversity"),
    MetadataKind("colorfulness", range=(0.0, 150.0)),
    MetadataKind("brightness", range=(0.0, 255.0)),
    MetadataKind("contrast", range=(0.0, 127.0)),
    MetadataKind("saturation", range=(0.0, 255.0)),
    MetadataKind("entropy", range=(0.0, 10.0)),
    MetadataKind("walkability", range=(0.0, 1.0)),
    MetadataKind("objectness", range=(0.0, 1.0)),
    MetadataKind("semantic_diversity"),
    MetadataKind("geometric_complexity", range=(0.0, 0.75)),
    MetadataKind("occlusion_score", range=(0.0, 0.25)),
    MetadataKind("watermark_score", thresholds=(0.5,)),
    MetadataKind("aesthetic_score", thresholds=(4.5, 5.5)),
)
_KIND = {kind.name: (number, kind) for number, kind in enumerate(METADATA)}


def metadata_to_text(value: Any) -> str:
    """Raises UserError for an unknown kind or a value that is no number."""
    if not isinstance(value, dict):
        raise UserError(f"metadata must be a mapping, not {type(value).__name__}")
    words = []
    for name, number in value.items():
        if name not in _KIND:
            raise UserError(f"unknown metadata {name!r}; known are {', '.join(_KIND)}")
        index, kind = _KIND[name]
        words.append(f"v1={index} v0={kind.to_bin(_finite(number, name))}")
    return " ".join(words)


def metadata_from_text(line: str) -> dict[str, float | int]:
    result: dict[str, float | int] = {}
    words = _words(line)
    for (axis, number), (next_axis, bin_) in pairwise(words):
        if axis == 1 and next_axis == 0 and int(number) < len(METADATA):
            kind = METADATA[int(number)]
            result.setdefault(kind.name, kind.to_value(int(bin_)))
    return result


def poses_to_text(value: Any, num_bins: int) -> str:
    """Raises UserError for a missing block or a wrong count of numbers."""
    if not isinstance(value, list):
        raise UserError(f"poses must be a list, not {type(value).__name__}")
    if not value:
        return "none"
    return " ".join(_person(person, num_bins) for person in value)


def _person(person: Any, num_bins: int) -> str:
    if not isinstance(person, dict) or set(person) != {"box", *POSE_BLOCKS}:
        raise UserError(f"a pose must have exactly box, {', '.join(POSE_BLOCKS)}")
    corners = [_finite(n, "box") for n in _list(person["box"], 4, "box")]
    words = [
        "human",
        *(
            f"v{axis}={round(min(max(c, 0.0), 1.0) * (num_bins - 1))}"
            for axis, c in enumerate(corners)
        ),
    ]
    for name in person:
        if name == "box":
            continue
        numbers = _list(person[name], POSE_BLOCKS[name], name)
        words.append(name)
        if name == "pose":
            words += [_id_word(n, "pose") for n in numbers]
        else:
            scale, offset = _BLOCK_SCALE[name]
            words += [
                f"v0={round(min(max(scale * _finite(n, name) + offset, 0), 999))}" for n in numbers
            ]
    return " ".join(words)


def poses_from_text(line: str, num_bins: int) -> list[dict[str, Any]]:
    people: list[dict[str, Any]] = []
    for words in _split(line, "human"):
        person: dict[str, Any] = {}
        corners, rest = words[:4], words[4:]
        if [axis for axis, _ in corners] != [0, 1, 2, 3]:
            continue
        person["box"] = [int(n) / (num_bins - 1) for _, n in corners]
        block = ""
        for axis, number in rest:
            if axis is None:
                block = number if number in POSE_BLOCKS else ""
                if block:
                    person[block] = []
            elif block == "pose":
                person[block].append(int(number) + _HALF_IDS * axis)
            elif block and axis == 0:
                scale, offset = _BLOCK_SCALE[block]
                person[block].append((int(number) - offset) / scale)
        ids_fit = all(0 <= i < 2 * _HALF_IDS for i in person.get("pose", ()))
        if ids_fit and all(
            len(person.get(name, ())) == count for name, count in POSE_BLOCKS.items()
        ):
            people.append(person)
    return people


def instances_to_text(value: Any, size: int) -> str:
    """``size`` in pixels bounds all coordinates. Raises UserError for anything of another form."""
    if not isinstance(value, dict) or not isinstance(value.get("points"), list):
        raise UserError('instances must be {"points": [...]}')
    words = []
    for point in value["points"]:
        if not isinstance(point, dict) or set(point) != {"at", "instances"}:
            raise UserError('a point must be {"at": [x, y], "instances": [...]}')
        x, y = (_pixel(n, size) for n in _list(point["at"], 2, "at"))
        words += ["point", f"v0={y}", f"v1={x}"]
        for instance in point["instances"]:
            if not isinstance(instance, dict) or set(instance) != {"box", "mask"}:
                raise UserError('an instance must be {"box": [x0, y0, x1, y1], "mask": [ids]}')
            words += [
                "polygon",
                *(
                    f"v{axis}={_pixel(n, size)}"
                    for axis, n in enumerate(_list(instance["box"], 4, "box"))
                ),
            ]
            words += [_id_word(i, "mask") for i in _list(instance["mask"], NUM_MASK_IDS, "mask")]
        if not point["instances"]:
            words.append("none")
    return " ".join(words)


def instances_from_text(line: str) -> dict[str, Any]:
    points = []
    for words in _split(line, "point"):
        if [axis for axis, _ in words[:2]] != [0, 1]:
            continue
        (_, y), (_, x) = words[:2]
        instances = []
        for part in _split_words(words[2:], "polygon"):
            if len(part) >= 4 + NUM_MASK_IDS and [axis for axis, _ in part[:4]] == [0, 1, 2, 3]:
                ids = part[4 : 4 + NUM_MASK_IDS]
                if all(axis in (0, 1) and int(n) < _HALF_IDS for axis, n in ids):
                    mask = [int(n) + _HALF_IDS * int(axis or 0) for axis, n in ids]
                    instances.append({"box": [int(n) for _, n in part[:4]], "mask": mask})
        points.append({"at": [int(x), int(y)], "instances": instances})
    return {"points": points}


_Words = list[tuple[int | None, str]]  # (axis, number) of a coordinate, (None, word) of a word


def _words(line: str) -> _Words:
    return [(int(m[1]), m[2]) if m[1] is not None else (None, m[3]) for m in _WORD.finditer(line)]


def _split(line: str, word: str) -> list[_Words]:
    return _split_words(_words(line), word)


def _split_words(words: _Words, at: str) -> list[_Words]:
    """The stretches that follow each ``at``."""
    parts: list[_Words] = []
    for entry in words:
        if entry == (None, at):
            parts.append([])
        elif parts:
            parts[-1].append(entry)
    return parts


def _id_word(value: Any, what: str) -> str:
    if not isinstance(value, int) or not 0 <= value < 2 * _HALF_IDS:
        raise UserError(f"{what}: ids are integers in 0..{2 * _HALF_IDS - 1}, not {value!r}")
    return f"v{value // _HALF_IDS}={value % _HALF_IDS}"


def _pixel(value: Any, size: int) -> int:
    return round(min(max(_finite(value, "a coordinate"), 0), size - 1))


def _list(value: Any, count: int, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise UserError(f"{what} must be {count} numbers, not {value!r}")
    return list(value)


def _finite(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{what} must be a number, not {value!r}") from None
    if not abs(number) < float("inf"):
        raise UserError(f"{what} must be finite, not {value!r}")
    return number
