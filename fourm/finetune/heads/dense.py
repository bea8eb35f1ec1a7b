"""Maps from maps: the encoder's rows at their places of the grid, then a few convolutions that
double its sides until pixels are reached (a plain decoder, as SETR's, 2012.15840).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.config import at_least
from fourm.errors import UserError
from fourm.finetune.goals import Goal
from fourm.finetune.heads._protocol import Head
from fourm.modalities import Modality
from fourm.pipeline.feature_rows import FeatureRows

_FEWEST = 16  # channels


@dataclass(frozen=True, kw_only=True)
class Dense(Head, name="dense"):
    """The head of classes, depths or colours at each pixel."""

    width: int = 128  # channels on the encoder's grid; half as many on one of twice its sides

    has_places: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, _FEWEST, "width")

    def build(self, dim: int, goal: Goal, inputs: tuple[Modality, ...]) -> nn.Module:
        grids = {m.name: m.grid for m in inputs if m.grid is not None}
        if not grids:
            names = ", ".join(m.name for m in inputs)
            raise UserError(f"head dense needs an input with a grid, such as rgb; given: {names}")
        rows, _ = max(grids.values())
        if goal.size < rows:
            raise UserError(
                f"a map of {goal.size} pixels is smaller than the encoder's grid of {rows}: head"
                " dense cannot give it"
            )
        return _ToPixels(list(grids), dim, self.width, goal.num_outputs, rows, goal.size)


class _ToPixels(nn.Module):
    """Feature maps of all inputs with a grid, side by side -> (B, C, size, size)."""

    def __init__(
        self, names: list[str], dim: int, width: int, num_outputs: int, rows: int, size: int
    ) -> None:
        super().__init__()
        self.names, self.rows, self.size = names, rows, size
        self.reduce = nn.Conv2d(dim * len(names), width, 1)
        doublings = max(0, (size // rows).bit_length() - 1)
        # the larger the maps, the fewer channels: all layers cost about the same
        widths = [max(_FEWEST, width >> i) for i in range(doublings + 1)]
        self.norms = nn.ModuleList(nn.GroupNorm(1, wide) for wide in widths[:-1])
        self.layers = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, padding=1) for wide, narrow in pairwise(widths)
        )
        self.out = nn.Conv2d(widths[-1], num_outputs, 3, padding=1)

    def forward(self, rows: FeatureRows) -> Tensor:
        side = (self.rows, self.rows)
        maps = [_resized(rows.maps(name), side) for name in self.names]
        found = self.reduce(torch.cat(maps, 1))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            wider = F.interpolate(F.gelu(norm(found)), scale_factor=2, mode="nearest")
            found = layer(wider)
        return _resized(self.out(F.gelu(found)), (self.size, self.size))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
