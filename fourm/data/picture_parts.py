"""The part of a picture file that a sample shows, without the work that it does not need.

What comes out is what ``Image.read`` and ``Image.cut`` (``fourm.raw.image``) make of the whole
picture, bit for bit: turned upright, the centre square, the crop of it, mirrored, resampled. Three
things are quicker: JPEG is decoded by ``simplejpeg`` where it is installed (the library under
Pillow, under a thinner cover), only the part is resampled, and a JPEG of which the part is shrunk
four times or more is decoded at a half, a quarter or an eighth (the inverse DCT of fewer
coefficients), so that at least twice the wanted pixels remain. The last is not exact: at least
45 dB from the plain way, 0.8 of 255 levels on average (``tests/test_picture_parts.py``).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fourm.data.crops import Crop
from fourm.data.pictures import fit_picture, loaded, open_header, to_rgb, turn_of

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_SIDEWAYS = (5, 6, 7, 8)  # as EXIF counts turns: rows of the file are columns
_FROM_BELOW, _FROM_RIGHT = (3, 4, 7, 8), (2, 3, 6, 7)  # the file's first row or column is the last
_TURNED = (2, 3, 4, *_SIDEWAYS)
_SPARE = 2  # pixels that a file decoded smaller keeps for each that is wanted
_LANCZOS = Image.Resampling.LANCZOS


def read_part(data: bytes, size: int, crop: Crop | None) -> np.ndarray:
    """Pixels uint8 (size, size, 3) of a picture file.

    Args:
        crop: of the file's centre square at its own size; None for ``Image.read`` without crops,
            which resamples the centre square in one go and sees the pixels around it.

    Raises UserError for bombs, damaged files and bytes that are no picture.
    """
    picture = open_header(data)
    if picture.format != "JPEG" or picture.mode not in ("RGB", "L"):
        pixels = _with_pillow(picture)
        return _Part.of(pixels.shape, crop).at(pixels, size)
    turn = turn_of(picture)
    shape = picture.size if turn in _SIDEWAYS else picture.size[::-1]
    part = _Part.of(shape, crop)
    reduction = _reduction(part.side, size)
    if simplejpeg is not None and turn not in _TURNED:
        height, width = (-(-n // reduction) for n in shape)
        # where it refuses a file, the word of Pillow counts, which is less strict
        with contextlib.suppress(ValueError):
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
            return part.of_reduced(pixels, size, reduction, turn)
    width, height = picture.size
    picture.draft(None, (width // reduction, height // reduction))  # at least so many
    return part.of_reduced(_with_pillow(picture), size, reduction, turn)


def _with_pillow(picture: Image.Image) -> np.ndarray:
    return np.asarray(to_rgb(loaded(picture)))


@dataclass(frozen=True)
class _Part:
    """A square of a picture, in pixels of its file."""

    shape: tuple[int, ...]  # (H, W, ...) of the whole picture
    top: float  # halves where the picture has no middle row or column
    left: float
    side: int
    flip: bool
    is_crop: bool

    @staticmethod
    def of(shape: tuple[int, ...], crop: Crop | None) -> _Part:
        square = min(shape[:2])
        top, left = (shape[0] - square) / 2, (shape[1] - square) / 2
        if crop is None:
            return _Part(shape, top, left, square, False, False)
        row, column, side = crop.pixels(square)
        return _Part(shape, top + row, left + column, side, crop.flip, True)

    def at(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """The part at ``size`` pixels, of the whole picture as it was decoded."""
        if not self.is_crop:
            return np.asarray(fit_picture(Image.fromarray(pixels), size))
        part = self._cut(pixels)
        part = np.ascontiguousarray(part[:, ::-1]) if self.flip else part
        if self.side == size:
            return part
        return np.asarray(Image.fromarray(part).resize((size, size), _LANCZOS))

    def _cut(self, pixels: np.ndarray) -> np.ndarray:
        top, left, side = int(self.top), int(self.left), self.side
        if (top, left) == (self.top, self.left):
            return np.ascontiguousarray(pixels[top : top + side, left : left + side])
        # as a whole square between pixels is resampled, but no more of it than the part
        box = (self.left, self.top, self.left + side, self.top + side)
        return np.asarray(Image.fromarray(pixels).resize((side, side), _LANCZOS, box))

    def of_reduced(self, pixels: np.ndarray, size: int, reduction: int, turn: int) -> np.ndarray:
        """The same of a whole picture that was decoded ``reduction`` times smaller."""
        if reduction == 1:
            return self.at(pixels, size)
        # a pixel of the file's last row or column may show less than others: that much of nothing
        # lies before the picture if the file begins with what is its end
        before = pixels.shape[0] - self.shape[0] / reduction if turn in _FROM_BELOW else 0
        left_of = pixels.shape[1] - self.shape[1] / reduction if turn in _FROM_RIGHT else 0
        top, left = self.top / reduction + before, self.left / reduction + left_of
        side = self.side / reduction
        box = (left, top, left + side, top + side)
        part = np.asarray(Image.fromarray(pixels).resize((size, size), _LANCZOS, box))
        return np.ascontiguousarray(part[:, ::-1]) if self.flip else part


def _reduction(side: int, size: int) -> int:
    """By how much a JPEG may be decoded smaller: a power of two up to 8."""
    return max(n for n in (1, 2, 4, 8) if n == 1 or side >= _SPARE * n * size)
