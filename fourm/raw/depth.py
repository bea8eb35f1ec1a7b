"""Depth maps: float32 (H, W). Files are float16 numpy arrays or 16-bit pictures over the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from fourm.data.npy import write_npy
from fourm.evaluation.metrics import absrel, delta1
from fourm.raw._colors import colored
from fourm.raw._dense import Dense, with_channels
from fourm.raw._range import Range, check_range, from_unit, to_unit


@dataclass(frozen=True, kw_only=True)
class Depth(Dense, name="depth"):
    """Distances within ``range``, in whatever unit it is given."""

    range: Range = (0.0, 1.0)

    extensions: ClassVar[tuple[str, ...]] = ("npy", "png")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.range)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size)

    def from_picture(self, picture: PIL.Image.Image) -> np.ndarray:
        low, high = self.range  # a 16-bit picture holds its 65,536 parts
        return np.asarray(picture, np.float32) / 65535.0 * (high - low) + low

    def write(self, value: Any) -> bytes:
        return write_npy(self.check(value).astype(np.float16))

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        return to_unit(with_channels(values), self.range)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        return list(from_unit(output, self.range)[..., 0])

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        return {"absrel": absrel(predicted, truth, mask), "delta1": delta1(predicted, truth, mask)}

    def picture(self, value: Any) -> PIL.Image.Image:
        low, high = self.range
        return PIL.Image.fromarray(colored((np.asarray(value, np.float32) - low) / (high - low)))
