"""What every head answers. A head of one's own is a class anywhere, named in YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fourm.choices import Choice
from fourm.finetune.goals import Goal
from fourm.modalities import Modality


@dataclass(frozen=True, kw_only=True)
class Head(Choice, family="head", package="fourm.finetune.heads"):
    """What turns an encoder's rows into an answer."""

    layers: tuple[int, ...] = (-1,)  # of the encoder, side by side in a row

    has_places: ClassVar[bool] = False  # answers are maps

    def build(self, dim: int, goal: Goal, inputs: tuple[Modality, ...]) -> nn.Module:
        """The network, ``FeatureRows`` of B samples -> (B, C) or, of maps, (B, C, H, W).

        Args:
            dim: numbers in a row.
            inputs: what the encoder is given.

        Raises UserError where it cannot be built on these.
        """
        raise NotImplementedError
