"""What tiles are cut from: the globe in degrees, or a plane in whatever unit its images have.

A surface knows where a tile may lie so that each part of the ground is as likely as any other, how
wide a tile is, and the blocks that divide the ground among splits.

Maps of the globe are equirectangular: towards the poles a degree of longitude is less ground. With
``natural`` (the default) centres are even by area, and tiles and blocks are 1 / cos(latitude) as
wide in degrees as they are high, so that they show equal areas and things have their shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from fourm.choices import Choice
from fourm.errors import UserError

Extent = tuple[float, float, float, float]  # left, right, bottom, top
_STEEPEST = 85.0  # degrees of latitude: beyond it a natural tile goes around the pole
_AROUND = 0.05  # of a tile's side: resampling and rounding read a little beyond its edge


@dataclass(frozen=True)
class Tile:
    """A rectangle of the ground: its number, middle and sides, in units of the surface."""

    number: int
    x: float
    y: float
    width: float
    height: float

    @property
    def key(self) -> str:
        """Its name in shards; no two tiles of an import have the same, whatever their split."""
        return f"{self.number:09d}"


@dataclass(frozen=True, kw_only=True)
class Surface(Choice, family="surface", default="globe"):
    """Base of surfaces."""

    @property
    def extent(self) -> Extent:
        """All of the ground."""
        raise NotImplementedError

    @property
    def period(self) -> float:
        """What x may be moved by without another place being meant; 0 = nothing."""
        return 0.0

    @property
    def middles(self) -> tuple[float, float]:
        """What the middles of tiles are between, from bottom to top."""
        return self.extent[2], self.extent[3]

    def fitted(self, columns: int, rows: int) -> Self:
        """The surface where the image that tiles are measured in has so many pixels."""
        return self

    def places(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Uniform numbers (N,) and (N,) -> middles x, y (N,) of tiles, even by area."""
        left, right, bottom, top = self.extent
        return left + u * (right - left), bottom + v * (top - bottom)

    def stretch(self, y: float) -> float:
        """How much wider than high something is here in its units."""
        return 1.0

    def blocks_of(self, tile: Tile, side: float) -> set[tuple[int, int]]:
        """Blocks (band from the top, column from the left) that a tile touches, or comes near."""
        left, _, _, top = self.extent
        wide, high = tile.width * (0.5 + _AROUND), tile.height * (0.5 + _AROUND)
        bands = range(
            math.floor((top - tile.y - high) / side), math.floor((top - tile.y + high) / side) + 1
        )
        found = set()
        for band in bands:
            num = self.num_columns(band, side)
            width = (self.extent[1] - left) / num
            first = math.floor((tile.x - wide - left) / width)
            last = math.floor((tile.x + wide - left) / width)
            columns = range(first, last + 1)
            found |= {(band, column % num if self.period else column) for column in columns}
        return found

    def num_bands(self, side: float) -> int:
        """Bands of blocks, from the top."""
        return math.ceil((self.extent[3] - self.extent[2]) / side)

    def num_columns(self, band: int, side: float) -> int:
        """Blocks of a band."""
        left, right, _, top = self.extent
        middle = top - (band + 0.5) * side
        return max(1, round((right - left) / (side * self.stretch(middle))))


@dataclass(frozen=True, kw_only=True)
class Globe(Surface, name="globe"):
    """Longitudes -180..180 and latitudes 90..-90; tiles and images may cross the date line."""

    natural: bool = True
    latitudes: tuple[float, float] = (-80.0, 80.0)  # that middles of tiles are between

    def __post_init__(self) -> None:
        low, high = self.latitudes
        most = _STEEPEST if self.natural else 90.0
        if not -most <= low < high <= most:
            raise UserError(
                f"latitudes must rise within -{most:g}..{most:g}, not {low:g}, {high:g}"
            )

    @property
    def extent(self) -> Extent:
        return (-180.0, 180.0, -90.0, 90.0)

    @property
    def period(self) -> float:
        return 360.0

    @property
    def middles(self) -> tuple[float, float]:
        return self.latitudes

    def places(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # the area below a latitude is as its sine
        low, high = np.sin(np.deg2rad(self.latitudes))
        return u * 360.0 - 180.0, np.rad2deg(np.arcsin(low + v * (high - low)))

    def stretch(self, y: float) -> float:
        # blocks at the poles have middles beyond where tiles may be
        near = min(abs(y), _STEEPEST)
        return 1.0 / math.cos(math.radians(near)) if self.natural else 1.0


@dataclass(frozen=True, kw_only=True)
class Plane(Surface, name="plane"):
    """A flat piece of ground that nothing goes around. Its unit is a pixel of the image
    ``tiles.of`` (or of the first), unless ``ground`` says what all images show: left, right,
    bottom, top.
    """

    ground: Extent | None = None

    @property
    def extent(self) -> Extent:
        assert self.ground is not None, "a plane is fitted before it is used"
        return self.ground

    def fitted(self, columns: int, rows: int) -> Plane:
        return self if self.ground else replace(self, ground=(0.0, columns, 0.0, rows))
