"""Human poses of 4M-21 (2406.09406): ``[{"box": [x0, y0, x1, y1], "pose": [8 ids], "global": [9
numbers], "shape": [10], "camera": [3]}, ...]``.

Spelled as the released models know it: ``human``, the corners, then the four blocks in the order of
the mapping; nobody -> ``none``. The ids are those of the pose tokenizer. A decoded value encodes to
the same ids again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fourm.errors import UserError
from fourm.raw._json import Json
from fourm.raw._spelling import (
    HALF_IDS,
    Words,
    finite,
    from_bin,
    id_word,
    sized,
    stretches,
    to_bin,
    words,
)

POSE_BLOCKS = {"pose": 8, "global": 9, "shape": 10, "camera": 3}  # numbers in each
_BLOCK_BINS = 1000
# bin = round(a x + b)
_BLOCK_SCALE = {"global": (499.5, 499.5), "shape": (166.5, 499.5), "camera": (49.95, 49.95)}


@dataclass(frozen=True, kw_only=True)
class Poses(Json, name="poses"):
    """A list of people."""

    element: ClassVar[type] = dict

    def to_text(self, value: Any, num_bins: int) -> str:
        if not isinstance(value, list):
            raise UserError(f"poses must be a list, not {type(value).__name__}")
        return " ".join(_spelled(person, num_bins) for person in value) or "none"

    def from_text(self, line: str, num_bins: int) -> list[dict[str, Any]]:
        people = (_person(part, num_bins) for part in stretches(words(line), "human"))
        return [person for person in people if person is not None]


def _spelled(person: Any, num_bins: int) -> str:
    if not isinstance(person, dict) or set(person) != {"box", *POSE_BLOCKS}:
        raise UserError(f"a pose must have exactly box, {', '.join(POSE_BLOCKS)}")
    corners = [finite(n, "box") for n in sized(person["box"], 4, "box")]
    spelled = ["human"]
    spelled += [f"v{axis}={to_bin(c, 0.0, 1.0, num_bins)}" for axis, c in enumerate(corners)]
    for name, numbers in person.items():
        if name != "box":
            spelled += [name, *_block(name, sized(numbers, POSE_BLOCKS[name], name))]
    return " ".join(spelled)


def _block(name: str, numbers: Any) -> list[str]:
    if name == "pose":
        return [id_word(n, "pose") for n in numbers]
    scale, offset = _BLOCK_SCALE[name]
    bins = (scale * finite(n, name) + offset for n in numbers)
    return [f"v0={round(min(max(b, 0), _BLOCK_BINS - 1))}" for b in bins]


def _person(given: Words, num_bins: int) -> dict[str, Any] | None:
    """A person from the words that follow ``human``; None where something is missing or wrong."""
    corners, rest = given[:4], given[4:]
    if [axis for axis, _ in corners] != [0, 1, 2, 3]:
        return None
    person: dict[str, Any] = {"box": [from_bin(int(n), 0.0, 1.0, num_bins) for _, n in corners]}
    block = ""
    for axis, number in rest:
        if axis is None:
            block = number if number in POSE_BLOCKS else ""
            if block:
                person[block] = []
        elif block == "pose":
            person[block].append(int(number) + HALF_IDS * axis)
        elif block and axis == 0:
            scale, offset = _BLOCK_SCALE[block]
            person[block].append((int(number) - offset) / scale)
    ids_fit = all(0 <= i < 2 * HALF_IDS for i in person.get("pose", ()))
    whole = all(len(person.get(name, ())) == count for name, count in POSE_BLOCKS.items())
    return person if ids_fit and whole else None
