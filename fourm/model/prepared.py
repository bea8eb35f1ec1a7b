"""A batch made ready for the network, before it is moved to a device.

Whatever follows from lengths alone (slots, orders, masks, ``cu_seqlens``) is made on the host and
travels with the batch, so that a step asks the device nothing. A ``Preparation`` says for which
network and machine; the training process makes it, the loader's workers use it. A batch without,
made by hand or by sampling, is prepared when the network meets it, and so is one that was prepared
for another network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fourm.batches.batch import MASK_QUERY, DecoderStream, EncoderStream, MaskedBatch
from fourm.batches.layout import Layout
from fourm.model.attention import Backend, PreparedLayout, on_device
from fourm.model.encoder import Arrangement, EncoderRows


@dataclass(frozen=True)
class DecoderRows:
    """What the decoder needs of a batch beside its tokens."""

    context_lengths: np.ndarray  # (B,) rows of each sample's context
    attention: PreparedLayout
    cross: PreparedLayout


@dataclass(frozen=True)
class Budget:
    """Rows of a sample that masking may use; with one, all batches have the same shapes."""

    num_inputs: int
    num_targets: int

    def filled(self, batch: MaskedBatch) -> MaskedBatch:
        """The batch with what is left of its budget in one dummy sample after the others: as many
        rows in every batch, which nothing sees and no loss counts.
        """
        num = len(batch.samples)
        return replace(
            batch,
            encoder=_filled_encoder(batch.encoder, num * self.num_inputs),
            decoder=_filled_decoder(batch.decoder, num * self.num_targets),
        )


@dataclass(frozen=True)
class Preparation:
    """What a batch's preparation depends on beside the batch."""

    backend: Backend
    arrangement: Arrangement  # of the encoder's rows
    budget: Budget | None = field(default=None, compare=False)

    def __call__(self, batch: MaskedBatch) -> MaskedBatch:
        """The batch with all that the network needs of it, on the host."""
        if self.budget is not None:
            batch = self.budget.filled(batch)
        rows = self.arrangement.rows(batch.encoder, self.backend)
        return replace(
            batch,
            encoder=replace(batch.encoder, prepared=(self, rows)),
            decoder=replace(
                batch.decoder, prepared=(self, self._decoder(batch.decoder, rows.lengths))
            ),
        )

    def encoder(self, stream: EncoderStream) -> EncoderRows:
        """The stream's rows as they were prepared, else made on the spot."""
        if stream.prepared is not None and stream.prepared[0] == self:
            return stream.prepared[1]
        return on_device(self.arrangement.rows(stream, self.backend), stream.modality.device)

    def decoder(self, stream: DecoderStream, context_lengths: np.ndarray) -> DecoderRows:
        """The stream's rows as they were prepared for such a context (B,), else made on the
        spot.
        """
        if stream.prepared is not None:
            made_for, rows = stream.prepared
            if made_for == self and np.array_equal(rows.context_lengths, context_lengths):
                return rows
        return on_device(self._decoder(stream, context_lengths), stream.modality.device)

    def _decoder(self, stream: DecoderStream, context_lengths: np.ndarray) -> DecoderRows:
        pairs = Layout.per_sample(stream.lengths, context_lengths)
        return DecoderRows(
            context_lengths, self.backend.prepare(stream.layout), self.backend.prepare(pairs)
        )


class PreparedBatches(Dataset):
    """A data set of lists of masked batches, each prepared where it is made."""

    def __init__(self, batches: Any, preparation: Callable[[MaskedBatch], MaskedBatch]) -> None:
        self._batches, self._preparation = batches, preparation

    def __getitem__(self, step: int) -> list[MaskedBatch]:
        return [self._preparation(batch) for batch in self._batches[step]]


# ---- one dummy sample ----------------------------------------------------------------------------


def _spare(rows: np.ndarray, total: int) -> int:
    """How many rows are left of ``total``."""
    left = total - int(rows.sum())
    assert left >= 0, f"masking gave {-left} rows more than its budget"
    return left


def _longer(values: Tensor, spare: int, value: int = 0) -> Tensor:
    return torch.cat([values, values.new_full((spare,), value)])


def _filled_encoder(stream: EncoderStream, total: int) -> EncoderStream:
    spare = _spare(stream.lengths, total)
    modality, position = _longer(stream.modality, spare), _longer(stream.position, spare)
    return replace(
        stream,
        modality=modality,
        position=position,
        token=_longer(stream.token, spare),
        lengths=np.append(stream.lengths, spare),
        kinds=modality.numpy().copy(),
        places=position.numpy().copy(),
    )


def _filled_decoder(stream: DecoderStream, total: int) -> DecoderStream:
    """``by_modality`` and ``counts`` stay as they are: dummy rows have no loss."""
    spare = _spare(stream.lengths, total)
    return replace(
        stream,
        modality=_longer(stream.modality, spare),
        position=_longer(stream.position, spare),
        input=_longer(stream.input, spare, MASK_QUERY),
        target=_longer(stream.target, spare),
        lengths=np.append(stream.lengths, spare),
        segment_lengths=np.append(stream.segment_lengths, spare),
        segment_sample=np.append(stream.segment_sample, len(stream.lengths)),
        segment_causal=np.append(stream.segment_causal, False),
    )
