"""How the pixels of an image become values of a raw type: as colours, as classes, as numbers.

Two moments: ``stored`` turns a strip of a decoded file into what lies in the memory map,
``value`` a window of that into a value of a tile. Classes take the nearest pixel and are never
mixed; all else is linear, over the area where a tile has fewer pixels than the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import PIL.Image
from einops import rearrange

from fourm.errors import UserError, nearest
from fourm.raw import Dense, Raw
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm_data_prep.rasters.settings import Raster

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB, as Pillow weighs them


@dataclass(frozen=True)
class Window:
    """A rectangle in pixels of an image, and the whole pixels around it."""

    left: float
    right: float
    top: float
    bottom: float

    def around(self) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
        """Rows and columns with one more on each side, and the box (left, top, right, bottom) of
        the window among them.
        """
        first_row, first_column = int(np.floor(self.top)) - 1, int(np.floor(self.left)) - 1
        rows = np.arange(first_row, int(np.ceil(self.bottom)) + 1)
        columns = np.arange(first_column, int(np.ceil(self.right)) + 1)
        box = (
            self.left - first_column,
            self.top - first_row,
            self.right - first_column,
            self.bottom - first_row,
        )
        return rows, columns, box

    def nearest(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns below the middles of ``size`` x ``size`` pixels."""
        middles = (np.arange(size) + 0.5) / size
        rows = np.floor(self.top + middles * (self.bottom - self.top))
        columns = np.floor(self.left + middles * (self.right - self.left))
        return rows.astype(np.int64), columns.astype(np.int64)


class Pixels(Protocol):
    """Decoded pixels at rows (R,) and columns (C,), which may lie beyond edges: (R, C[, bands])."""

    def __call__(self, rows: np.ndarray, columns: np.ndarray, /) -> np.ndarray: ...


class Reading(Protocol):
    """A way to read an image."""

    def stored(self, strip: np.ndarray) -> np.ndarray:
        """Rows of the file (R, W, bands) -> rows of the memory map. Raises UserError for bands or
        values that are not of this kind.
        """
        ...

    def value(self, pixels: Pixels, window: Window) -> Any:
        """The value of a tile; None where the image has no data."""
        ...


def reading_of(name: str, raster: Raster, raw: Raw) -> Reading:
    """The reading that a raw type asks for."""
    assert isinstance(raw, Dense)
    if isinstance(raw, Labels):
        return Classes.of(name, raster, raw)
    if raster.ids or raster.colors:
        raise UserError(f"rasters.{name}: ids and colors are for class maps, not {raw.type_name}")
    if isinstance(raw, Image):
        return Colours(name, raster, raw.size)
    return Numbers(name, raster, raw)


def _banded(name: str, raster: Raster, strip: np.ndarray) -> np.ndarray:
    if not raster.bands:
        return strip
    if not all(0 <= band < strip.shape[2] for band in raster.bands):
        raise UserError(
            f"rasters.{name}: the file has bands 0..{strip.shape[2] - 1}, not {list(raster.bands)}"
        )
    return strip[:, :, list(raster.bands)]


def _resized(band: np.ndarray, size: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """A box of a picture (H, W) or (H, W, 3) at ``size`` x ``size`` pixels."""
    picture = PIL.Image.fromarray(np.ascontiguousarray(band))
    return np.asarray(picture.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box))


@dataclass(frozen=True)
class Colours:
    """8-bit RGB; grey is three equal colours, 16 bits lose the lower eight, transparency is
    left out.
    """

    name: str
    raster: Raster
    size: int

    def stored(self, strip: np.ndarray) -> np.ndarray:
        bands = _banded(self.name, self.raster, strip)
        bands = bands[:, :, :1].repeat(3, axis=2) if bands.shape[2] < 3 else bands[:, :, :3]
        if bands.dtype == np.uint16:
            return (bands >> 8).astype(np.uint8)
        if bands.dtype != np.uint8:
            raise UserError(f"rasters.{self.name}: {bands.dtype} are no colours of a picture")
        return bands

    def value(self, pixels: Pixels, window: Window) -> np.ndarray | None:
        rows, columns, box = window.around()
        found = pixels(rows, columns)
        if self.raster.nodata is not None and (found == self.raster.nodata).all(-1).any():
            return None
        return _resized(found, self.size, box)


@dataclass(frozen=True)
class Numbers:
    """One number for each channel of the raw type; colours become grey where that is one."""

    name: str
    raster: Raster
    raw: Dense

    def stored(self, strip: np.ndarray) -> np.ndarray:
        bands, wanted = _banded(self.name, self.raster, strip), self.raw.num_channels
        if wanted == 1 and not self.raster.bands and bands.shape[2] in (3, 4):
            return (bands[:, :, :3].astype(np.float32) @ _GREY)[..., None]
        if wanted == 1 and not self.raster.bands:
            bands = bands[:, :, :1]  # grey with transparency
        if bands.shape[2] != wanted:
            raise UserError(
                f"rasters.{self.name}: {bands.shape[2]} bands for {wanted} channels: name bands"
            )
        return bands.astype(np.float32) if bands.dtype.kind == "f" else bands

    def value(self, pixels: Pixels, window: Window) -> np.ndarray | None:
        rows, columns, box = window.around()
        found = pixels(rows, columns).astype(np.float32)
        lacking = ~np.isfinite(found)
        if self.raster.nodata is not None:
            lacking |= found == np.float32(self.raster.nodata)
        if lacking.any():
            if self.raster.fill is None:
                return None
            found = np.where(lacking, np.float32(self.raster.fill), found)
        scaled = found * np.float32(self.raster.scale) + np.float32(self.raster.offset)
        maps = [_resized(band, self.raw.size, box) for band in rearrange(scaled, "h w c -> c h w")]
        return rearrange(np.stack(maps), "c h w -> h w c").reshape(self.raw.shape)


@dataclass(frozen=True)
class Classes:
    """Ids of a legend. What is in the file but not in the legend counts as no data."""

    name: str
    raster: Raster
    size: int
    values: np.ndarray  # (K,) int64, sorted: what a pixel holds; colours as r * 65536 + g * 256 + b
    ids: np.ndarray  # (K,) the class of each
    num_classes: int

    @classmethod
    def of(cls, name: str, raster: Raster, raw: Labels) -> Classes:
        """From settings. Raises UserError for a class that the raw type does not name."""

        def number(of: str) -> int:
            if of not in raw.classes:
                raise UserError(
                    f"rasters.{name}: {of!r} is no class of the config{nearest(of, raw.classes)}"
                )
            return raw.classes.index(of)

        if raster.colors:
            codes = [(r << 16) | (g << 8) | b for r, g, b in raster.colors.values()]
            pairs = [(code, number(of)) for code, of in zip(codes, raster.colors, strict=True)]
        elif raster.ids:
            pairs = []
            for value, of in raster.ids.items():
                if not value.lstrip("-").isdigit():
                    raise UserError(f"rasters.{name}: ids: {value!r} is no whole number")
                pairs.append((int(value), number(of)))
        else:
            pairs = [(value, value) for value in range(len(raw.classes))]
        if raster.nodata is not None:
            pairs = [pair for pair in pairs if pair[0] != raster.nodata]
        values, ids = np.array(sorted(pairs), np.int64).T
        return cls(name, raster, raw.size, values, ids, len(raw.classes))

    @property
    def nothing(self) -> int:
        """What stands for no data in the memory map."""
        return 255 if self.num_classes < 255 else 65535

    def stored(self, strip: np.ndarray) -> np.ndarray:
        bands = _banded(self.name, self.raster, strip)
        if bands.dtype.kind not in "iu":
            raise UserError(f"rasters.{self.name}: {bands.dtype} are no classes")
        if self.raster.colors:
            if bands.shape[2] < 3:
                raise UserError(f"rasters.{self.name} has colors, and its file holds none")
            wide = bands.astype(np.int64)
            found = (wide[:, :, 0] << 16) | (wide[:, :, 1] << 8) | wide[:, :, 2]
        elif bands.shape[2] > 2:
            raise UserError(
                f"rasters.{self.name} is a colour picture: name the colors of its classes, or bands"
            )
        else:
            found = bands[:, :, 0].astype(np.int64)
        place = np.searchsorted(self.values, found).clip(0, len(self.values) - 1)
        ids = np.where(self.values[place] == found, self.ids[place], self.nothing)
        return ids.astype(np.uint8 if self.nothing == 255 else np.uint16)[..., None]

    def value(self, pixels: Pixels, window: Window) -> np.ndarray | None:
        found = pixels(*window.nearest(self.size))[..., 0]
        lacking = found == self.nothing
        if not lacking.any():
            return found
        return None if self.raster.fill is None else np.where(lacking, int(self.raster.fill), found)
