"""JAR (2305.19924) as an option of FourM's encoder: all input tokens are resampled once to a few latents, on which the other layers run.

A few stem layers see all tokens. Then learned queries read the image-like tokens, and others the sequences, N latents each; the sequences'
latents take in the images' through tanh gates, transformer layers follow, and that is iterated with learned weights. Encoder layers after
the stem are divided among the iterations, so depth stays the same while their cost no longer grows with the input.

Not in the paper and needed (``docs/fusion.md``): the queries' residual, norms, and a visible position signal, without which nothing of the
input comes through; a null token for each group, so that a sample may lack one; ``context: latents+stem``, where the decoder also reads the stem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fourm.attention import Layout, PreparedLayout
from fourm.blocks import MLP, Attention, Block, layer_norm

_QUERY_STD = 0.3  # of the queries and null tokens: small ones look like nothing at all
_GATE = 0.5  # gates start half open; from zero they start slowly


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """JAR's sizes. ``num_tokens`` latents of images and as many of sequences."""

    num_tokens: int
    iterations: int = 2
    stem_layers: int = 1
    context: Literal["latents", "latents+stem"] = "latents"

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.iterations < 1 or self.stem_layers < 0:
            raise ValueError("num_tokens and iterations must be at least 1, stem_layers at least 0")


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
    """Learned queries (N, D) read a group's tokens: packed rows -> (B * N, D)."""

    def __init__(self, num_tokens: int, shape: BlockShape) -> None:
        super().__init__()
        d = shape.dim
        self.queries = nn.Parameter(torch.randn(num_tokens, d) * _QUERY_STD)
        self.null = nn.Parameter(torch.randn(1, d) * _QUERY_STD)
        self.norm_query, self.norm_rows, self.norm_mlp = (layer_norm(d, False) for _ in range(3))
        self.attention = Attention(d, shape.num_heads, False, False, False, False)
        self.mlp = MLP(d, shape.mlp_ratio, shape.gated, False, shape.activation)
        self.backend = shape.backend
        self.attention.reset_parameters()
        nn.init.normal_(self.attention.proj.weight, std=d**-0.5)
        self.mlp.reset_parameters()

    def forward(self, rows: Tensor, counts: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Rows of a group (T_g, D), ascending by sample, ``counts`` (B,) of each sample."""
        num, (n, _) = len(counts), self.queries.shape
        owner = np.concatenate(
            [np.arange(num), np.repeat(np.arange(num), counts)]
        )  # a null token first, then the sample's rows
        order = torch.from_numpy(np.argsort(owner, kind="stable")).to(rows.device)
        keys = torch.cat([self.null.to(rows.dtype).expand(num, -1), rows])[order]
        layout = Layout.per_sample(np.full(num, n), counts + 1).on(rows.device, self.backend, dtype)
        latents = self.queries.to(rows.dtype).repeat(num, 1)
        latents = latents + self.attention(self.norm_query(latents), layout, self.norm_rows(keys))
        return latents + self.mlp(self.norm_mlp(latents))


class GatedFusion(nn.Module):
    """Latents of sequences take in those of images, as far as two gates let them."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        d = shape.dim
        self.norm_state, self.norm_images, self.norm_mlp = (layer_norm(d, False) for _ in range(3))
        self.attention = Attention(d, shape.num_heads, False, False, False, False)
        self.mlp = MLP(d, shape.mlp_ratio, shape.gated, False, shape.activation)
        self.gates = nn.Parameter(torch.full((2,), _GATE))
        self.attention.reset_parameters()
        nn.init.normal_(self.attention.proj.weight, std=d**-0.5)
        self.mlp.reset_parameters()

    def forward(self, state: Tensor, images: Tensor, layout: PreparedLayout) -> Tensor:
        ready = self.norm_state(state)
        state = ready + self.gates[0].tanh() * self.attention(ready, layout, self.norm_images(images))
        return state + self.gates[1].tanh() * self.mlp(self.norm_mlp(state))


class TokenFusion(nn.Module):
    """Everything between the stem and the decoder's context."""

    def __init__(self, config: FusionConfig, shape: BlockShape, depth: int) -> None:
        super().__init__()
        if config.stem_layers > depth:
            raise ValueError(f"fusion.stem_layers {config.stem_layers} is more than the encoder's {depth} layers")
        self.config, self.shape = config, shape
        self.images, self.sequences = (Resampler(config.num_tokens, shape) for _ in range(2))
        self.fuse = nn.ModuleList(GatedFusion(shape) for _ in range(config.iterations))
        self.carry = nn.Parameter(torch.ones(config.iterations - 1))
        self.place = nn.Parameter(torch.randn(config.num_tokens, shape.dim) * 0.02)  # of the latents in the decoder's context
        bounds = np.linspace(0, depth - config.stem_layers, config.iterations + 1).round().astype(int)
        self.spans = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))  # layers of each iteration

    def forward(
        self, rows: Tensor, place: Tensor, is_sequence: np.ndarray, lengths: np.ndarray, layers: list[Block], dtype: torch.dtype
    ) -> Tensor:
        """Stem output (T, D), its places (T, D), which rows are of sequences (T,), rows of each sample (B,) -> latents (B * N, D)."""
        sample = np.repeat(np.arange(len(lengths)), lengths)
        visible = rows + place
        found = []
        for resampler, group in ((self.images, ~is_sequence), (self.sequences, is_sequence)):
            index = torch.from_numpy(np.nonzero(group)[0]).to(rows.device)
            found.append(resampler(visible[index], np.bincount(sample[group], minlength=len(lengths)), dtype))
        images, start = found
        layout = Layout.per_sample(np.full(len(lengths), self.config.num_tokens)).on(rows.device, self.shape.backend, dtype)
        state = start
        for i, ((first, last), fuse) in enumerate(zip(self.spans, self.fuse, strict=True)):
            state = fuse(state, images, layout)
            for layer in layers[first:last]:
                state = layer(state, layout)
            if i + 1 < len(self.spans):
                state = self.carry[i] * state + start
        return state
