"""Large images, decoded once into uncompressed arrays that are read through memory maps.

Memory: Pillow decodes a whole picture, so an image costs twice its uncompressed size while it is
decoded, one at a time, and no more than ``MOST_PIXELS`` are taken. That limit stands in place of
Pillow's own, for files that a user has named. With ``rasterio`` (the extra ``geo``) TIFFs are read
strip by strip, whatever their size. From then on only the windows of tiles are read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from fourm.errors import UserError
from fourm_data_prep.rasters.readings import Reading
from fourm_data_prep.rasters.surfaces import Extent

MOST_PIXELS = 400_000_000  # that Pillow decodes of one image
_STRIP_VALUES = 1 << 24  # that are converted at a time
_PIXEL_SCALE = 33550  # tag of GeoTIFFs: units for each pixel


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded."""

    columns: int
    rows: int
    extent: Extent | None = None  # of a GeoTIFF, where ``rasterio`` reads it
    in_degrees: bool = True


def read_header(path: Path) -> Header:
    """Size and place of an image. Raises UserError for what is none, or is too large."""
    if _is_for_rasterio(path):
        return _geo_header(path)
    with _opened(path) as picture:
        return Header(picture.width, picture.height)


def decode(path: Path, reading: Reading, out: Path) -> None:
    """Write the array (H, W, bands) of an image as ``reading`` stores it to ``out`` (npy), which
    appears whole or not at all.

    Raises UserError for a damaged file, or one that is not of this kind.
    """
    header = read_header(path)
    temporary = out.with_suffix(f".tmp{os.getpid()}")
    out.parent.mkdir(parents=True, exist_ok=True)
    into: np.memmap | None = None
    strips = _geo_strips(path, header) if _is_for_rasterio(path) else _strips(path, header)
    try:
        for first, strip in strips:
            rows = reading.stored(strip)
            if into is None:
                shape = (header.rows, header.columns, rows.shape[2])
                into = np.lib.format.open_memmap(temporary, "w+", rows.dtype, shape)
            into[first : first + len(rows)] = rows
        assert into is not None
        into.flush()
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _strip_rows(header: Header) -> int:
    return max(1, _STRIP_VALUES // (header.columns * 4))


def _strips(path: Path, header: Header) -> Iterator[tuple[int, np.ndarray]]:
    """Number of its first row and the values (R, W, bands) of each strip."""
    with _opened(path) as picture:
        if picture.mode in ("P", "PA", "1") and "transparency" in picture.info:
            picture = picture.convert("RGBA")
        elif picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            picture = picture.convert("RGB")
        try:
            values = np.asarray(picture)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} cannot be decoded: {error}") from None
    values = values[..., None] if values.ndim == 2 else values
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    size = _strip_rows(header)
    for first in range(0, header.rows, size):
        yield first, values[first : first + size]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    """A picture that is not decoded yet, with our limit of pixels instead of Pillow's."""
    before = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None  # asked for below
    try:
        try:
            picture = PIL.Image.open(path)
        except (OSError, SyntaxError, ValueError) as error:
            more = "" if _has_rasterio() else "; some TIFFs need pip install 'fourm[geo]'"
            raise UserError(f"{path} is no readable image ({error}){more}") from None
        with picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UserError(
                    f"{path} has {picture.width} x {picture.height} pixels; more than"
                    f" {MOST_PIXELS / 1e6:.0f} million are read from TIFFs with the extra geo only"
                )
            yield picture
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before


# ---- GeoTIFFs


def _has_rasterio() -> bool:
    return importlib.util.find_spec("rasterio") is not None


def _is_for_rasterio(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff") and _has_rasterio()


def is_placed(path: Path) -> bool:
    """True for a GeoTIFF of which only ``rasterio`` could say where it lies, which is not here."""
    if path.suffix.lower() not in (".tif", ".tiff") or _has_rasterio():
        return False
    with _opened(path) as picture:
        return _PIXEL_SCALE in getattr(picture, "tag_v2", {})


@contextlib.contextmanager
def _geo_opened(path: Path) -> Iterator[Any]:
    """A dataset of ``rasterio``. Raises UserError for what fails in it."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            dataset = rasterio.open(path)
        with dataset:
            yield dataset
    except RasterioError as error:
        raise UserError(f"{path} cannot be decoded: {error}") from None


def _geo_header(path: Path) -> Header:
    with _geo_opened(path) as dataset:
        turned = dataset.transform.b or dataset.transform.d or dataset.transform.e > 0
        placed = dataset.crs is not None or not dataset.transform.is_identity
        if placed and turned:
            raise UserError(f"{path} is turned or upside down: warp it to north up first")
        box = dataset.bounds
        extent = (box.left, box.right, box.bottom, box.top) if placed else None
        in_degrees = dataset.crs is None or dataset.crs.is_geographic
        return Header(dataset.width, dataset.height, extent, in_degrees)


def _geo_strips(path: Path, header: Header) -> Iterator[tuple[int, np.ndarray]]:
    size = _strip_rows(header)
    with _geo_opened(path) as dataset:
        for first in range(0, header.rows, size):
            rows = min(size, header.rows - first)
            bands = dataset.read(window=((first, first + rows), (0, header.columns)))
            yield first, np.moveaxis(bands, 0, -1)
