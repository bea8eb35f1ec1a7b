"""Lists of numbers over a range, ``[0.3, ...]``, or each over its own; spelled as one ``v0=``
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any, ClassVar, Self

import numpy as np

from fourm.config import ADDED
from fourm.errors import UserError
from fourm.raw._json import Json
from fourm.raw._range import Auto, Range, check_range, found_range, known, share_outside
from fourm.raw._spelling import coordinates, finite, from_bin, to_bin
from fourm.raw._spread import Spread

_MEASURED = 16  # first numbers of a list that are told apart
_REST = "the others"


@dataclass(frozen=True, kw_only=True)
class Numbers(Json, name="numbers"):
    """Numbers within ``range``: what is outside becomes its ends. A list of ranges is one for each
    number, and lists are of that length then.
    """

    range: Range | tuple[Range, ...] | Auto = (0.0, 1.0)
    unit: str = field(default="", repr=False, metadata=ADDED)  # shown behind numbers

    element: ClassVar[tuple[type, ...]] = (int, float)
    placeless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.range:
            raise UserError("range is an empty list")
        for one in self._several or (self.range,):
            check_range(one)  # pyright: ignore[reportArgumentType]

    @property
    def data_form(self) -> Self:
        return replace(self, unit="")

    @property
    def is_open(self) -> bool:
        return self.range == "auto"

    @property
    def _several(self) -> tuple[Range, ...]:
        """A range for each number; empty where one holds for all."""
        return self.range if isinstance(self.range[0], tuple) else ()  # pyright: ignore

    @property
    def _ranges(self) -> Iterator[Range]:
        """Ranges of the numbers, one after another, without end."""
        return cycle(self._several or (known(self.range),))  # pyright: ignore[reportArgumentType]

    def middles(self, count: int) -> list[float]:
        """The middle of the range of each of so many numbers."""
        return [(low + high) / 2 for low, high in islice(self._ranges, count)]

    @property
    def count(self) -> int:
        """Numbers of a list, where each has its range; 0 = any."""
        return len(self._several)

    def settled(self, found: Mapping[str, Spread]) -> Self:
        """A range for each number where all lists are equally long, else one for all."""
        if not self.is_open:
            return self
        spreads = list(found.values())
        lengths = {spread.num_samples for spread in spreads}
        if len(spreads) > 1 and len(lengths) == 1 and _REST not in found:
            return replace(self, range=tuple(found_range([spread]) for spread in spreads))
        return replace(self, range=found_range(spreads))

    def check(self, value: Any) -> list[float]:
        found = [finite(number, "one of the numbers") for number in self.listed(value)]
        if self.count and len(found) != self.count:
            raise UserError(f"{len(found)} numbers where there are {self.count} ranges")
        return found

    def remark(self, value: Any) -> str | None:
        if self.is_open:
            return None
        for i, (number, over) in enumerate(zip(value, self._ranges, strict=False)):
            if share_outside(np.array(number), over):
                which = f"number {i} outside" if self.count else "numbers outside"
                return f"{which} of the range [{over[0]:g}, {over[1]:g}], which become its ends"
        return None

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        first = {f"number {i}": np.array([n]) for i, n in enumerate(value[:_MEASURED])}
        rest = value[_MEASURED:]
        return {**first, _REST: np.array(rest)} if rest else first

    def line(self, value: list[float]) -> str:
        shown = ", ".join(f"{number:.3g}" for number in value)
        return f"{shown} {self.unit}" if self.unit else shown

    def to_text(self, value: Any, num_bins: int) -> str:
        spelled = zip(self.check(value), self._ranges, strict=False)
        return " ".join(f"v0={to_bin(number, *over, num_bins)}" for number, over in spelled)

    def from_text(self, line: str, num_bins: int) -> list[float]:
        bins = [bin_ for axis, bin_ in coordinates(line) if axis == 0]
        spelled = zip(bins, self._ranges, strict=False)
        found = [from_bin(bin_, *over, num_bins) for bin_, over in spelled]
        return found[: self.count] if self.count else found
