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

import numpy as np
import torch
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.model.attention import PreparedLayout
from fourm.model.attention.rows import take_rows
from fourm.model.blocks import MLP, Attention, Block, BlockShape
from fourm.model.encoder import Encoded, Latent
from fourm.model.latent_rows import GroupRows, LatentRows
from fourm.model.roles import TABLE, state_roles

_QUERY_STD = 0.3  # of the queries and null tokens: small ones look like nothing at all
_PLACE_STD = 0.02
_GATE = 0.5  # gates start half open; from zero they start slowly


def _begin(attention: Attention, mlp: MLP, reads_at_once: bool) -> None:
    """Fresh weights: nothing is added at first, unless attention alone brings the tokens in."""
    attention.reset_parameters()
    if reads_at_once:
        nn.init.normal_(attention.proj.weight, std=attention.proj.in_features**-0.5)
    mlp.reset_parameters()


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
