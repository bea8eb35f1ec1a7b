"""Any numbers on a square: float32 (H, W, C): heat, edges, feature maps of a network; on disk of
half precision where ``dtype`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fourm.config import ADDED
from fourm.data.npy import write_npy
from fourm.errors import UserError
from fourm.evaluation.metrics import error_figures, feature_figures, range_psnr
from fourm.raw._precision import Precision, stored
from fourm.raw._protocol import NetworkForm
from fourm.raw._range import from_unit, to_unit
from fourm.raw._ranged import Ranged

_FEATURE_CHANNELS = 8  # more are judged as feature vectors, by their cosine


@dataclass(frozen=True, kw_only=True)
class Array(Ranged, name="array"):
    """Numbers within ``range``; a map of one channel is taken as (H, W) too."""

    channels: int = 1
    dtype: Precision = field(default="float32", metadata=ADDED)  # on disk and in columns

    extensions: ClassVar[tuple[str, ...]] = ("npy",)
    renamed_figures: ClassVar[Mapping[str, str]] = {"psnr": "range_psnr"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1:
            raise UserError(f"raw type array cannot have {self.channels} channels")

    @property
    def num_channels(self) -> int:
        return self.channels

    def shaped(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.shape == (self.size, self.size) and self.channels == 1:
            array = array[..., None]
        return super().shaped(array)

    def read(self, data: bytes, extension: str, native: bool = False) -> np.ndarray:
        return stored(super().read(data, extension, native), self.dtype)

    def write(self, value: Any) -> bytes:
        return write_npy(stored(self.check(value), self.dtype))

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        return to_unit(values, self.bounds)

    def network_form(self, patch_size: int) -> NetworkForm:
        # a code at each place is the mark of a feature map
        return NetworkForm(image_size=self.size, channels=self.channels, features=patch_size == 1)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        return list(from_unit(output, self.bounds))

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        if self.channels > _FEATURE_CHANNELS:
            return feature_figures(predicted, truth)
        psnr = range_psnr(predicted, truth, self.bounds)
        return {"range_psnr": psnr, **error_figures(predicted, truth, mask)}

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        if not 1 < self.channels <= _FEATURE_CHANNELS:
            return super().measured(value)
        values = np.asarray(value)
        return {f"channel {channel}": values[..., channel] for channel in range(self.channels)}
