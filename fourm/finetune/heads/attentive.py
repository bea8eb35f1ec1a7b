"""One learned query looks at a sample's tokens (CAE, 2202.03026; V-JEPA), then a linear layer: the
probe's network (``fourm.features.heads``), trained together with what is below it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fourm.features.heads import AttentivePool
from fourm.finetune.goals import Goal
from fourm.finetune.heads._protocol import Head
from fourm.modalities import Modality
from fourm.pipeline.feature_rows import FeatureRows


@dataclass(frozen=True, kw_only=True)
class Attentive(Head, name="attentive"):
    """The head of classes that depend on parts of a sample."""

    def build(self, dim: int, goal: Goal, inputs: tuple[Modality, ...]) -> nn.Module:
        return _OfTokens(dim, goal.num_outputs)


class _OfTokens(nn.Module):
    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.pool = AttentivePool(torch.zeros(dim), torch.ones(dim), num_outputs)

    def forward(self, rows: FeatureRows) -> Tensor:
        tokens = pad_sequence(list(rows.vectors.split(rows.lengths.tolist())), batch_first=True)
        lengths = torch.from_numpy(rows.lengths).to(tokens.device)
        there = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return self.pool(tokens, there)
