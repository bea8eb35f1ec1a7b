"""Overlapping windows over a map that is larger than a model: where they lie, which of them answers
for a token, and how what they show becomes one map again.

Shapes: W windows of n = h * w tokens on a map of R x C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fourm.errors import UserError


@dataclass(frozen=True)
class Windows:
    """Windows in rows and columns, in reading order; those at the far edges lie flush with them."""

    rows: tuple[int, ...]  # first token row of each row of windows
    columns: tuple[int, ...]
    size: tuple[int, int]  # h, w
    shape: tuple[int, int]  # R, C

    @classmethod
    def over(cls, shape: tuple[int, int], size: tuple[int, int], overlap: float) -> Windows:
        """Neighbours share at least the part ``overlap`` of a window's side. Raises UserError for a
        map that is smaller than a window.
        """
        if not 0 <= overlap < 1:
            raise UserError(f"overlap must be at least 0 and less than 1, not {overlap}")
        if shape[0] < size[0] or shape[1] < size[1]:
            raise UserError(
                f"the map has {shape[0]} x {shape[1]} tokens, the model sees {size[0]} x {size[1]}:"
                " a map must be at least as large"
            )
        rows, columns = (
            _starts(length, side, overlap) for length, side in zip(shape, size, strict=True)
        )
        return cls(rows, columns, size, shape)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def blocks(self, most: int) -> Iterator[np.ndarray]:
        """Numbers of at most so many windows at a time; as few parts as possible of a row each."""
        per_row = len(self.columns)
        step = max(1, most // per_row) * per_row if per_row <= most else most
        for start in range(0, len(self), step):
            yield np.arange(start, min(start + step, len(self)))

    def scaled(self, times: int) -> Windows:
        """The same windows on a map of finer tokens."""
        return Windows(
            tuple(times * row for row in self.rows),
            tuple(times * column for column in self.columns),
            (times * self.size[0], times * self.size[1]),
            (times * self.shape[0], times * self.shape[1]),
        )

    def finished(self, which: np.ndarray) -> int:
        """Rows of the map that no window behind these shows."""
        following = which[-1] + 1
        if following == len(self):
            return self.shape[0]
        return self.rows[following // len(self.columns)]

    def corners(self, which: np.ndarray) -> np.ndarray:
        """First row and column (W, 2) of windows, in tokens."""
        row, column = np.divmod(which, len(self.columns))
        return np.stack([np.array(self.rows)[row], np.array(self.columns)[column]], axis=1)

    def places(self, which: np.ndarray) -> np.ndarray:
        """Where on the map, as one number, each token of windows lies: (W, n)."""
        row, column = (axis.reshape(-1) for axis in np.indices(self.size))
        first = self.corners(which)
        return (first[:, :1] + row) * self.shape[1] + first[:, 1:] + column

    def owned(self, which: np.ndarray) -> np.ndarray:
        """Mask (W, n): of the windows that show a token, the one in which it lies deepest."""
        places, depth = self.places(which), _depth(self.size).reshape(-1)
        deepest_first = np.lexsort((np.tile(-depth, len(which)), places.reshape(-1)))
        _, first = np.unique(places.reshape(-1)[deepest_first], return_index=True)
        owned = np.zeros(places.size, bool)
        owned[deepest_first[first]] = True
        return owned.reshape(places.shape)


def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    stride = max(1, int(side * (1 - overlap)))
    return (*range(0, length - side, stride), length - side)


def _depth(size: tuple[int, int]) -> np.ndarray:
    """How far each place (h, w) lies from the nearest edge of a window, more than 0."""
    down, across = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in size)
    return down[:, None] * across


class Mosaic:
    """A map (H, W, C) of float32 as the mean of overlapping windows, weighted by how deep a pixel
    lies in each. It holds the rows that are open: what lies above all further windows is given out.
    """

    def __init__(self, width: int, side: int, channels: int) -> None:
        self._top, self._weight = 0, _depth((side, side))[..., None].astype(np.float32)
        self._sum = np.zeros((0, width, channels), np.float32)
        self._weights = np.zeros((0, width, 1), np.float32)

    def add(self, pixels: np.ndarray, top: int, left: int) -> None:
        """A window (h, w, C) whose corner lies at a pixel of the map, below what was given out."""
        bottom, right = top + pixels.shape[0] - self._top, left + pixels.shape[1]
        more = bottom - len(self._sum)
        if more > 0:
            self._sum, self._weights = (
                np.concatenate([a, np.zeros((more, *a.shape[1:]), a.dtype)])
                for a in (self._sum, self._weights)
            )
        part = slice(top - self._top, bottom), slice(left, right)
        self._sum[part] += pixels * self._weight
        self._weights[part] += self._weight

    def above(self, row: int) -> np.ndarray:
        """Rows up to ``row`` of the map that were not given out yet."""
        num = row - self._top
        done = self._sum[:num] / self._weights[:num]
        self._sum, self._weights, self._top = self._sum[num:], self._weights[num:], row
        return done
