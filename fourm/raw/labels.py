"""Class maps: class ids (H, W), their names in the modality's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from fourm.data.pictures import write_png
from fourm.errors import UserError
from fourm.evaluation.metrics import mean_iou
from fourm.raw._colors import class_colors
from fourm.raw._dense import Dense, with_channels
from fourm.raw._protocol import NetworkForm


@dataclass(frozen=True, kw_only=True)
class Labels(Dense, name="labels"):
    """Ids are uint8 up to 256 classes, uint16 beyond. They are never mixed: resizing takes the
    nearest.
    """

    classes: tuple[str, ...] = ()  # name of each id

    extensions: ClassVar[tuple[str, ...]] = ("png", "npy")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise UserError("raw type labels needs the list of its classes")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Type of the ids."""
        return np.uint8 if len(self.classes) <= 256 else np.uint16

    def write(self, value: Any) -> bytes:
        return write_png(self.check(value))

    def check(self, value: Any) -> np.ndarray:
        array = self.shaped(value)
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(self.classes):
            raise UserError(f"labels must be class ids in 0..{len(self.classes) - 1}")
        return array.astype(self.dtype)

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        """Ids as numbers: -1 for the first class, 2 more for each next one."""
        return with_channels(values).astype(np.float32) * 2.0 - 1.0

    def network_form(self, patch_size: int) -> NetworkForm:
        return NetworkForm(image_size=self.size, num_classes=len(self.classes))

    def to_network(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.int64)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output.argmax(-1).astype(self.dtype))

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        return {"miou": mean_iou(predicted, truth, len(self.classes))}

    def scaled(self, value: np.ndarray) -> np.ndarray:
        size = (self.size, self.size)
        return np.asarray(PIL.Image.fromarray(value).resize(size, PIL.Image.Resampling.NEAREST))

    def picture(self, value: Any) -> PIL.Image.Image:
        return PIL.Image.fromarray(class_colors(len(self.classes))[np.asarray(value)])
