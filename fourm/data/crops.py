"""Crops of a sample: the same part of the picture in all of its modalities.

A crop is a square of the picture in shares of its side, maybe mirrored. Crops are a pure function
of the sample's key, so every modality, worker and rerun cuts the same ones. How a value is cut is
its raw type's own affair (``Raw.cut``).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

_MARK = "~"  # between a picture's key and the number of a crop
_AREA = (0.2, 1.0)  # of a random crop, in shares of the picture (as 4M)


@dataclass(frozen=True)
class Crop:
    """A square part of a square picture."""

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    flip: bool = False

    @property
    def whole(self) -> bool:
        """True if it shows all of the picture, not mirrored."""
        return self == Crop()

    def pixels(self, stored: int) -> tuple[int, int, int]:
        """Row, column and side of the part of a square of ``stored`` pixels."""
        side = max(1, round(self.side * stored))
        row, column = (min(round(s * stored), stored - side) for s in (self.top, self.left))
        return row, column, side

    def settings(self) -> np.ndarray:
        """(top, left, height, width, flip), float32 (5,)."""
        return np.array([self.top, self.left, self.side, self.side, self.flip], np.float32)


def crops_of(key: str, num: int, seed: int = 0, flip: bool = False) -> list[Crop]:
    """The crops of a sample: the whole picture, then random ones."""
    return [crop_of(key, i, seed, flip) for i in range(num)]


def crop_of(key: str, number: int, seed: int = 0, flip: bool = False) -> Crop:
    """One of them: 0 is the whole picture."""
    if not number:
        return Crop()
    digest = hashlib.sha256(f"{seed}:{number}:{key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    side = math.sqrt(rng.uniform(*_AREA))
    top, left = rng.uniform(0, 1 - side, 2)
    return Crop(float(top), float(left), side, bool(flip and rng.uniform() < 0.5))


def sample_key(key: str, number: int) -> str:
    """Key of the sample that is a crop of the picture ``key``."""
    return f"{key}{_MARK}{number}" if number else key


def picture_key(key: str, number: int) -> str:
    """Key of the picture of which the sample ``key`` is crop ``number``."""
    return key.removesuffix(f"{_MARK}{number}") if number else key
