"""Floating-point operations of FourM, by formula: two for each multiply-add, matrix products only,
a forward pass of one sample.

``torch``'s own counter leaves fused attention on CPUs out, so that a comparison of encoders would
miss just what differs between them; a test holds these formulas to it where it counts everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.batches.batch import MaskedBatch
from fourm.modalities import ModalitySet
from fourm.model.encoder import Latent
from fourm.model.model import ModelConfig

_TRAINING = 3  # the backward pass has two products for each one of the forward pass


@dataclass(frozen=True)
class Flops:
    """Operations of one sample's forward pass."""

    encoder: int
    decoder: int

    @property
    def total(self) -> int:
        """Encoder and decoder together."""
        return self.encoder + self.decoder


Rows = Any  # an int, or an int64 array: the formulas hold element by element


def _mlp(c: ModelConfig, rows: Rows) -> Rows:
    return 2 * rows * c.dim * c.block.hidden * (3 if c.gated_mlp else 2)


def _attention(c: ModelConfig, queries: Rows, keys: Rows) -> Rows:
    """Projections of queries and output, of keys and values, and the two products of attention
    itself.
    """
    return 4 * queries * c.dim**2 + 4 * keys * c.dim**2 + 4 * queries * keys * c.dim


def _layer(c: ModelConfig, rows: Rows) -> Rows:
    return _attention(c, rows, rows) + _mlp(c, rows)


def encoder_flops(c: ModelConfig, num_images: Rows, num_sequences: Rows) -> Rows:
    """``num_images`` and ``num_sequences`` visible tokens of either kind; embeddings of pixel
    patches are left out.
    """
    n = num_images + num_sequences
    if not isinstance(c.encoder, Latent):
        rows = n + c.num_registers
        return c.encoder_depth * _layer(c, rows) + 2 * rows * c.dim**2
    f = c.encoder
    latents = f.num_tokens
    total = f.stem_layers * _layer(c, n) + (c.encoder_depth - f.stem_layers) * _layer(c, latents)
    for keys in (num_images + 1, num_sequences + 1):
        total += _attention(c, latents, keys) + _mlp(c, latents)
    total += f.iterations * (_attention(c, latents, latents) + _mlp(c, latents))
    return total + 2 * _context_rows(c, n) * c.dim**2


def _context_rows(c: ModelConfig, num_inputs: Rows) -> Rows:
    """Rows that the decoder reads of a sample with ``num_inputs`` tokens."""
    if not isinstance(c.encoder, Latent):
        return num_inputs + c.num_registers
    stem = num_inputs if c.encoder.context == "latents+stem" else 0
    return c.encoder.num_tokens + stem


def _decoder(c: ModelConfig, rows: Rows, context: Rows) -> Rows:
    """All layers for the ``rows`` of one segment; keys and values of its context left out."""
    cross = 4 * rows * c.dim**2 + 4 * rows * context * c.dim
    return c.decoder_depth * (_layer(c, rows) + cross)


def flops(
    c: ModelConfig,
    num_images: int,
    num_sequences: int,
    targets: tuple[int, ...],
    vocab_sizes: tuple[int, ...] = (),
) -> Flops:
    """With ``targets`` tokens of each target modality (they see their own only) and the sizes of
    their heads.
    """
    context = _context_rows(c, num_images + num_sequences)
    decoder = 0
    for rows in targets:
        decoder += _decoder(c, rows, context)
    decoder += c.decoder_depth * 4 * context * c.dim**2
    decoder += sum(
        2 * rows * c.dim * size for rows, size in zip(targets, vocab_sizes, strict=False)
    )
    return Flops(encoder_flops(c, num_images, num_sequences), decoder)


def training_flops(c: ModelConfig, modalities: ModalitySet, batch: MaskedBatch) -> float:
    """Of a masked batch, forward and backward, as if nothing was computed twice: what MFU counts.

    Each target row reads its own segment and its sample's context, and has the head of its
    modality.
    """
    d, num = batch.decoder, len(batch.samples)
    lengths = batch.encoder.lengths[:num]  # rows that fill a budget belong to no sample
    kinds = batch.encoder.kinds[: lengths.sum()]
    is_sequence = np.array([m.kind == "sequence" for m in modalities])
    owner = np.repeat(np.arange(num), lengths)
    num_sequences = np.bincount(owner, is_sequence[kinds], num).astype(np.int64)
    total = encoder_flops(c, lengths - num_sequences, num_sequences).sum()
    context = np.broadcast_to(_context_rows(c, lengths), lengths.shape)
    is_drawn = d.segment_sample < num
    total += _decoder(c, d.segment_lengths[is_drawn], context[d.segment_sample[is_drawn]]).sum()
    total += 4 * c.decoder_depth * context.sum() * c.dim**2
    sizes = np.array([m.vocab_size for m in modalities])
    return _TRAINING * float(total + 2 * c.dim * (sizes * d.counts).sum())
