"""What a rank of a pretraining needs, by arithmetic alone: no weight is made.

Ranks hold the whole model (DDP) or a share of it (FSDP2, ``fourm.training.sharding``): weights,
gradients, moments and average are cut; a block or two is gathered at a time, and what lies outside
the blocks for the whole pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from fourm.doctor.activations import (
    FLOAT,
    Rows,
    activation_bytes,
    chunk_bytes,
    logit_bytes,
    number_bytes,
)
from fourm.modalities import ModalitySet
from fourm.model.blocks import Block
from fourm.model.model import FourM, ModelConfig
from fourm.model.roles import parameter_roles
from fourm.training.loop_config import LoopConfig
from fourm.training.optimizers import parameter_groups
from fourm.training.sharding import Sharding

_MOMENTS = {"adamw": 2, "muon": 1, "rows": 2}
_GATHERED = 2  # blocks at a time: the one at work and the next
_OF_A_MACHINE = 8  # GPUs, as most that train have


@dataclass(frozen=True)
class Ranks:
    """How many processes there are, and how they share the model."""

    num: int = 1
    sharding: Sharding = "none"

    @property
    def shares(self) -> int:
        """Into how many parts the model is cut."""
        return {"none": 1, "node": min(self.num, _OF_A_MACHINE), "all": self.num}[self.sharding]

    def __str__(self) -> str:
        if self.num == 1:
            return "one rank"
        return {"none": "DDP", "node": "FSDP2 in a machine", "all": "FSDP2"}[self.sharding]


@dataclass(frozen=True)
class Needs:
    """Of one rank, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    # DDP: buckets of gradients. FSDP: what is gathered. Half precision: weights in it.
    copies: int
    activations: int
    logits: int

    @property
    def memory(self) -> int:
        """All together."""
        kept = self.weights + self.gradients + self.optimizer + self.average
        return kept + self.copies + self.activations + self.logits


class Sizes:
    """Numbers of parameters of a model that is never made."""

    def __init__(self, config: ModelConfig, modalities: ModalitySet) -> None:
        self.config, self.modalities = config, modalities
        with torch.device("meta"):
            self._model = FourM(config, modalities)
        self._sizes = {name: p.numel() for name, p in self._model.named_parameters()}

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self._sizes.values())

    @cached_property
    def tables(self) -> int:
        """Rows that are looked up or asked for."""
        roles = parameter_roles(self._model)
        return sum(size for name, size in self._sizes.items() if roles[name].is_table)

    @cached_property
    def blocks(self) -> list[int]:
        """Of each block."""
        blocks = [b for b in self._model.modules() if isinstance(b, Block)]
        return [sum(p.numel() for p in block.parameters()) for block in blocks]

    def moments(self, loop: LoopConfig) -> int:
        """What the optimizers keep."""
        groups = parameter_groups(self._model, loop.optimizer)
        return sum(_MOMENTS[g.optimizer] * sum(p.numel() for p in g.params) for g in groups)

    def needs(self, loop: LoopConfig, ranks: Ranks, rows: Rows) -> Needs:
        """Of a rank whose micro-batch has ``rows``."""
        total, share = self.parameters, ranks.shares
        logits = logit_bytes(self.config, loop, self.modalities, rows)
        return Needs(
            weights=total * FLOAT // share,
            gradients=total * FLOAT // share,
            optimizer=self.moments(loop) * FLOAT // share,
            average=total * FLOAT // share if loop.ema else 0,
            copies=self._copies(loop, ranks),
            activations=activation_bytes(self.config, loop, rows),
            logits=logits + chunk_bytes(loop, self.modalities, rows),
        )

    def _copies(self, loop: LoopConfig, ranks: Ranks) -> int:
        number, total, blocks = number_bytes(loop), self.parameters, self.blocks
        halves = number < FLOAT
        if ranks.sharding != "none":  # weights and gradients of what is gathered
            outside = total - sum(blocks)
            # half gradients are summed over the ranks as floats
            each = 2 * number + (FLOAT if halves else 0)
            return outside * 2 * FLOAT + _GATHERED * max(blocks, default=0) * each
        buckets = total * FLOAT if ranks.num > 1 else 0
        return buckets + (sum(blocks) * number if halves else 0)
