"""JAR (2305.19924) as an option of FourM's encoder: all input tokens are resampled once to a few
latents, on which the other layers run.

A few stem layers see all tokens. Then N latents read the image-like tokens and N others the
sequences; the sequences' latents take in the images' through tanh gates, transformer layers follow,
and that is iterated with learned weights. Encoder layers after the stem are divided among the
iterations, so depth stays the same while their cost no longer grows with the input.

Not in the paper and needed here (``docs/latent_encoder.md`` has the measurements):

* ``start: pooled``: a latent begins as the mean of tokens that lie near each other in the picture,
  of whatever modality, instead of a learned vector that knows no place (``learned``, the paper's).
  Attention and MLPs begin at zero on top, so that with as many latents as tokens the encoder begins
  as a plain one.
* norms, residuals and a visible position signal; a null token for each group, so that a sample may
  lack one.
* ``context: latents+stem``, where the decoder also reads the stem's tokens: dense targets need what
  lies at their own place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fourm.attention import Backend, PreparedLayout
from fourm.attention.rows import RowOrder, take_rows
from fourm.batch import EncoderStream
from fourm.blocks import MLP, Attention, Block, BlockShape
from fourm.encoder import Arrangement, Encoded, Latent
from fourm.errors import UserError
from fourm.layout import Layout
from fourm.modalities import Modality, ModalitySet
from fourm.ragged import rows_of_blocks, starts
from fourm.roles import TABLE, state_roles

_QUERY_STD = 0.3  # of the queries and null tokens: small ones look like nothing at all
_PLACE_STD = 0.02
_CURVE = 1 << 12  # places along each side of the picture that the Z-curve tells apart
_GATE = 0.5  # gates start half open; from zero they start slowly


def _begin(attention: Attention, mlp: MLP, reads_at_once: bool) -> None:
    """Fresh weights: nothing is added at first, unless attention alone brings the tokens in."""
    attention.reset_parameters()
    if reads_at_once:
        nn.init.normal_(attention.proj.weight, std=attention.proj.in_features**-0.5)
    mlp.reset_parameters()


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


class Resampler(nn.Module):
    """N latents read a group's tokens: packed rows -> (B * N, D)."""

    def __init__(self, config: Latent, shape: BlockShape) -> None:
        super().__init__()
        learned = config.start == "learned"
        std = _QUERY_STD if learned else _PLACE_STD
        self.queries = nn.Parameter(torch.randn(config.num_tokens, shape.dim) * std)
        self.null = nn.Parameter(torch.randn(1, shape.dim) * _QUERY_STD)
        state_roles(self, queries=TABLE, null=TABLE)
        self.norm_query, self.norm_rows, self.norm_mlp = (shape.norm() for _ in range(3))
        self.attention, self.mlp = Attention(shape), MLP(shape)
        _begin(self.attention, self.mlp, reads_at_once=learned)

    def forward(self, rows: Tensor, group: GroupRows, start: Tensor | None) -> Tensor:
        """Latents of each sample (B * N, D).

        Args:
            rows: of the group (T_g, D), ascending by sample.
            start: what latents start from (B * N, D), beside the queries.
        """
        num = len(group.counts)
        nulls = self.null.to(rows.dtype).expand(num, -1)
        keys = group.with_nulls(torch.cat([nulls, rows]))
        latents = self.queries.to(rows.dtype).repeat(num, 1)
        if start is not None:
            latents = latents + start
        asked = self.norm_query(latents)
        latents = latents + self.attention(asked, group.attention, keys, self.norm_rows)
        return latents + self.mlp(self.norm_mlp(latents))


class GatedFusion(nn.Module):
    """Latents of sequences take in those of images, as far as two gates let them."""

    def __init__(self, config: Latent, shape: BlockShape) -> None:
        super().__init__()
        self.norm_state, self.norm_images, self.norm_mlp = (shape.norm() for _ in range(3))
        self.attention, self.mlp = Attention(shape), MLP(shape)
        self.gates = nn.Parameter(torch.full((2,), _GATE))
        _begin(self.attention, self.mlp, reads_at_once=config.start == "learned")

    def forward(self, state: Tensor, images: Tensor, layout: PreparedLayout) -> Tensor:
        """(B * N, D) both -> (B * N, D)."""
        ready = self.norm_state(state)
        seen = self.attention(ready, layout, images, self.norm_images)
        state = ready + self.gates[0].tanh() * seen
        return state + self.gates[1].tanh() * self.mlp(self.norm_mlp(state))


class LatentEncoder(nn.Module):
    """Everything that a latent encoder has beside the layers of a plain one."""

    def __init__(
        self,
        config: Latent,
        shape: BlockShape,
        depth: int,
    ) -> None:
        super().__init__()
        if config.stem_layers > depth:
            raise UserError(
                f"encoder: stem_layers {config.stem_layers} is more than the encoder's {depth}"
                " layers"
            )
        self.config = config
        self.images = Resampler(config, shape)
        self.sequences = Resampler(config, shape)
        self.fuse = nn.ModuleList(GatedFusion(config, shape) for _ in range(config.iterations))
        self.carry = nn.Parameter(torch.ones(config.iterations - 1))
        # of the latents in the decoder's context
        self.place = nn.Parameter(torch.randn(config.num_tokens, shape.dim) * _PLACE_STD)
        state_roles(self, place=TABLE)
        bounds = np.linspace(0, depth - config.stem_layers, config.iterations + 1)
        bounds = bounds.round().astype(int).tolist()
        self.spans = list(itertools.pairwise(bounds))  # layers of each iteration

    def forward(
        self,
        rows: Tensor,
        place: Tensor,
        prepared: LatentRows,
        blocks: list[Block],
        finish: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> Encoded:
        """The stem's layers over all rows, the others over a few latents of each sample.

        Args:
            rows: (T, D) embedded input; place: (T, D) what is added for their places.
            prepared: what follows from the rows' lengths, modalities and places.
            blocks: the encoder's layers.
            finish: rows and their places -> features and context, all (n, D).
        """
        stem, later = blocks[: self.config.stem_layers], blocks[self.config.stem_layers :]
        for block in stem:
            rows = block(rows, prepared.stem)
        images, sequences, at = self._resampled(rows, place, prepared)
        latents = self._iterate(images, sequences, later, prepared.latents)
        features, context = finish(latents, at)
        if prepared.context is not None:
            context = prepared.context(torch.cat([context, finish(rows, place)[1]]))
        return Encoded(features, context, prepared.lengths, prepared.num_latents)

    def _resampled(
        self, rows: Tensor, place: Tensor, prepared: LatentRows
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of images, of sequences, and the places of latents in the context, (B * N, D)
        each.
        """
        at = self.place.to(rows.dtype).repeat(len(prepared.num_latents), 1)
        visible = rows + place
        found = []
        for resampler, group in (
            (self.images, prepared.images),
            (self.sequences, prepared.sequences),
        ):
            start = None
            if group.spans is not None:
                start = group.spans.mean(take_rows(rows, group.taken))
                if resampler is self.images:
                    at = at + group.spans.mean(take_rows(place, group.taken))
            found.append(resampler(take_rows(visible, group.taken), group, start))
        return found[0], found[1], at

    def _iterate(
        self, images: Tensor, sequences: Tensor, layers: list[Block], layout: PreparedLayout
    ) -> Tensor:
        """Latents of both groups (B * N, D) -> the encoder's output (B * N, D)."""
        start = sequences + images if self.config.start == "pooled" else sequences
        state = start
        for i, ((first, last), fuse) in enumerate(zip(self.spans, self.fuse, strict=True)):
            state = fuse(state, images, layout)
            for layer in layers[first:last]:
                state = layer(state, layout)
            if i + 1 < len(self.spans):
                state = self.carry[i] * state + start
        return state


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
