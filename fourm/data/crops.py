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

    def settings(self) -> np.ndarray:
        """(top, left, height, width, flip), float32 (5,)."""
        return np.array([self.top, self.left, self.side, self.side, self.flip], np.float32)


def crops_of(key: str, num: int, seed: int = 0, flip: bool = False) -> list[Crop]:
    """The crops of a sample: the whole picture, then random ones."""
    crops = [Crop()]
    for i in range(1, num):
        digest = hashlib.sha256(f"{seed}:{i}:{key}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        side = math.sqrt(rng.uniform(*_AREA))
        top, left = rng.uniform(0, 1 - side, 2)
        crops.append(Crop(float(top), float(left), side, bool(flip and rng.uniform() < 0.5)))
    return crops
