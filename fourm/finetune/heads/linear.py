"""The mean of a sample's tokens, a norm, one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fourm.finetune.goals import Goal
from fourm.finetune.heads._protocol import Head
from fourm.modalities import Modality
from fourm.pipeline.feature_rows import FeatureRows


@dataclass(frozen=True, kw_only=True)
class Linear(Head, name="linear"):
    """The simplest head of classes."""

    def build(self, dim: int, goal: Goal, inputs: tuple[Modality, ...]) -> nn.Module:
        return _OfMean(dim, goal.num_outputs)


class _OfMean(nn.Module):
    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, num_outputs)
        nn.init.zeros_(self.out.weight)

    def forward(self, rows: FeatureRows) -> Tensor:
        return self.out(self.norm(rows.mean().vectors))
