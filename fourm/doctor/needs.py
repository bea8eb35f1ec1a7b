"""What a rank of a pretraining needs, by arithmetic alone: no weight is made.

Ranks hold the whole model (DDP) or a share of it (FSDP2: weights, gradients, moments and average
are cut over all ranks; one block at a time is gathered, and the parameters outside the blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from fourm.blocks import Block
from fourm.doctor.activations import (
    FLOAT,
    Rows,
    activation_bytes,
    chunk_bytes,
    logit_bytes,
    number_bytes,
)
from fourm.modalities import ModalitySet
from fourm.model import FourM, ModelConfig
from fourm.roles import TABLE, parameter_roles
from fourm.training.loop import LoopConfig
from fourm.training.optimizers import parameter_groups

_MOMENTS = {"adamw": 2, "muon": 1}
_GATHERED = 2  # blocks at a time: the one at work and the next


@dataclass(frozen=True)
class Ranks:
    """How many processes there are, and whether each holds a share of the model or all of it."""

    num: int = 1
    sharded: bool = False

    def __str__(self) -> str:
        return "FSDP2" if self.sharded else "DDP" if self.num > 1 else "one rank"


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
        return sum(size for name, size in self._sizes.items() if roles[name] is TABLE)

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
        total, share = self.parameters, ranks.num if ranks.sharded else 1
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
        if ranks.sharded:  # weights and gradients of what is gathered
            gathered = total - sum(blocks) + _GATHERED * max(blocks, default=0)
            # gradients are not cut before the last micro-batch
            whole = total if loop.micro_batches > 1 else 0
            return (2 * gathered + whole) * number
        halves = sum(blocks) * number if number < FLOAT else 0
        return halves + (total * FLOAT if ranks.num > 1 else 0)
