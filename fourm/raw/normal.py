"""Surface normals: float32 (H, W, 3) in [-1, 1], unit vectors; 0 = no surface there.

Files are 8-bit pictures or numpy arrays. Mirrored, they turn; resized, they stay unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from fourm.data.pictures import write_png
from fourm.evaluation.metrics import mean_angle
from fourm.raw._dense import Dense


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
