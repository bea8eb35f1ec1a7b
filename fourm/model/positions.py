"""Places of rows: a vector that is added to them, and angles that turn their queries and keys.

Grids have fixed 2-D sin-cos vectors, sequences 1-D ones (Vaswani et al., 1706.03762), sets learned
ones: their places have no order. With rotary positions (RoPE, 2104.09864; axial over pictures,
2403.13298) queries and keys are turned by angles that grow with the place, so that what attention
sees is the distance between rows. Cells of all grids are measured over the same picture, whatever
their number, so that tokens of one place have distance 0 in any modality.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from fourm.modalities import Modality, ModalitySet
from fourm.model.roles import TABLE, state_roles

PLACE_STD = 0.3  # of learned places at the start
_BASE = 100.0  # wavelengths of rotary angles: 2 pi to 200 pi places
Positions = Literal["added", "rotary", "both"]


@dataclass(frozen=True)
class Rotation:
    """Angles of T rows, as one pair of numbers for each pair of channels."""

    cos: Tensor  # (T, K / 2)
    sin: Tensor  # (T, K / 2)

    def __call__(self, heads: Tensor) -> Tensor:
        """Turn queries or keys (T, H, K) -> (T, H, K), channel i with channel i + K / 2."""
        cos, sin = (part.to(heads.dtype)[:, None] for part in (self.cos, self.sin))
        a, b = heads.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def each(self, change: Callable[[Tensor], Tensor]) -> Rotation:
        """The same change to both tables (T, K / 2)."""
        return Rotation(change(self.cos), change(self.sin))

    def after(self, num: int) -> Rotation:
        """Angles of ``num`` rows that are not turned, then of these."""
        width = self.cos.shape[1]
        ones, zeros = self.cos.new_ones(num, width), self.sin.new_zeros(num, width)
        return Rotation(torch.cat([ones, self.cos]), torch.cat([zeros, self.sin]))


@dataclass(frozen=True)
class Places:
    """Where T rows are: what is added to them and what turns their queries and keys."""

    added: Tensor  # (T, D)
    turn: Rotation | None = None  # None without rotary positions

    def after(self, num: int) -> Places:
        """``num`` rows that are nowhere, then these."""
        added = torch.cat([self.added.new_zeros(num, self.added.shape[1]), self.added])
        return Places(added, None if self.turn is None else self.turn.after(num))

    def each(self, change: Callable[[Tensor], Tensor]) -> Places:
        """The same change to all that is kept by row (T, ...)."""
        return Places(change(self.added), None if self.turn is None else self.turn.each(change))


class PositionTable(nn.Module):
    """Places of all modalities end to end.

    Args:
        members: the modalities whose positions are used (and, for sets, learned).
        kind: ``added`` vectors, ``rotary`` angles, or ``both``; sets are learned vectors always.
        head_dim: channels of a head, for rotary angles.
    """

    fixed: Tensor  # (P, D)
    learned_row: Tensor  # (P,) row of the learned vectors; 0 = none
    start: Tensor  # (modalities,) first row of each
    coordinates: Tensor  # (P, 2) down and across

    def __init__(
        self,
        modalities: ModalitySet,
        members: list[Modality],
        dim: int,
        kind: Positions = "added",
        head_dim: int = 0,
    ) -> None:
        super().__init__()
        self.rotary, self.head_dim = kind != "added", head_dim
        fixed, learned_row, num_learned = [], [], 1
        self.learned_start: dict[str, int] = {}  # first row of a set's learned positions
        for m in modalities:
            rows = torch.zeros(m.num_positions, dtype=torch.long)
            if m.kind == "set" and m.grid is None and m in members:
                rows = torch.arange(num_learned, num_learned + m.num_positions)
                self.learned_start[m.name] = num_learned
                num_learned += m.num_positions
            learned_row.append(rows)
            fixed.append(_fixed(m, dim) * float(kind != "rotary"))
        self.register_buffer("fixed", torch.cat(fixed), persistent=False)
        self.register_buffer("learned_row", torch.cat(learned_row), persistent=False)
        self.register_buffer("start", torch.tensor(modalities.position_offsets), persistent=False)
        self.register_buffer("coordinates", _coordinates(modalities), persistent=False)
        self.learned = None
        if num_learned > 1:
            self.learned = nn.Parameter(torch.randn(num_learned, dim) * PLACE_STD)
            self.learned.data[0] = 0.0
            state_roles(self, learned=TABLE)

    def forward(self, modality: Tensor, position: Tensor) -> Places:
        """Modality and position of each row, (T,) both."""
        row = self.start[modality] + position
        vectors = F.embedding(row, self.fixed)
        if self.learned is not None:
            vectors = vectors + F.embedding(self.learned_row[row], self.learned, padding_idx=0)
        turn = axial_rotation(self.coordinates[row], self.head_dim) if self.rotary else None
        return Places(vectors, turn)


def _fixed(m: Modality, dim: int) -> Tensor:
    """(positions, D)."""
    if m.grid is not None:
        return sincos_2d(*m.grid, dim, m.places)
    if m.kind == "set":
        return torch.zeros(m.num_positions, dim)
    return sincos_1d(m.num_positions, dim)


def _coordinates(modalities: ModalitySet) -> Tensor:
    """(positions of all modalities, 2): cells in units of the finest grid's, sequences by place."""
    side = max((max(m.grid) for m in modalities if m.grid is not None), default=1)
    parts = []
    for m in modalities:
        if m.grid is not None:
            down, across = ((torch.arange(n) + 0.5) * side / n for n in m.grid)
            cells = torch.meshgrid(down, across, indexing="ij")
            parts.append(rearrange(list(cells), "two h w -> (h w) two"))
        elif m.kind == "set":
            parts.append(torch.zeros(m.num_positions, 2))
        else:
            place = torch.arange(m.num_positions, dtype=torch.float32)
            parts.append(repeat(place, "n -> n two", two=2))
    return torch.cat(parts)


def axial_rotation(coordinates: Tensor, head_dim: int) -> Rotation:
    """Angles of rows at ``coordinates`` (T, 2): half of the channel pairs turn with the first, half
    with the second. Half of ``head_dim`` must be even.
    """
    num = head_dim // 4
    exponent = torch.arange(num, device=coordinates.device, dtype=torch.float32) / max(num, 1)
    angle = torch.einsum("ta,f->taf", coordinates.float(), _BASE**-exponent)
    angle = rearrange(angle, "t two f -> t (two f)")
    return Rotation(angle.cos(), angle.sin())


def sincos_1d(length: int, dim: int, cells: int = 0) -> Tensor:
    """Fixed 1-D table (length, D): sines, then cosines, of position / 10000^(k / (D/2)).

    Vaswani et al., 1706.03762; ``dim`` must be even. With ``cells``, the positions are centres of
    ``length`` cells over the extent of so many, in units of these.
    """
    assert dim % 2 == 0, f"a sin-cos table needs an even width, not {dim}"
    exponent = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2)
    omega = torch.exp(-math.log(10000.0) * exponent)
    place = torch.arange(length, dtype=torch.float64)
    if cells:
        place = (place + 0.5) * (cells / length) - 0.5
    angle = place[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def sincos_2d(height: int, width: int, dim: int, cells: tuple[int, int] | None = None) -> Tensor:
    """Fixed 2-D table (height * width, D), row-major: the first half of a vector tells the row, the
    second the column. ``dim`` must be divisible by 4; ``cells`` as in ``sincos_1d``.
    """
    assert dim % 4 == 0, f"a 2-D sin-cos table needs a width divisible by 4, not {dim}"
    down, across = cells or (0, 0)
    rows = repeat(sincos_1d(height, dim // 2, down), "h d -> h w d", w=width)
    columns = repeat(sincos_1d(width, dim // 2, across), "w d -> h w d", h=height)
    return rearrange([rows, columns], "two h w d -> (h w) (two d)").contiguous()
