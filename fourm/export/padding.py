"""Packed streams as the padded tensors that exported modules take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fourm.batches.batch import DecoderStream, EncoderStream
from fourm.modalities import Modality
from fourm.numbers.ragged import starts


def padded(lengths: np.ndarray, *rows: np.ndarray) -> list[Tensor]:
    """Rows (T, ...) of samples one after another as (B, N, ...), zero where there is none, and at
    last the mask (B, N). There is at least one place.
    """
    sample = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(sample)) - starts(lengths)[sample]
    shape = len(lengths), max(int(lengths.max(initial=0)), 1)
    found = []
    for part in (*rows, np.ones(len(sample), bool)):
        table = np.zeros((*shape, *part.shape[1:]), part.dtype)
        table[sample, place] = part
        found.append(torch.from_numpy(table))
    return found


def encoder_inputs(stream: EncoderStream, continuous: tuple[Modality, ...] = ()) -> list[Tensor]:
    """What ``PaddedEncoder`` takes: rows of ids, then all places of each continuous modality."""
    sample = np.repeat(np.arange(len(stream.lengths)), stream.lengths)
    taken = np.zeros(len(sample), bool)
    behind = []
    for m in continuous:
        values = torch.zeros(len(stream.lengths), m.num_tokens, m.width)
        mask = torch.zeros(values.shape[:2], dtype=torch.bool)
        if m.name in stream.vectors:
            given = stream.vectors[m.name]
            rows = given.rows.numpy()
            at = sample[rows], stream.places[rows]
            values[at], mask[at], taken[rows] = given.floats(), True, True
        behind += [values, mask]
    lengths = np.bincount(sample[~taken], minlength=len(stream.lengths))
    ids = (t.numpy()[~taken] for t in (stream.modality, stream.position, stream.token))
    return [*padded(lengths, *ids), *behind]


def decoder_inputs(stream: DecoderStream) -> list[Tensor]:
    """What ``PaddedDecoder`` takes of new rows."""
    rows = (t.numpy() for t in (stream.modality, stream.position, stream.input))
    return padded(stream.lengths, *rows)
