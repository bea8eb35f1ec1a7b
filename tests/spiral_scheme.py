"""An order of sampling that the package does not know: options name it by its place."""

from dataclasses import dataclass

import numpy as np

from fourm.sampling.schemes import Canvas, InOrder


@dataclass(frozen=True, kw_only=True)
class Spiral(InOrder):
    """From the centre outwards, ring by ring, and around the centre within a ring."""

    clockwise: bool = True

    def order(self, canvas: Canvas) -> np.ndarray:
        height, width = canvas.modality.grid
        row, column = np.divmod(np.arange(height * width), width)
        down, right = row - (height - 1) / 2, column - (width - 1) / 2
        ring = np.maximum(abs(down), abs(right))
        turn = np.arctan2(down, right) / (2 * np.pi)
        around = turn % 1 if self.clockwise else -turn % 1
        return np.broadcast_to(ring + around / 2, canvas.known.shape)
