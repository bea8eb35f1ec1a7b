"""Surface normals: float32 (H, W, 3) in [-1, 1], unit vectors; 0 = no surface there.

Files are 8-bit pictures or numpy arrays. Mirrored, they turn; resized, they stay unit vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from fourm.data.pictures import write_png
from fourm.errors import UserError
from fourm.evaluation.metrics import mean_angle
from fourm.raw._dense import Dense

_LONGEST = 1.02  # of a part of a vector: rounding to bytes
_SHORT = 0.1  # shorter vectors mean that there is no surface
_NOT_UNIT = 0.1  # off by more is no unit vector, and more pixels than that are no accident


@dataclass(frozen=True, kw_only=True)
class Normal(Dense, name="normal"):
    """x to the right, y down, z towards the camera, or as the data has it: x is mirrored."""

    extensions: ClassVar[tuple[str, ...]] = ("png", "npy")

    @property
    def num_channels(self) -> int:
        return 3

    def from_picture(self, picture: PIL.Image.Image) -> np.ndarray:
        return np.asarray(picture.convert("RGB"), np.float32) / 127.5 - 1.0

    def write(self, value: Any) -> bytes:
        return write_png(((self.check(value) + 1.0) * 127.5).round().astype(np.uint8))

    def check(self, value: Any) -> np.ndarray:
        array = super().check(value)
        if np.abs(array).max() > _LONGEST:
            raise UserError(
                f"normals are vectors in [-1, 1], not up to {np.abs(array).max():g}: a picture's"
                " bytes b are b / 127.5 - 1"
            )
        return array

    def remark(self, value: Any) -> str | None:
        length = np.linalg.norm(np.asarray(value, np.float32), axis=-1)
        wrong = (length > _SHORT) & (np.abs(length - 1) > _NOT_UNIT)
        return "normals whose length is not 1" if wrong.mean() > _NOT_UNIT else None

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        array = np.asarray(value)
        return {axis: array[..., i] for i, axis in enumerate("xyz")}

    def baseline(self, values: Sequence[Any]) -> np.ndarray:
        """The mean direction at each pixel."""
        mean = np.asarray(np.stack(values).mean(0, dtype=np.float64))
        length = np.linalg.norm(mean, axis=-1, keepdims=True)
        return (mean / np.maximum(length, 1e-6)).astype(np.float32)

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        import torch
        import torch.nn.functional as F

        maps = torch.from_numpy(output)
        length = maps.norm(dim=-1, keepdim=True)
        # no surface: no normal
        unit = torch.where(length > 0.5, F.normalize(maps, dim=-1), torch.zeros_like(maps))
        return list(unit.numpy())

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        return {"angle": mean_angle(predicted, truth, mask)}

    def scaled(self, value: np.ndarray) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        return F.normalize(torch.from_numpy(super().scaled(value)), dim=-1).numpy()

    def mirrored(self, value: np.ndarray) -> np.ndarray:
        return super().mirrored(value) * np.array([-1.0, 1.0, 1.0], np.float32)

    def picture(self, value: Any) -> PIL.Image.Image:
        return PIL.Image.fromarray(((np.asarray(value) + 1) * 127.5).clip(0, 255).astype(np.uint8))
