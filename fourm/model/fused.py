"""Some rows of a linear layer on their own, with the adapters that lie on it.

Query, key and value are one matrix. Where they are needed apart (cross-attention, caches), the
matrix is cut, which passes by the layer's ``forward`` and so by what ``peft`` adds there: LoRA's
product of two narrow matrices (2106.09685) is cut along with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds: rows -> (T, r) -> (T, rows of the part)."""

    dropout: nn.Module
    narrow: nn.Module  # (T, D) -> (T, r)
    wide: Tensor  # (rows of the part, r)
    scale: float

    def __call__(self, rows: Tensor) -> Tensor:
        return F.linear(self.narrow(self.dropout(rows)), self.wide) * self.scale


@dataclass(frozen=True)
class Part:
    """A map (T, D) -> (T, rows of the part)."""

    weight: Tensor
    bias: Tensor | None
    adapters: tuple[LowRank, ...] = ()

    def __call__(self, rows: Tensor) -> Tensor:
        out = F.linear(rows, self.weight, self.bias)
        for adapter in self.adapters:
            out = out + adapter(rows).to(out.dtype)
        return out


def cut_layer(layer: nn.Linear, sizes: list[int]) -> list[Part]:
    """The layer in parts of so many rows. One split of the weight: a slice each would cost the
    whole weight's gradient each.
    """
    weights = layer.weight.split(sizes)
    biases = [None] * len(sizes) if layer.bias is None else list(layer.bias.split(sizes))
    adapters = list(zip(*_adapters(layer, sizes), strict=True)) or [()] * len(sizes)
    return [Part(*part) for part in zip(weights, biases, adapters, strict=True)]


def _adapters(layer: nn.Linear, sizes: list[int]) -> list[list[LowRank]]:
    """For each adapter that is on (peft's names), its parts."""
    adapted: Any = layer
    if not hasattr(layer, "lora_A") or adapted.merged or adapted.disable_adapters:
        return []
    found = []
    for name in adapted.active_adapters:
        if name in adapted.lora_A:
            dropout, narrow = adapted.lora_dropout[name], adapted.lora_A[name]
            wide = adapted.lora_B[name].weight.split(sizes)
            found.append([LowRank(dropout, narrow, part, adapted.scaling[name]) for part in wide])
    return found
