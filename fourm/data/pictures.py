"""Picture files in memory, opened with guards: a bomb, a truncated file or bytes that are no
picture are a ``UserError`` that says so.

Formats are those that pictures of data have. Pillow knows more, some of which are programs: for a
PostScript file it starts Ghostscript.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fourm.errors import UserError

_ORIENTATION = 0x0112  # of EXIF
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000  # larger pictures are refused before they are decoded


def open_picture(data: bytes) -> Image.Image:
    """Decode a picture fully; UserError for bombs, truncated files and bytes that are no
    picture.
    """
    return loaded(open_header(data))


def open_header(data: bytes) -> Image.Image:
    """A picture of which nothing but its header is read; UserError for bombs and bytes that are no
    picture.
    """
    with _guarded():
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    if picture.width * picture.height > MAX_PIXELS:
        raise UserError(f"picture of {picture.width} x {picture.height} pixels is too large")
    return picture


def loaded(picture: Image.Image) -> Image.Image:
    """The same picture, decoded; UserError if it is truncated or damaged."""
    with _guarded():
        picture.load()
    return picture


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """What Pillow raises over a file, as a UserError; over damaged ones that is anything."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except UnidentifiedImageError:
        raise UserError("no readable picture: of no known format") from None
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"no readable picture: {said}") from None


def turn_of(picture: Image.Image) -> int:
    """How a picture is turned, as EXIF counts it: 1 = not at all; UserError if that is damaged."""
    with _guarded():
        return picture.getexif().get(_ORIENTATION, 1)


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF says; UserError if that is damaged."""
    with _guarded():
        return ImageOps.exif_transpose(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Upright RGB: EXIF turned, transparency on white, 16-bit and CMYK converted; UserError where
    the file is damaged.
    """
    with _guarded():
        return _to_rgb(upright(picture))


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        picture = Image.fromarray(
            (np.asarray(picture, np.float32) / 257.0).clip(0, 255).astype(np.uint8)
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")


def alpha_of(picture: Image.Image) -> Image.Image | None:
    """The transparency of an upright picture (mode L), or None if it has none."""
    picture = upright(picture)
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return None
    return picture.convert("RGBA").getchannel("A")


def fit_picture(picture: Image.Image, size: int) -> Image.Image:
    """The centre square of a picture at ``size`` x ``size`` pixels."""
    if picture.size == (size, size):
        return picture
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def write_png(array: np.ndarray) -> bytes:
    """An array of integers, uint8 (H, W[, 3]) or uint16 (H, W), as the bytes of a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
