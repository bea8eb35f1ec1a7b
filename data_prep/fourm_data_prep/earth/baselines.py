"""What costs nothing: predictors of class maps and numbers that no network was trained for.

A model that does not beat them has learned nothing that a table does not know. All of them are made
from training tiles and asked on held-out blocks, where knowing the place alone helps little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

_BITS = 5  # of each colour channel that the table tells apart
_NEAREST = 8  # training tiles that a place asks


@dataclass(frozen=True)
class ColorTable:
    """Per pixel: the commonest class, or the mean number, of a training pixel of that colour."""

    answer: np.ndarray  # by 15-bit colour

    @staticmethod
    def of_classes(pictures: np.ndarray, maps: np.ndarray, num_classes: int) -> ColorTable:
        """From pictures (B, H, W, 3) uint8 and class maps (B, H, W)."""
        counts = np.zeros((1 << 3 * _BITS, num_classes), np.int64)
        np.add.at(counts, (_colors(pictures).ravel(), maps.ravel()), 1)
        common = counts.sum(0).argmax()
        return ColorTable(np.where(counts.any(1), counts.argmax(1), common))

    @staticmethod
    def of_numbers(pictures: np.ndarray, maps: np.ndarray) -> ColorTable:
        """From pictures (B, H, W, 3) uint8 and numbers (B, H, W)."""
        colors, size = _colors(pictures).ravel(), 1 << 3 * _BITS
        counts = np.bincount(colors, minlength=size)
        sums = np.bincount(colors, maps.ravel(), minlength=size)
        return ColorTable(np.where(counts > 0, sums / np.maximum(counts, 1), maps.mean()))

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (B, H, W, 3) -> the answer for each pixel (B, H, W)."""
        return self.answer[_colors(pictures)]


class NearestTiles:
    """From the coordinates alone: what the nearest training tiles show, pixel by pixel."""

    def __init__(self, directions: np.ndarray, values: np.ndarray) -> None:
        """Unit vectors (B, 3) of the tiles' middles and their maps (B, H, W[, C])."""
        self._tree, self._values = KDTree(directions), values

    def classes(self, directions: np.ndarray, num_classes: int) -> np.ndarray:
        """The commonest class of the nearest tiles at each pixel (Q, H, W)."""
        counts = np.stack(
            [(self._near(directions) == c).sum(1) for c in range(num_classes)], axis=-1
        )
        return counts.argmax(-1)

    def numbers(self, directions: np.ndarray) -> np.ndarray:
        """The mean of the nearest tiles at each pixel."""
        return self._near(directions).astype(np.float32).mean(1)

    def _near(self, directions: np.ndarray) -> np.ndarray:
        nearest = self._tree.query(directions, k=min(_NEAREST, len(self._values)))[1]
        return self._values[nearest.reshape(len(directions), -1)]


def _colors(pictures: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) -> one number for each colour."""
    parts = (pictures >> (8 - _BITS)).astype(np.int32)
    return (parts[..., 0] << 2 * _BITS) | (parts[..., 1] << _BITS) | parts[..., 2]
