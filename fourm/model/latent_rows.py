"""What the latent encoder needs of a batch beside its tokens: which rows its latents read, in which
order, and what they begin as. All of it follows from lengths, modalities and places, and is made on
the host (``fourm.model.prepared``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fourm.batches.batch import EncoderStream
from fourm.batches.layout import Layout
from fourm.modalities import Modality, ModalitySet
from fourm.model.attention import Backend, PreparedLayout
from fourm.model.attention.rows import RowOrder
from fourm.model.encoder import Arrangement, Latent
from fourm.numbers.ragged import rows_of_blocks, starts

_CURVE = 1 << 12  # places along each side of the picture that the Z-curve tells apart


@dataclass(frozen=True)
class Spans:
    """Which rows each latent begins as the mean of, as (latent, row) pairs."""

    latent: Tensor  # (P,)
    row: Tensor  # (P,)
    weight: Tensor  # (P, 1), one over the span's length
    num: int

    @classmethod
    def of(cls, counts: np.ndarray, num_tokens: int) -> Spans:
        """Each sample's rows (``counts`` (B,) of them) in ``num_tokens`` spans as even as can be;
        with fewer rows than spans, some rows are in two.
        """
        i = np.arange(num_tokens)
        first = i * counts[:, None] // num_tokens
        last = np.maximum((i + 1) * counts[:, None] // num_tokens, first + 1)
        last = np.minimum(last, counts[:, None])
        lengths = (last - first).reshape(-1)
        row = rows_of_blocks((first + starts(counts)[:, None]).reshape(-1), lengths)
        latent = np.repeat(np.arange(len(lengths)), lengths)
        weight = (1.0 / np.repeat(lengths, lengths)).astype(np.float32)
        return cls(
            torch.from_numpy(latent),
            torch.from_numpy(row),
            torch.from_numpy(weight[:, None]),
            len(lengths),
        )

    def mean(self, rows: Tensor) -> Tensor:
        """(T, D) -> (B * N, D); zeros where a sample has no rows."""
        taken = rows.index_select(0, self.row) * self.weight.to(rows.dtype)
        return rows.new_zeros(self.num, rows.shape[1]).index_add(0, self.latent, taken)


@dataclass(frozen=True)
class GroupRows:
    """The rows of one group, images or sequences, and how its latents read them."""

    counts: np.ndarray  # (B,) of each sample
    taken: Tensor  # (T_g,) which rows of the stream: by sample, then along the curve
    with_nulls: RowOrder  # a null token of each sample, then the rows: by sample
    attention: PreparedLayout
    spans: Spans | None  # what latents begin as, where they begin pooled


@dataclass(frozen=True)
class LatentRows:
    """What the latent encoder needs of a batch."""

    lengths: np.ndarray  # (B,) rows of each sample's context
    stem: PreparedLayout
    images: GroupRows
    sequences: GroupRows
    latents: PreparedLayout
    num_latents: np.ndarray  # (B,) of each sample
    context: RowOrder | None  # latents, then the stem's rows: by sample; None = latents alone


@dataclass(frozen=True)
class LatentArrangement(Arrangement):
    """Groups, spans and layouts of the latent encoder."""

    config: Latent
    # they follow from the modality set; ``along_curve`` holds keys of all places end to end
    is_sequence: np.ndarray = field(compare=False)
    first: np.ndarray = field(compare=False)
    along_curve: np.ndarray = field(compare=False)

    @staticmethod
    def of(config: Latent, modalities: ModalitySet) -> LatentArrangement:
        """The arrangement for batches of a modality set."""
        return LatentArrangement(
            config,
            np.array([m.kind == "sequence" for m in modalities]),
            np.array(modalities.position_offsets),
            np.concatenate([_order_in_space(m) for m in modalities]),
        )

    def rows(self, stream: EncoderStream, backend: Backend) -> LatentRows:
        lengths = stream.lengths
        sample = np.arange(len(lengths))
        num_latents = np.full(len(lengths), self.config.num_tokens)
        order, context_lengths = None, num_latents
        if self.config.context == "latents+stem":
            order = RowOrder.by_owner(np.repeat(sample, num_latents), np.repeat(sample, lengths))
            context_lengths = num_latents + lengths
        is_sequence = self.is_sequence[stream.kinds]
        return LatentRows(
            context_lengths,
            backend.prepare(Layout.per_sample(lengths)),
            self._group(stream, ~is_sequence, backend),
            self._group(stream, is_sequence, backend),
            backend.prepare(Layout.per_sample(num_latents)),
            num_latents,
            order,
        )

    def _group(self, stream: EncoderStream, mine: np.ndarray, backend: Backend) -> GroupRows:
        """``mine`` (T,) says which rows of the stream are the group's."""
        num, n = len(stream.lengths), self.config.num_tokens
        sample = np.repeat(np.arange(num), stream.lengths)
        place = self.first[stream.kinds[mine]] + stream.places[mine]
        index = np.flatnonzero(mine)
        index = index[np.lexsort((self.along_curve[place], sample[mine]))]
        counts = np.bincount(sample[mine], minlength=num)
        return GroupRows(
            counts,
            torch.from_numpy(index),
            RowOrder.by_owner(np.arange(num), np.repeat(np.arange(num), counts)),
            backend.prepare(Layout.per_sample(np.full(num, n), counts + 1)),
            Spans.of(counts, n) if self.config.start == "pooled" else None,
        )


def _order_in_space(m: Modality) -> np.ndarray:
    """Sort key of a modality's positions (P,): cells of all grids along one Z-curve over the
    picture, whatever their number; then the others.
    """
    if m.grid is None:
        return _CURVE**2 + np.arange(m.num_positions)
    y, x = (((np.arange(side) + 0.5) / side * _CURVE).astype(np.int64) for side in m.grid)
    return (_spread(y)[:, None] * 2 + _spread(x)[None]).reshape(-1)


def _spread(value: np.ndarray) -> np.ndarray:
    """Bits of numbers below ``_CURVE`` moved apart, a gap after each."""
    bits = [(value >> bit & 1) << 2 * bit for bit in range(_CURVE.bit_length())]
    return np.sum(bits, axis=0)
