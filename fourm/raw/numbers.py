"""Lists of numbers over a range, ``[0.3, ...]``; spelled as one ``v0=`` each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fourm.raw._json import Json
from fourm.raw._range import Range, check_range
from fourm.raw._spelling import coordinates, from_bin, numbers, to_bin


@dataclass(frozen=True, kw_only=True)
class Numbers(Json, name="numbers"):
    """Numbers within ``range``: what is outside becomes its ends."""

    range: Range = (0.0, 1.0)

    element: ClassVar[tuple[type, ...]] = (int, float)
    placeless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self.range)

    def line(self, value: list[float]) -> str:
        return ", ".join(f"{number:.3g}" for number in value)

    def to_text(self, value: Any, num_bins: int) -> str:
        given = self.listed(value)
        return " ".join(
            f"v0={to_bin(number, *self.range, num_bins)}"
            for number in numbers(given, len(given), "numbers")
        )

    def from_text(self, line: str, num_bins: int) -> list[float]:
        return [
            from_bin(bin_, *self.range, num_bins) for axis, bin_ in coordinates(line) if axis == 0
        ]
