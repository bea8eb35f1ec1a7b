"""Depth maps: float32 (H, W). Files are float16 numpy arrays or pictures of 8 or 16 bits, which
hold parts of the range, or steps of ``scale`` units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from fourm.config import ADDED, at_least
from fourm.data.npy import write_npy
from fourm.errors import UserError
from fourm.evaluation.metrics import absrel, delta1, error_figures
from fourm.raw._dense import with_channels
from fourm.raw._precision import stored
from fourm.raw._range import from_unit, to_unit
from fourm.raw._ranged import Ranged


@dataclass(frozen=True, kw_only=True)
class Depth(Ranged, name="depth"):
    """Distances within ``range``, in whatever unit it is given."""

    # units of a step of a picture file, 0.001 for millimetres as metres; 0 = parts of the range
    scale: float = field(default=0.0, metadata=ADDED)

    extensions: ClassVar[tuple[str, ...]] = ("npy", "png")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "scale")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size)

    def from_picture(self, picture: PIL.Image.Image) -> np.ndarray:
        values = np.asarray(picture, np.float32)
        if values.ndim != 2:
            raise UserError(f"depth is a picture of one channel, not {picture.mode}")
        if self.scale:
            return values * self.scale
        if self.is_open:
            raise UserError(
                "a picture holds parts of the range, which is to be found (auto): say scale, the"
                " units of a step, e.g. 0.001 for millimetres"
            )
        low, high = self.bounds
        return values / (255.0 if picture.mode == "L" else 65535.0) * (high - low) + low

    def write(self, value: Any) -> bytes:
        return write_npy(stored(self.check(value), "float16"))

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        return to_unit(with_channels(values), self.bounds)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        return list(from_unit(output, self.bounds)[..., 0])

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        return {
            "absrel": absrel(predicted, truth, mask),
            "delta1": delta1(predicted, truth, mask),
            **error_figures(predicted, truth, mask),
        }
