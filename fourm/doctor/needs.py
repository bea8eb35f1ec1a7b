"""What a pretraining needs, by arithmetic alone: no weight is made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fourm.batch import MaskedBatch
from fourm.flops import training_flops
from fourm.loss import CHUNK_LOGITS
from fourm.modalities import ModalitySet
from fourm.model import FourM, ModelConfig
from fourm.roles import TABLE, parameter_roles
from fourm.training.loop_config import LoopConfig
from fourm.training.optimizers import parameter_groups

_FLOAT = 4  # bytes of what weights, gradients and moments are kept in, whatever the precision


@dataclass(frozen=True)
class Needs:
    """Of one rank; memory in bytes."""

    parameters: int
    tables: int  # of these, rows that are looked up or asked for
    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int  # of the largest micro-batch seen, within about a third
    units: float  # rows of both streams in a step
    flops: float  # of a step, forward and backward

    @property
    def memory(self) -> int:
        """All together."""
        kept = self.weights + self.gradients + self.optimizer + self.average
        return kept + self.activations


def needs(
    c: ModelConfig, loop: LoopConfig, modalities: ModalitySet, batches: list[MaskedBatch]
) -> Needs:
    """Of a model and of one step's micro-batches."""
    with torch.device("meta"):
        model = FourM(c, modalities)
    roles = parameter_roles(model)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    total = sum(sizes.values())
    moments = {"adamw": 2, "muon": 1}
    optimizer = sum(
        moments[group.optimizer] * p.numel()
        for group in parameter_groups(model, loop.optimizer)
        for p in group.params
    )
    return Needs(
        parameters=total,
        tables=sum(size for name, size in sizes.items() if roles[name] is TABLE),
        weights=total * _FLOAT,
        gradients=total * _FLOAT,
        optimizer=optimizer * _FLOAT,
        average=total * _FLOAT if loop.ema else 0,
        activations=max(activation_bytes(c, loop, modalities, batch) for batch in batches),
        units=float(sum(b.encoder.lengths.sum() + b.decoder.lengths.sum() for b in batches)),
        flops=sum(training_flops(c, modalities, batch) for batch in batches),
    )


def activation_bytes(
    c: ModelConfig, loop: LoopConfig, modalities: ModalitySet, batch: MaskedBatch
) -> int:
    """What the forward pass keeps for the backward pass of a plain encoder.

    A block keeps, a row: the inputs and outputs of its norms, query, key, value and what attention
    gave, and the halves of the MLP with their product; each about once more where rows are brought
    into padded form.
    """
    inputs, targets = int(batch.encoder.lengths.sum()), int(batch.decoder.lengths.sum())
    number = 2 if loop.precision == "bf16" else _FLOAT
    hidden = (4 if c.gated_mlp else 2) * c.block.hidden
    block, cross = 12 * c.dim + hidden, 8 * c.dim
    encoder, decoder = inputs * block, targets * (block + cross) + 6 * inputs * c.dim
    kept = c.encoder_depth * encoder + c.decoder_depth * decoder
    if loop.activation_checkpointing:  # the rows before each block, and one block made again
        kept = c.encoder_depth * inputs * c.dim + c.decoder_depth * targets * c.dim
        kept += max(encoder, decoder)
    logits = sum(
        min(count * m.vocab_size, CHUNK_LOGITS)
        for m, count in zip(modalities, batch.decoder.counts, strict=True)
    )
    return kept * number + logits * _FLOAT
