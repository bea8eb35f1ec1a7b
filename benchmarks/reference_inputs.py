"""A masked batch as 4M's loader hands it over: all tokens of every modality, and masks over them.

A sequence has its input in the first slots and its target behind it; how far a target token sees is
said by one number for each token, whose running sum is what the decoder compares positions with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from workload import Samples

from fourm.batches.batch import DecoderStream, EncoderStream, MaskedBatch
from fourm.modalities import Modality, ModalitySet
from fourm.numbers.ragged import ranks_in_groups


@dataclass(frozen=True)
class DenseModality:
    """All tokens of one modality in B samples, and which of them are inputs and targets."""

    tokens: Tensor  # (B, L) ids, or (B, L, C) vectors
    is_input: Tensor  # (B, L) True = the encoder sees it
    is_target: Tensor  # (B, L) True = part of the target
    reach: Tensor  # (B, L) int64: by how many tokens a target sees more than the one before it


def dense_modalities(
    modalities: ModalitySet, samples: Samples, batch: MaskedBatch
) -> list[DenseModality]:
    """The masks of a batch in 4M's form, in the order of the set."""
    made = []
    for index, m in enumerate(modalities):
        if m.kind == "sequence":
            made.append(_dense_sequence(index, m, batch))
        else:
            made.append(_dense_grid(index, m, samples, batch))
    return made


def _samples_of(stream: EncoderStream | DecoderStream) -> np.ndarray:
    return np.repeat(np.arange(len(stream.lengths)), stream.lengths)


def _dense_grid(index: int, m: Modality, samples: Samples, batch: MaskedBatch) -> DenseModality:
    num = len(batch.encoder.lengths)
    shape = (num, m.num_tokens)
    is_input, is_target = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for stream, marked in ((batch.encoder, is_input), (batch.decoder, is_target)):
        own = stream.modality.numpy() == index
        marked[_samples_of(stream)[own], stream.position.numpy()[own]] = True
    # the first target sees all targets of its modality, and so do the others
    reach = np.zeros(shape, dtype=np.int64)
    reach[np.arange(num), is_target.argmax(1)] = is_target.sum(1)
    held = samples.arrays[m.name]
    return DenseModality(*map(torch.from_numpy, (held, is_input, is_target, reach)))


def _dense_sequence(index: int, m: Modality, batch: MaskedBatch) -> DenseModality:
    """Inputs from the first slot on, the target behind them."""
    num = len(batch.encoder.lengths)
    shape = (num, 2 * (m.num_tokens + 1))
    ids = np.zeros(shape, dtype=np.int64)
    is_input, is_target = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    own = batch.encoder.modality.numpy() == index
    samples = _samples_of(batch.encoder)[own]
    place = ranks_in_groups(np.arange(len(samples)), samples, num)
    ids[samples, place], is_input[samples, place] = batch.encoder.token.numpy()[own], True
    offset = is_input.sum(1)
    own = batch.decoder.modality.numpy() == index
    samples = _samples_of(batch.decoder)[own]
    place = offset[samples] + ranks_in_groups(np.arange(len(samples)), samples, num)
    # n predictions are made from a target of n + 1 ids
    ids[samples, place] = batch.decoder.input.numpy()[own]
    ids[samples, place + 1] = batch.decoder.target.numpy()[own]
    is_target[samples, place] = is_target[samples, place + 1] = True
    reach = is_target.astype(np.int64)  # causal: each sees one more
    return DenseModality(*map(torch.from_numpy, (ids, is_input, is_target, reach)))
