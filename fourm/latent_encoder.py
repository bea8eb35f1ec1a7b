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

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fourm.attention import Layout, PreparedLayout
from fourm.batch import EncoderStream
from fourm.blocks import MLP, Attention, Block, layer_norm
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet

_QUERY_STD = 0.3  # of the queries and null tokens: small ones look like nothing at all
_CURVE = 1 << 12  # places along each side of the picture that the Z-curve tells apart
_GATE = 0.5  # gates start half open; from zero they start slowly
Start = Literal["pooled", "learned"]


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """JAR's sizes.

    ``num_tokens`` latents of images and as many of sequences; the module says what the choices
    mean.
    """

    num_tokens: int
    iterations: int = 2
    stem_layers: int = 1
    context: Literal["latents", "latents+stem"] = "latents"
    start: Start = "pooled"

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.iterations < 1 or self.stem_layers < 0:
            raise UserError("num_tokens and iterations must be at least 1, stem_layers at least 0")


@dataclass(frozen=True)
class BlockShape:
    """What all attention layers of the encoder share."""

    dim: int
    num_heads: int
    mlp_ratio: float
    gated: bool
    activation: str
    backend: str


class Resampler(nn.Module):
    """N latents read a group's tokens: packed rows -> (B * N, D)."""

    def __init__(self, num_tokens: int, shape: BlockShape, start: Start) -> None:
        super().__init__()
        d = shape.dim
        std = _QUERY_STD if start == "learned" else 0.02
        self.queries = nn.Parameter(torch.randn(num_tokens, d) * std)
        self.null = nn.Parameter(torch.randn(1, d) * _QUERY_STD)
        self.norm_query, self.norm_rows, self.norm_mlp = (layer_norm(d, False) for _ in range(3))
        self.attention = Attention(d, shape.num_heads, False, False, False, False)
        self.mlp = MLP(d, shape.mlp_ratio, shape.gated, False, shape.activation)
        self.backend = shape.backend
        self.attention.reset_parameters()
        if start == "learned":  # nothing else brings the tokens in
            nn.init.normal_(self.attention.proj.weight, std=d**-0.5)
        self.mlp.reset_parameters()

    def forward(
        self, rows: Tensor, counts: np.ndarray, start: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Rows of a group (T_g, D), ascending by sample, ``counts`` (B,) of each sample, what
        latents start from (B * N, D).
        """
        num, (n, _) = len(counts), self.queries.shape
        owner = np.concatenate(
            [np.arange(num), np.repeat(np.arange(num), counts)]
        )  # a null token first, then the sample's rows
        order = torch.from_numpy(np.argsort(owner, kind="stable")).to(rows.device)
        keys = torch.cat([self.null.to(rows.dtype).expand(num, -1), rows])[order]
        layout = Layout.per_sample(np.full(num, n), counts + 1).on(rows.device, self.backend, dtype)
        latents = self.queries.to(rows.dtype).repeat(num, 1)
        if start is not None:
            latents = latents + start
        latents = latents + self.attention(self.norm_query(latents), layout, self.norm_rows(keys))
        return latents + self.mlp(self.norm_mlp(latents))


@dataclass(frozen=True)
class Spans:
    """Which rows each latent begins as the mean of, as (latent, row) pairs."""

    latent: Tensor  # (P,)
    row: Tensor  # (P,)
    weight: Tensor  # (P, 1), one over the span's length
    num: int

    @classmethod
    def of(cls, counts: np.ndarray, num_tokens: int, device: torch.device) -> Spans:
        """Each sample's rows in ``num_tokens`` spans as even as can be; with fewer rows than spans,
        some rows are in two.
        """
        i = np.arange(num_tokens)
        first = i * counts[:, None] // num_tokens
        last = np.minimum(
            np.maximum((i + 1) * counts[:, None] // num_tokens, first + 1), counts[:, None]
        )
        lengths = (last - first).reshape(-1)
        offset = (np.cumsum(counts) - counts)[:, None]
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        row = np.repeat((first + offset).reshape(-1), lengths) + inside
        latent, weight = (
            np.repeat(np.arange(len(lengths)), lengths),
            1.0 / np.repeat(lengths, lengths),
        )
        weight = torch.from_numpy(weight.astype(np.float32)).to(device)[:, None]
        return cls(
            torch.from_numpy(latent).to(device),
            torch.from_numpy(row).to(device),
            weight,
            len(lengths),
        )

    def mean(self, rows: Tensor) -> Tensor:
        """(T, D) -> (B * N, D); zeros where a sample has no rows."""
        taken = rows[self.row] * self.weight.to(rows.dtype)
        return rows.new_zeros(self.num, rows.shape[1]).index_add(0, self.latent, taken)


class GatedFusion(nn.Module):
    """Latents of sequences take in those of images, as far as two gates let them."""

    def __init__(self, shape: BlockShape, start: Start) -> None:
        super().__init__()
        d = shape.dim
        self.norm_state, self.norm_images, self.norm_mlp = (layer_norm(d, False) for _ in range(3))
        self.attention = Attention(d, shape.num_heads, False, False, False, False)
        self.mlp = MLP(d, shape.mlp_ratio, shape.gated, False, shape.activation)
        self.gates = nn.Parameter(torch.full((2,), _GATE))
        self.attention.reset_parameters()
        if start == "learned":
            nn.init.normal_(self.attention.proj.weight, std=d**-0.5)
        self.mlp.reset_parameters()

    def forward(self, state: Tensor, images: Tensor, layout: PreparedLayout) -> Tensor:
        ready = self.norm_state(state)
        state = ready + self.gates[0].tanh() * self.attention(
            ready, layout, self.norm_images(images)
        )
        return state + self.gates[1].tanh() * self.mlp(self.norm_mlp(state))


class TokenFusion(nn.Module):
    """Everything between the stem and the decoder's context."""

    def __init__(
        self, config: FusionConfig, shape: BlockShape, depth: int, modalities: ModalitySet
    ) -> None:
        super().__init__()
        if config.stem_layers > depth:
            raise UserError(
                f"fusion.stem_layers {config.stem_layers} is more than the encoder's {depth} layers"
            )
        self.config, self.shape = config, shape
        self.images, self.sequences = (
            Resampler(config.num_tokens, shape, config.start) for _ in range(2)
        )
        self.fuse = nn.ModuleList(
            GatedFusion(shape, config.start) for _ in range(config.iterations)
        )
        self.carry = nn.Parameter(torch.ones(config.iterations - 1))
        # of the latents in the decoder's context
        self.place = nn.Parameter(torch.randn(config.num_tokens, shape.dim) * 0.02)
        bounds = (
            np.linspace(0, depth - config.stem_layers, config.iterations + 1).round().astype(int)
        )
        # layers of each iteration
        self.spans = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

        self._is_sequence = np.array([m.kind == "sequence" for m in modalities])
        self._first = np.array(modalities.position_offsets)
        self._rank = np.concatenate([_order_in_space(m) for m in modalities])

    def forward(
        self,
        rows: Tensor,
        place: Tensor,
        stream: EncoderStream,
        layers: list[Block],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Stem output (T, D) and the rows' places (T, D) -> latents and their places in the
        decoder's context, (B * N, D) both.
        """
        lengths, n = stream.lengths, self.config.num_tokens
        sample, is_sequence = (
            np.repeat(np.arange(len(lengths)), lengths),
            self._is_sequence[stream.kinds],
        )
        rank = self._rank[self._first[stream.kinds] + stream.places]
        visible, at = rows + place, self.place.to(rows.dtype).repeat(len(lengths), 1)
        found = []
        for resampler, mine in ((self.images, ~is_sequence), (self.sequences, is_sequence)):
            index = np.flatnonzero(mine)
            index = torch.from_numpy(index[np.lexsort((rank[index], sample[index]))]).to(
                rows.device
            )
            counts = np.bincount(sample[mine], minlength=len(lengths))
            start = None
            if self.config.start == "pooled":
                spans = Spans.of(counts, n, rows.device)
                start = spans.mean(rows[index])
                if resampler is self.images:
                    at = at + spans.mean(place[index])
            found.append(resampler(visible[index], counts, start, dtype))
        images, start = found
        if self.config.start == "pooled":
            start = start + images
        layout = Layout.per_sample(np.full(len(lengths), n)).on(
            rows.device, self.shape.backend, dtype
        )
        state = start
        for i, ((first, last), fuse) in enumerate(zip(self.spans, self.fuse, strict=True)):
            state = fuse(state, images, layout)
            for layer in layers[first:last]:
                state = layer(state, layout)
            if i + 1 < len(self.spans):
                state = self.carry[i] * state + start
        return state, at


def _order_in_space(m: Modality) -> np.ndarray:
    """Sort key of a modality's positions: cells of all grids along one Z-curve over the picture,
    whatever their number; then the others.
    """
    if m.grid is None:
        return _CURVE**2 + np.arange(m.num_positions)
    y, x = (((np.arange(side) + 0.5) / side * _CURVE).astype(np.int64) for side in m.grid)
    return (_spread(y)[:, None] * 2 + _spread(x)[None]).reshape(-1)


def _spread(value: np.ndarray) -> np.ndarray:
    """Bits of numbers below ``_CURVE`` moved apart, a gap after each."""
    return np.sum([(value >> bit & 1) << 2 * bit for bit in range(_CURVE.bit_length())], axis=0)
