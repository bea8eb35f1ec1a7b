"""Colour pictures: uint8 (H, W, 3), files of the usual kinds.

Pictures of any size, mode and orientation are taken: turned upright, laid on white where they are
transparent, and the centre square brought to the modality's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from fourm.data.crops import Crop
from fourm.data.picture_parts import read_part
from fourm.data.pictures import fit_picture, open_picture, to_rgb, write_png
from fourm.errors import UserError
from fourm.evaluation.metrics import psnr
from fourm.raw._dense import Dense


@dataclass(frozen=True, kw_only=True)
class Image(Dense, name="image"):
    """A model that reads pixels may want (value / 255 - mean) / std instead of [-1, 1]."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    extensions: ClassVar[tuple[str, ...]] = ("png", "jpg", "jpeg", "webp")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mean) != len(self.std):
            raise UserError("mean and std go together: one number for each channel")

    @property
    def num_channels(self) -> int:
        return 3

    def read(self, data: bytes, extension: str, native: bool = False) -> np.ndarray:
        picture = open_picture(data)
        side = min(picture.size) if native else self.size
        return np.asarray(fit_picture(to_rgb(picture), side))

    def read_part(self, data: bytes, extension: str, crop: Crop | None) -> np.ndarray:
        return read_part(data, self.size, crop)

    def write(self, value: Any) -> bytes:
        return write_png(self.check(value))

    def check(self, value: Any) -> np.ndarray:
        array = self.shaped(value)
        if array.dtype != np.uint8:
            raise UserError(f"image must be uint8, not {array.dtype}")
        return array

    def accept(self, value: Any) -> np.ndarray:
        if isinstance(value, PIL.Image.Image):
            value = np.asarray(fit_picture(to_rgb(value), self.size))
        elif (
            isinstance(value, np.ndarray)
            and value.ndim == 3
            and value.size
            and value.dtype == np.uint8
        ):
            if value.shape[2] != 3:
                raise UserError(f"a picture needs 3 colour channels, this has {value.shape[2]}")
            value = np.asarray(fit_picture(PIL.Image.fromarray(value), self.size))
        return self.check(value)

    @cached_property  # asked for with every picture
    def byte_scale(self) -> np.ndarray:
        divisor, mean, std = (255.0, self.mean, self.std) if self.mean else (127.5, 1.0, 1.0)
        rows = [np.broadcast_to(row, self.num_channels) for row in (divisor, mean, std)]
        return np.array(rows, np.float32)

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        divisor, mean, std = self.byte_scale
        return (values.astype(np.float32) / divisor - mean) / std

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        return list(((np.clip(output, -1, 1) + 1) * 127.5).round().astype(np.uint8))

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        return {"psnr": psnr(predicted, truth)}

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        return {name: value[..., i] for i, name in enumerate(("red", "green", "blue"))}

    def baseline(self, values: Sequence[Any]) -> np.ndarray:
        """The mean picture."""
        return np.asarray(np.stack(values).mean(0, dtype=np.float64)).round().astype(np.uint8)

    def scaled(self, value: np.ndarray) -> np.ndarray:
        size = (self.size, self.size)
        return np.asarray(PIL.Image.fromarray(value).resize(size, PIL.Image.Resampling.LANCZOS))

    def picture(self, value: Any) -> PIL.Image.Image:
        return PIL.Image.fromarray(value)
