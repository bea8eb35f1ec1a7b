"""Learned tokenizers as modules of tensors: values to ids, ids to values.

Values are what the tokenizer's network takes: float (B, C, H, W) of about unit scale, class ids
(B, H, W) or vectors (B, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.pipeline.preferred import is_released


class Network(Protocol):
    """What a learned tokenizer's network answers."""

    def encode(self, values: Tensor) -> Tensor:
        """Values -> ids (B, n)."""
        ...

    def decode(self, ids: Tensor) -> Tensor:
        """Ids (B, n) -> values, of classes their logits."""
        ...


def is_learned(m: Modality) -> bool:
    """A tokenizer of numbers, as opposed to one of text, or none."""
    return m.kind in ("grid", "set") and m.tokenizer is not None


def network_of(pipe: AnyToAnyPipeline, m: Modality) -> Any:
    """The network of a modality's tokenizer. Raises UserError where there is none to export."""
    network = getattr(pipe.codecs[m.name], "model", None)
    if is_released(pipe.modalities) or not isinstance(network, nn.Module):
        raise UserError(
            f"the tokenizer of {m.name} is none of `fourm train-tokenizer`: it cannot be exported;"
            " export encoder and decoder, which take ids"
        )
    return network


class ToIds(nn.Module):
    """A tokenizer's encoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, values: Tensor) -> Tensor:
        """Values -> ids (B, n)."""
        return cast(Network, self.network).encode(values)


class FromIds(nn.Module):
    """A tokenizer's decoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, n) -> values, of classes their logits."""
        return cast(Network, self.network).decode(ids)


@dataclass(frozen=True)
class ValueForm:
    """How raw values become what a network takes: raw * multiply + add, a pair a channel; class
    ids are taken as they are.
    """

    shape: tuple[int, ...]  # of one sample, channels first
    num_classes: int  # 0 = numbers
    multiply: tuple[float, ...] = ()
    add: tuple[float, ...] = ()

    @staticmethod
    def of(m: Modality) -> ValueForm:
        """Of a modality with pixels or vectors, found by trying 0 and 1: all types are linear."""
        form = m.raw.network_form(m.patch_size or 1)
        side = form.image_size
        if form.num_classes:
            return ValueForm((side, side), form.num_classes)
        if not side:
            return ValueForm((form.channels,), 0)
        zero = np.zeros((1, side, side, form.channels), np.float32)
        ends = [m.raw.to_floats(zero + value)[0, 0, 0].astype(float) for value in (0, 1)]
        scale = tuple((ends[1] - ends[0]).tolist()), tuple(ends[0].tolist())
        return ValueForm((form.channels, side, side), 0, *scale)
