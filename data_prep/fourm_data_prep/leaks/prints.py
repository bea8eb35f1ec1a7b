"""The print of a picture: what it is found again by after a crop, a flip, a change of size or a
recompression.

Hashes of whole pictures do not survive crops. So a print has the places that a picture is rich in:
SIFT key points (Lowe, 2004) of the picture at a small size, which move with its content. What has
few such places, a sky or a letter, still has the classic hash of the whole: the signs of its lowest
cosines. A mirrored picture has the same numbers in another order, so flips cost no second look at
the picture.

Shapes: K key points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image

SIDE = 192  # pictures are compared at this many pixels squared, whatever their shape
MAX_POINTS = 96  # the strongest
_CONTRAST = (
    0.001  # OpenCV's own 0.04 leaves too few in soft pictures; the strongest are kept anyway
)
_COSINES = 8  # of a side of the whole's hash


@dataclass(frozen=True)
class View:
    """A print's numbers, of the picture as it is or mirrored."""

    places: np.ndarray  # (K, 4) x, y, size (pixels) and direction (degrees)
    described: np.ndarray  # (K, 128) SIFT descriptors
    whole: np.ndarray  # (1,) uint64 hash


@dataclass(frozen=True)
class Print:
    """A picture at a small size and what it is found by."""

    picture: np.ndarray  # (H, W, 3) uint8, half as large as where the places were found
    plain: View

    @property
    def mirrored(self) -> View:
        """The view of the mirrored picture."""
        places = self.plain.places.copy()
        places[:, 0] = self.picture.shape[1] - 1 - places[:, 0]
        places[:, 3] = (180 - places[:, 3]) % 360
        # mirroring changes the sign of every other cosine along a row, but for those that are 0
        whole = self.plain.whole ^ np.packbits(_ODD).view(np.uint64)
        return View(places, self.plain.described[:, _MIRRORED], whole)


# (64,) cosines that mirroring turns round
_ODD = np.tile(np.arange(_COSINES) % 2 == 1, _COSINES)
# where the numbers of a descriptor are in that of the mirrored place: the rows of its 4 x 4 cells
# (across the place's own direction) and the 8 directions in each go the other way
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].reshape(-1)


def print_of(picture: Image.Image) -> Print:
    """The print of an RGB picture of any size."""
    import cv2  # pyright: ignore[reportMissingImports]

    small = _small(picture)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    found, described = _sift().detectAndCompute(grey, None)
    cosines = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))
    signs = rearrange(cosines[:_COSINES, :_COSINES] > 0, "h w -> (h w)")
    places = np.array([(*p.pt, p.size, p.angle) for p in found], np.float32).reshape(-1, 4)
    described = np.zeros((0, 128), np.float32) if described is None else described
    # pixels are compared at half the size: centres of pixels move by a quarter of one
    places[:, :3] /= 2
    places[:, :2] -= 0.25
    half = (max(small.shape[1] // 2, 1), max(small.shape[0] // 2, 1))
    halved = np.asarray(cv2.resize(small, half, interpolation=cv2.INTER_AREA))
    return Print(halved, View(places, described, np.packbits(signs).view(np.uint64)))


@cache
def _sift() -> Any:
    import cv2  # pyright: ignore[reportMissingImports]

    create = cv2.SIFT_create  # pyright: ignore[reportAttributeAccessIssue]
    return create(nfeatures=MAX_POINTS, contrastThreshold=_CONTRAST)


def _small(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) of about ``SIDE``² pixels."""
    factor = SIDE / (picture.width * picture.height) ** 0.5
    width, height = (max(8, round(side * factor)) for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
