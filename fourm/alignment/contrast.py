"""Contrastive loss: symmetric InfoNCE with a learnable, clamped temperature, masked false
negatives, any number of ranks.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Temperature(nn.Module):
    """A learnable temperature, kept between bounds (FuseMix: starts at 0.07, in 0.001 .. 0.5)."""

    def __init__(self, start: float = 0.07, low: float = 0.001, high: float = 0.5) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(start))
        self.low, self.high = low, high

    def forward(self) -> Tensor:
        """The temperature within its bounds, a scalar."""
        return self.value.clamp(self.low, self.high)


def info_nce(a: Tensor, b: Tensor, temperature: Tensor, groups: Tensor | None = None) -> Tensor:
    """Sum over this rank's rows of the symmetric cross-entropy of matching row i of ``a`` (B, D) to
    row i of ``b``.

    Negatives are the rows of all ranks; those of one group (other captions of one picture) are left
    out, not pushed away. Rows are normalised here. Divide by the global number of rows for the
    mean.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    all_a, all_b, first = _gathered(a), _gathered(b), len(a) * _rank()
    index = torch.arange(len(a), device=a.device)
    same = None
    if groups is not None:
        everyone = _gathered(groups) if _world() > 1 else groups
        same = groups[:, None] == everyone[None, :]
        same[index, index + first] = False
    total = a.new_zeros(())
    for mine, others in ((a, all_b), (b, all_a)):
        logits = mine @ others.T / temperature
        if same is not None:
            logits = logits.masked_fill(same, float("-inf"))
        total = total + 0.5 * F.cross_entropy(logits, index + first, reduction="sum")
    return total


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if _world() > 1 else 0


def _gathered(rows: Tensor) -> Tensor:
    """Rows of all ranks, through which gradients flow back to their owners."""
    if _world() == 1:
        return rows
    if not rows.dtype.is_floating_point:
        parts = [torch.empty_like(rows) for _ in range(_world())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows))
