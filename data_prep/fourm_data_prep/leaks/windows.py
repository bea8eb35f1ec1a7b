"""Pictures with few places to hold on to, skies and single things, found again in crops by their
large shades.

Of a picture some 300 windows, of the sizes and places that a crop may have, are kept as very small
pictures without their means; the whole of another one is compared with all of them in one product
of matrices. Large shades change little from one window to the next, so that the nearest is near
enough to be bettered. Work and memory grow with the number of pictures that have windows, so of a
large folder only those have some that need it most: those with the fewest places.

Shapes: N windows, S pictures, C = ``_SIDE``² x 3 numbers of a very small picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from fourm_data_prep.leaks.align import Laid

MOST_KEPT = 1000  # pictures that have windows (240 MB)
_MAX_PLACES = 64  # with which a picture that is asked for is cut into windows whatever is kept
_SIDE = 8
_STEP = 0.07  # of a side, between windows
_SIDES = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.6)  # of a window, in shares of the picture's
_LEAST_AREA = 0.55
_LEAST = 0.92  # correlation that is worth a look
_MOST = 4  # pictures that are looked at


@cache
def _boxes() -> np.ndarray:
    """(N, 2, 2) first and last x and y of windows, in shares of the picture."""

    def spans(side: float) -> list[tuple[float, float]]:
        num = round((1 - side) / _STEP) + 1
        return [(start, start + side) for start in np.linspace(0, 1 - side, num).tolist()]

    return np.array(
        [
            ((left, top), (right, bottom))
            for width in _SIDES
            for height in _SIDES
            if width * height >= _LEAST_AREA
            for left, right in spans(width)
            for top, bottom in spans(height)
        ]
    )


def shades(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) as (C,) of mean 0 in each colour and length 1; 0 where it is blank."""
    import cv2  # pyright: ignore[reportMissingImports]

    small = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean((0, 1))
    length = float(np.linalg.norm(small))
    return (small / length if length > _SIDE else 0 * small).reshape(-1)


def windows_of(picture: np.ndarray) -> np.ndarray:
    """``shades`` (N, C) of all windows of a picture."""
    size = np.array(picture.shape[1::-1])
    edges = np.round(_boxes() * size).astype(int)
    return np.stack([shades(picture[y0:y1, x0:x1]) for (x0, y0), (x1, y1) in edges])


@dataclass(frozen=True)
class Shown:
    """A picture and the number of its places."""

    picture: np.ndarray  # (H, W, 3)
    num_places: int


class Windows:
    """Pictures that are kept, those with the fewest places with their windows."""

    def __init__(self, shown: list[Shown]) -> None:
        self._sizes = [np.array(one.picture.shape[1::-1], float) for one in shown]
        self._wholes = np.stack([shades(one.picture) for one in shown])  # (S, C)
        order = np.argsort([one.num_places for one in shown], kind="stable")
        self._kept = np.sort(order[:MOST_KEPT])
        # (kept ones, N, C)
        self._windows = np.stack([windows_of(shown[i].picture) for i in self._kept])

    def candidates(self, asked: Shown) -> list[tuple[int, Laid]]:
        """Numbers of pictures that this one may be a crop of, or the other way round, and how it
        lies on them; the most alike first.
        """
        size = np.array(asked.picture.shape[1::-1], float)
        found: list[tuple[float, int, Laid]] = []
        alike = self._windows @ shades(asked.picture)  # (kept ones, N)
        best = alike.argmax(1)
        for row in np.flatnonzero(alike.max(1) >= _LEAST).tolist():
            picture = int(self._kept[row])
            laid = _inside(size, self._sizes[picture], _boxes()[best[row]])
            found.append((float(alike[row, best[row]]), picture, laid))
        if asked.num_places < _MAX_PLACES or len(self._sizes) <= MOST_KEPT:
            alike = self._wholes @ windows_of(asked.picture).T  # (S, N)
            best = alike.argmax(1)
            for picture in np.flatnonzero(alike.max(1) >= _LEAST).tolist():
                laid = _around(size, self._sizes[picture], _boxes()[best[picture]])
                found.append((float(alike[picture, best[picture]]), picture, laid))
        found.sort(key=lambda one: -one[0])
        return [(picture, laid) for _, picture, laid in found[:_MOST]]


def _inside(here: np.ndarray, there: np.ndarray, box: np.ndarray) -> Laid:
    """A picture of size (2,) that is a window of another one."""
    scale = (box[1] - box[0]) * there / here
    return Laid(scale, box[0] * there + (scale - 1) / 2)


def _around(here: np.ndarray, there: np.ndarray, box: np.ndarray) -> Laid:
    """A picture of size (2,) that has another one as its window."""
    scale = there / ((box[1] - box[0]) * here)
    return Laid(scale, -box[0] * here * scale + (scale - 1) / 2)
