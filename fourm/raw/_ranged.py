"""Maps of numbers over a range: what depth and arrays have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import PIL.Image

from fourm.config import ADDED
from fourm.raw._colors import colored, scale_colors
from fourm.raw._dense import Dense
from fourm.raw._legend import Legend
from fourm.raw._range import Auto, Range, check_range, found_range, known, share_outside
from fourm.raw._spread import Spread

_SHOWN_PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True, kw_only=True)
class Ranged(Dense):
    """Finite numbers in whatever ``unit``; those outside of ``range`` become its ends."""

    range: Range | Auto = (0.0, 1.0)
    unit: str = field(default="", repr=False, metadata=ADDED)  # shown beside numbers

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.range)

    @property
    def bounds(self) -> Range:
        """The range. Raises UserError while it is ``auto``."""
        return known(self.range)

    @property
    def data_form(self) -> Self:
        return replace(self, unit="")

    @property
    def is_open(self) -> bool:
        return self.range == "auto"

    def settled(self, found: Mapping[str, Spread]) -> Self:
        return replace(self, range=found_range(found.values())) if self.is_open else self

    def remark(self, value: Any) -> str | None:
        if self.is_open or not share_outside(np.asarray(value), self.bounds):
            return None
        low, high = self.bounds
        return f"numbers outside of the range [{low:g}, {high:g}], which become its ends"

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        return {f"value, {self.unit}" if self.unit else "value": np.asarray(value)}

    def baseline(self, values: Sequence[Any]) -> np.ndarray:
        return np.asarray(np.stack(values).mean(0, dtype=np.float64)).astype(np.float32)

    def plane(self, value: Any) -> np.ndarray:
        """The numbers that are shown, float32 (H, W)."""
        array = np.asarray(value, np.float32)
        return array if array.ndim == 2 else array[..., 0]

    def stretch(self, values: Sequence[Any]) -> Range | None:
        spread = Spread()
        for value in values:
            spread.add(self.plane(value), "")
        if not spread.num_samples:
            return None
        low, high = spread.percentiles(_SHOWN_PERCENTILES)
        low, high = (low, high) if low < high else (spread.low, spread.high)
        return (low, high) if low < high else None

    def show(self, value: Any, over: Range | None = None) -> PIL.Image.Image:
        low, high = over or self.bounds
        return PIL.Image.fromarray(colored((self.plane(value) - low) / (high - low)))

    def picture(self, value: Any) -> PIL.Image.Image:
        """In colour over the range, of several channels the first."""
        over = self.stretch([value]) or (0.0, 1.0) if self.is_open else self.bounds
        return self.show(value, over)

    def legend(self, over: Range | None = None) -> Legend:
        low, high = over or self.bounds
        return Legend(low=low, high=high, unit=self.unit, stops=scale_colors())
