"""A raw type of a user's own: readings of an instrument with gaps. The package knows nothing of it.

A value is float32 (length, 2): the reading and 1, or 0 and 0 where there is none. Files are CSV,
one reading a line; spelled as text it is ``v0=12 v0=13 gap v0=9``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from fourm.errors import UserError
from fourm.raw import NetworkForm, Raw


@dataclass(frozen=True, kw_only=True)
class Series(Raw):
    """``length`` readings within ``range``."""

    length: int
    range: tuple[float, float] = (-1.0, 1.0)

    extensions: ClassVar[tuple[str, ...]] = ("csv",)
    has_picture: ClassVar[bool] = True
    placeless: ClassVar[bool] = True

    def read(self, data: bytes, extension: str, native: bool = False) -> np.ndarray:
        return self.check([[float(x), 1.0] if x else [0.0, 0.0] for x in data.decode().split("\n")])

    def write(self, value: Any) -> bytes:
        return "\n".join(f"{x:.4f}" if known else "" for x, known in self.check(value)).encode()

    def check(self, value: Any) -> np.ndarray:
        array = np.asarray(value, np.float32)
        if array.shape != (self.length, 2):
            raise UserError(f"series has shape {array.shape}, expected {(self.length, 2)}")
        return array

    def accept(self, value: Any) -> np.ndarray:
        """A list of readings with None for gaps will do."""
        if isinstance(value, list):
            value = [[0.0, 0.0] if x is None else [x, 1.0] for x in value]
        return self.check(value)

    def is_batch(self, value: Any) -> bool:
        return isinstance(value, list) and not (value[0] is None or np.isscalar(value[0]))

    def network_form(self, patch_size: int) -> NetworkForm:
        return NetworkForm(channels=2 * self.length, features=True)

    def to_network(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), -1).astype(np.float32)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        made = output.reshape(-1, self.length, 2)
        known = made[..., 1:] > 0.5
        return list(np.concatenate([made[..., :1] * known, known], -1).astype(np.float32))

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        known = truth[..., 1] > 0
        return {"error": float(np.abs(predicted - truth)[..., 0][known].mean())}

    def picture(self, value: Any) -> PIL.Image.Image:
        low, high = self.range
        canvas = np.full((16, self.length), 255, np.uint8)
        for column, (x, known) in enumerate(value):
            if known:
                canvas[round(15 * float(np.clip((high - x) / (high - low), 0, 1))), column] = 0
        return PIL.Image.fromarray(canvas)

    def line(self, value: Any) -> str:
        return f"{int(value[:, 1].sum())} readings"

    def to_text(self, value: Any, num_bins: int) -> str:
        low, high = self.range
        bins = (round((x - low) / (high - low) * (num_bins - 1)) for x, _ in self.check(value))
        known = self.check(value)[:, 1] > 0
        return " ".join(f"v0={b}" if k else "gap" for b, k in zip(bins, known, strict=True))

    def from_text(self, line: str, num_bins: int) -> np.ndarray:
        low, high = self.range
        value = np.zeros((self.length, 2), np.float32)
        for row, bin_ in zip(value, re.findall(r"v0=(\d+)|gap", line), strict=False):
            if bin_:
                row[:] = low + int(bin_) / (num_bins - 1) * (high - low), 1.0
        return value
