"""Decoded images with their place on the ground: tiles are windows of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm_data_prep.rasters.decoding import Header, decode, is_placed, read_header
from fourm_data_prep.rasters.readings import Reading, Window, reading_of
from fourm_data_prep.rasters.settings import RasterImport
from fourm_data_prep.rasters.surfaces import Extent, Globe, Surface, Tile
from fourm_data_prep.shard_steps import fingerprint, stamp

_SLACK = 1e-6  # of a pixel, that sums of floats may lie beyond an edge


@dataclass(frozen=True)
class Layer:
    """One image: its decoded file, where it lies, how it is read. Sent to workers by its names; the
    memory map is opened where it is read.
    """

    file: Path
    reading: Reading
    extent: Extent
    columns: int
    rows: int
    period: float = field(default=0.0)  # of the surface

    @cached_property
    def _map(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="r", allow_pickle=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_map"}

    @property
    def goes_around(self) -> bool:
        """True if its right edge is its left one."""
        return self.period > 0 and abs(self.extent[1] - self.extent[0] - self.period) < 1e-9

    @property
    def pixel_height(self) -> float:
        """Units of the surface from a row to the next."""
        return (self.extent[3] - self.extent[2]) / self.rows

    def window(self, tile: Tile) -> Window | None:
        """Where a tile lies in the image; None where it is not wholly inside."""
        left, right, _, top = self.extent
        across, down = self.columns / (right - left), 1.0 / self.pixel_height
        start = tile.x - tile.width / 2 - left
        if self.period:
            start %= self.period
        window = Window(
            start * across,
            (start + tile.width) * across,
            (top - tile.y - tile.height / 2) * down,
            (top - tile.y + tile.height / 2) * down,
        )
        inside = window.top >= -_SLACK and window.bottom <= self.rows + _SLACK
        if not self.goes_around:
            inside &= window.left >= -_SLACK and window.right <= self.columns + _SLACK
        return window if inside else None

    def pixels(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Pixels at rows (R,) and columns (C,): around where it goes around, else the edge's own
        are repeated.
        """
        rows = rows.clip(0, self.rows - 1)
        if self.goes_around:
            columns = columns % self.columns
        else:
            columns = columns.clip(0, self.columns - 1)
        return self._map[rows[:, None], columns[None]]

    def cut(self, tile: Tile) -> Any:
        """The value of a tile; None where there is none."""
        window = self.window(tile)
        return None if window is None else self.reading.value(self.pixels, window)


@dataclass(frozen=True)
class Layers:
    """All images of an import, and the surface that they show."""

    surface: Surface
    layers: dict[str, Layer]
    cache: Path  # folder of decoded images

    @staticmethod
    def plan(given: RasterImport, cache: Path) -> Layers:
        """Reads headers only. Raises UserError for an image that is not where the others are."""
        headers = {name: read_header(given.path(name)) for name in given.settings.rasters}
        base = headers[given.settings.tiles.of or next(iter(headers))]
        surface = given.settings.surface.fitted(base.columns, base.rows)
        layers = {}
        for name, header in headers.items():
            raster, raw = given.settings.rasters[name], given.raws[name]
            described = [stamp(given.path(name)), repr(raster), repr(raw)]
            layers[name] = Layer(
                cache / f"{name}-{fingerprint(described)}.npy",
                reading_of(name, raster, raw),
                raster.extent or _own_extent(given.path(name), header, surface),
                header.columns,
                header.rows,
                surface.period,
            )
        return Layers(surface, layers, cache)

    def decode(self, given: RasterImport, names: Iterable[str]) -> None:
        """Decode images that are not yet, one after the other."""
        for name in names:
            layer = self.layers[name]
            if not layer.file.is_file():
                decode(given.path(name), layer.reading, layer.file)

    def forget(self) -> None:
        """Remove what was decoded."""
        shutil.rmtree(self.cache, ignore_errors=True)


def _own_extent(path: Path, header: Header, surface: Surface) -> Extent:
    if is_placed(path):
        raise UserError(
            f"{path} is a GeoTIFF: pip install 'fourm[geo]' to read where it lies, or give its"
            " extent"
        )
    if header.extent is None:
        return surface.extent
    if isinstance(surface, Globe) and not header.in_degrees:
        raise UserError(
            f"{path} is not in degrees: warp it first (gdalwarp -t_srs EPSG:4326), or give its"
            " extent, or say surface: plane"
        )
    return header.extent
