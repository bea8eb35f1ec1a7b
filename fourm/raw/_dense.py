"""Picture-like types: one value or vector at each pixel of a square.

Values are numpy arrays (H, W) or (H, W, C). Files may hold them at any size: as of pictures, the
centre square is brought to the modality's when it is read (numbers by area or linearly, classes by
the nearest), unless the reader asks for it as it is stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import PIL.Image

from fourm.data.crops import Crop
from fourm.data.npy import as_array, as_floats, read_npy
from fourm.data.pictures import open_picture
from fourm.errors import UserError, shown
from fourm.raw._protocol import NetworkForm, Raw


@dataclass(frozen=True, kw_only=True)
class Dense(Raw):
    """Base of picture-like types; arrays of finite float32 unless a type says otherwise."""

    size: int = 0  # pixels of both sides

    has_picture: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise UserError(f"raw type {self.type_name} needs a size (pixels)")

    @property
    def pixels(self) -> int:
        return self.size

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value."""
        return (self.size, self.size, self.num_channels)

    def resized(self, pixels: int) -> Self:
        return replace(self, size=pixels)

    def read(self, data: bytes, extension: str, native: bool = False) -> np.ndarray:
        if extension == "npy":
            return self._reduced(read_npy(data), native)
        return self._reduced(self.from_picture(open_picture(data)), native)

    def from_picture(self, picture: PIL.Image.Image) -> np.ndarray:
        """The array that a picture file of this type holds, at the file's size."""
        return np.asarray(picture)

    def _reduced(self, array: np.ndarray, native: bool) -> np.ndarray:
        """A checked value: the centre square of what is stored, at the type's size."""
        if array.ndim not in (2, 3) or not array.size or array.shape[2:] not in self._depths:
            return self.check(array)  # tells what is wrong with it
        side = min(array.shape[:2])
        top, left = ((length - side) // 2 for length in array.shape[:2])
        value = self.resized(side).check(array[top : top + side, left : left + side])
        return value if native else self.fit(value)

    @property
    def _depths(self) -> tuple[tuple[int, ...], ...]:
        """What may follow height and width in the shape of a stored array."""
        return (self.shape[2:], ()) if self.shape[2:] == (1,) else (self.shape[2:],)

    def check(self, value: Any) -> np.ndarray:
        array = as_floats(self.shaped(value), self.type_name)
        if not np.isfinite(array).all():
            raise UserError(f"{self.type_name} holds numbers that are not finite")
        return array

    def shaped(self, value: Any) -> np.ndarray:
        """A value as an array of the type's shape; UserError for another shape."""
        if isinstance(value, (str, os.PathLike)):
            raise UserError(
                f"{shown(str(value))} is a name, no value of type {self.type_name}: open the file"
                " first, e.g. with PIL.Image.open or numpy.load"
            )
        array = as_array(value, self.type_name)
        if array.shape != self.shape:
            raise UserError(f"{self.type_name} has shape {array.shape}, expected {self.shape}")
        return array

    def accept(self, value: Any) -> np.ndarray:
        """Of pictures and arrays of any size the centre square, brought to the type's size."""
        if isinstance(value, (str, os.PathLike)):
            return self.check(value)
        if isinstance(value, PIL.Image.Image):  # as a file of it is read
            value = self.from_picture(value)
        return self._reduced(as_array(value, self.type_name), native=False)

    def is_batch(self, value: Any) -> bool:
        stacked = isinstance(value, np.ndarray) and value.ndim == len(self.shape) + 1
        return stacked or super().is_batch(value)

    def from_argument(self, text: str) -> Any:
        path = Path(text)
        if not path.is_file():
            raise UserError(f"no file {text}")
        data, extension = path.read_bytes(), path.suffix.lower().lstrip(".")
        return self.accept(read_npy(data)) if extension == "npy" else self.read(data, extension)

    def network_form(self, patch_size: int) -> NetworkForm:
        return NetworkForm(image_size=self.size, channels=self.num_channels)

    def fit(self, value: np.ndarray) -> np.ndarray:
        if value.shape[:2] == (self.size, self.size):
            return value
        return self.scaled(value)

    def scaled(self, value: np.ndarray) -> np.ndarray:
        """A value of another size at the type's size: linear, over the area where it shrinks."""
        import torch
        import torch.nn.functional as F

        maps = torch.from_numpy(value.astype(np.float32))
        maps = maps.reshape(*value.shape[:2], -1).permute(2, 0, 1)[None]
        size = (self.size, self.size)
        maps = F.interpolate(maps, size, mode="bilinear", antialias=True, align_corners=False)
        fitted = maps[0].permute(1, 2, 0).numpy()
        fitted = fitted[..., 0] if value.ndim == 2 else fitted
        # as the value was, so that whole samples of a column and cut ones are alike
        return fitted.astype(value.dtype, order="C")

    def cut(self, value: np.ndarray, crop: Crop) -> np.ndarray:
        if not crop.whole:
            top, left, side = crop.pixels(value.shape[0])
            value = value[top : top + side, left : left + side]
            value = np.ascontiguousarray(self.mirrored(value) if crop.flip else value)
        return self.fit(value)

    def mirrored(self, value: np.ndarray) -> np.ndarray:
        """Left and right exchanged."""
        return value[:, ::-1]


def with_channels(values: np.ndarray) -> np.ndarray:
    """Stacked values (B, H, W[, C]) with their axis of channels (B, H, W, C)."""
    return values[..., None] if values.ndim == 3 else values
