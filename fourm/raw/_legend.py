"""What tells a reader of a picture what its colours mean."""

from __future__ import annotations

from dataclasses import dataclass

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Legend:
    """Names of colours (classes), or the two ends of a scale of colours, or nothing."""

    entries: tuple[tuple[str, Color], ...] = ()
    low: float = 0.0
    high: float = 0.0
    unit: str = ""
    # a scale: its colours at even distances from low to high; empty = no scale
    stops: tuple[Color, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True where the picture speaks for itself."""
        return not self.entries and not self.stops
