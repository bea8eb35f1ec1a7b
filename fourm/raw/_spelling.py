"""Numbers as words of a text vocabulary: coordinate tokens ``v<axis>=<bin>`` (Pix2Seq, 2109.10852;
as 4M has them).

Writing rounds to a bin, reading gives the bin's value, so a round trip is exact up to half a bin.
Reading never fails: what is no coordinate or word is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fourm.errors import UserError, shown

Words = list[tuple[int | None, str]]  # (axis, number) of a coordinate, (None, word) of a word
HALF_IDS = 512  # ids of other tokenizers: those below are v0=, the others v1= less this

# digits behind the ninth are passed over as what is no word
_COORDINATE = re.compile(r"v([0-9])=([0-9]{1,9})")
_WORD = re.compile(r"v([0-3])=([0-9]{1,9})|([a-z]+)")


def to_bin(number: float, low: float, high: float, num_bins: int) -> int:
    """The bin of a number in a range; what is outside takes the outer ones."""
    return round(min(max((number - low) / (high - low), 0.0), 1.0) * (num_bins - 1))


def from_bin(bin_: int, low: float, high: float, num_bins: int) -> float:
    """The number that a bin stands for."""
    return low + bin_ / (num_bins - 1) * (high - low)


def coordinates(line: str) -> list[tuple[int, int]]:
    """(axis, bin) of each coordinate token of a line."""
    return [(int(axis), int(value)) for axis, value in _COORDINATE.findall(line)]


def without_coordinates(line: str) -> str:
    """The other words of a line."""
    return " ".join(_COORDINATE.sub(" ", line).split())


def words(line: str) -> Words:
    """Coordinates and plain words of a line, in order."""
    return [(int(m[1]), m[2]) if m[1] is not None else (None, m[3]) for m in _WORD.finditer(line)]


def stretches(given: Words, at: str) -> list[Words]:
    """What follows each word ``at``, up to the next one."""
    parts: list[Words] = []
    for entry in given:
        if entry == (None, at):
            parts.append([])
        elif parts:
            parts[-1].append(entry)
    return parts


def id_word(value: Any, what: str) -> str:
    """An id of another tokenizer as a coordinate token."""
    if not isinstance(value, int) or not 0 <= value < 2 * HALF_IDS:
        raise UserError(f"{what}: ids are integers in 0..{2 * HALF_IDS - 1}, not {shown(value)}")
    return f"v{value // HALF_IDS}={value % HALF_IDS}"


def numbers(value: Any, count: int, what: str) -> list[float]:
    """So many numbers; UserError for another count or what is no number."""
    try:
        found = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{what} must be {count} numbers, not {shown(value)}") from None
    if len(found) != count or any(number != number for number in found):
        raise UserError(f"{what} must be {count} numbers, not {shown(value)}")
    return found


def finite(value: Any, what: str) -> float:
    """One finite number; UserError for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{what} must be a number, not {shown(value)}") from None
    if not abs(number) < float("inf"):
        raise UserError(f"{what} must be finite, not {shown(value)}")
    return number


def sized(value: Any, count: int, what: str) -> Sequence[Any]:
    """A list of so many entries; UserError for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise UserError(f"{what} must be {count} numbers, not {shown(value)}")
    return value
