"""SAM instances of 4M-21 (2406.09406): ``{"points": [{"at": [x, y], "instances": [{"box": [x0, y0,
x1, y1], "mask": [16 ids]}, ...]}, ...]}`` in pixels.

Spelled as the released models know it: ``point v0=<y> v1=<x>``, then ``polygon`` with corners and
mask ids for each instance at that point, or ``none``. A decoded value encodes to the same ids
again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from fourm.errors import UserError, shown
from fourm.raw._json import Json
from fourm.raw._spelling import HALF_IDS, Words, finite, id_word, sized, stretches, words

NUM_MASK_IDS = 16


@dataclass(frozen=True, kw_only=True)
class Instances(Json, name="instances"):
    """Points and the instances found there; ``size`` bounds their coordinates."""

    size: int = 0  # pixels of the picture's sides; 0 = as many as there are bins

    form: ClassVar[type] = dict

    @property
    def pixels(self) -> int:
        return self.size

    def resized(self, pixels: int) -> Self:
        return replace(self, size=pixels)

    def to_text(self, value: Any, num_bins: int) -> str:
        if not isinstance(value, dict) or not isinstance(value.get("points"), list):
            raise UserError('instances must be {"points": [...]}')
        size = self.size or num_bins
        return " ".join(_spelled(point, size) for point in value["points"])

    def from_text(self, line: str, num_bins: int) -> dict[str, Any]:
        points = []
        for given in stretches(words(line), "point"):
            if [axis for axis, _ in given[:2]] != [0, 1]:
                continue
            (_, y), (_, x) = given[:2]
            found = (_instance(part) for part in stretches(given[2:], "polygon"))
            instances = [instance for instance in found if instance is not None]
            points.append({"at": [int(x), int(y)], "instances": instances})
        return {"points": points}


def _spelled(point: Any, size: int) -> str:
    if not isinstance(point, dict) or set(point) != {"at", "instances"}:
        raise UserError('a point must be {"at": [x, y], "instances": [...]}')
    x, y = (_pixel(n, size) for n in sized(point["at"], 2, "at"))
    spelled = ["point", f"v0={y}", f"v1={x}"]
    if not isinstance(point["instances"], (list, tuple)):
        raise UserError(f"the instances of a point must be a list, not {shown(point['instances'])}")
    for instance in point["instances"]:
        if not isinstance(instance, dict) or set(instance) != {"box", "mask"}:
            raise UserError('an instance must be {"box": [x0, y0, x1, y1], "mask": [ids]}')
        box = sized(instance["box"], 4, "box")
        spelled += ["polygon", *(f"v{axis}={_pixel(n, size)}" for axis, n in enumerate(box))]
        spelled += [id_word(i, "mask") for i in sized(instance["mask"], NUM_MASK_IDS, "mask")]
    if not point["instances"]:
        spelled.append("none")
    return " ".join(spelled)


def _instance(part: Words) -> dict[str, Any] | None:
    """An instance from the words that follow ``polygon``; None where something is wrong."""
    corners, ids = part[:4], part[4 : 4 + NUM_MASK_IDS]
    if len(ids) < NUM_MASK_IDS or [axis for axis, _ in corners] != [0, 1, 2, 3]:
        return None
    if not all(axis in (0, 1) and int(n) < HALF_IDS for axis, n in ids):
        return None
    mask = [int(n) + HALF_IDS * int(axis or 0) for axis, n in ids]
    return {"box": [int(n) for _, n in corners], "mask": mask}


def _pixel(value: Any, size: int) -> int:
    return round(min(max(finite(value, "a coordinate"), 0), size - 1))
