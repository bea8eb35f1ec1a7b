"""A model's encoder as a backbone of one picture-like modality, in the manner of ``timm``.

    backbone = Backbone.from_pretrained("runs/mine/model", "rgb")
    backbone(pictures)                             # (B, D), the mean of the tokens
    backbone.forward_features(pictures)            # (B, n, D), a row for each token
    backbone.feature_maps(pictures, layers=(1, -1))  # of each layer (B, D, h, w)

Pictures are float (B, C, H, W) as ``scale`` makes them of raw values. What the model reads as
pixels goes in as patches, all else through its tokenizer, whose choice of ids has no gradient:
what is trained on top may train the encoder too, but not the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.export.networks import PaddedEncoder
from fourm.export.tokenizers import network_of
from fourm.modalities import Modality
from fourm.pipeline.feature_rows import check_choice
from fourm.pipeline.inputs import reads_itself
from fourm.pipeline.pipeline import AnyToAnyPipeline


class Backbone(nn.Module):
    """See above. Raises UserError for a modality that is no picture-like input of the model."""

    def __init__(self, pipe: AnyToAnyPipeline, name: str) -> None:
        super().__init__()
        given = pipe.modalities[name]
        self.modality = m = reads_itself(given, pipe.modalities) or given
        if m.grid is None or not m.raw.pixels or not m.input:
            raise UserError(f"{name} is no picture-like input: a backbone needs pixels in a grid")
        self.num_features, self.grid = pipe.model.config.dim, m.grid
        direct: tuple[Modality, ...] = (m,) if m.kind == "continuous" else ()
        self.encoder = PaddedEncoder(pipe.model, direct)
        self.tokenizer = None if direct else network_of(pipe, m)
        self._index = pipe.modalities.index(m.name)

    @classmethod
    def from_pretrained(cls, model: str | Path, name: str = "rgb", **options: Any) -> Backbone:
        """Of a model folder or hub repository; options as those of a pipeline."""
        return cls(AnyToAnyPipeline.from_pretrained(model, **options), name)

    def inputs(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (B, C, H, W) as what the encoder takes."""
        if self.tokenizer is None:
            p = self.modality.patch_size
            rows = rearrange(pictures, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)
            none = torch.zeros(pictures.shape[0], 0, dtype=torch.long, device=pictures.device)
            there = torch.ones_like(rows[..., 0], dtype=torch.bool)
            return [none, none, none, none.bool(), rows, there]
        ids = self.tokenizer.encode(pictures)
        position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return [torch.full_like(ids, self._index), position, ids, torch.ones_like(ids).bool()]

    def _layers(self, pictures: Tensor, numbers: Sequence[int]) -> list[Tensor]:
        """Features (B, n, D) of layers, numbered from the first, without registers."""
        rows, at, mask = self.encoder.rows(*self.inputs(pictures))
        found = self.encoder.layers(rows, at, mask)
        num = self.grid[0] * self.grid[1]
        return [found[number].unflatten(0, mask.shape)[:, -num:] for number in numbers]

    def forward_features(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, n, D), row after row of the grid."""
        return self._layers(pictures, [-1])[0]

    def feature_maps(self, pictures: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """(B, C, H, W) -> of each layer (B, D, h, w). Raises UserError for an unknown layer."""
        numbers = check_choice(self.encoder.model, layers, "none")
        found = self._layers(pictures, numbers)
        return [rearrange(rows, "b (h w) d -> b d h w", h=self.grid[0]) for rows in found]

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D)."""
        return self.forward_features(pictures).mean(1)


class PictureEncoder(nn.Module):
    """All that a backbone's encoder gives, in one graph."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> features (B, n, D), their mean (B, D), and for a decoder memory and mask
        as those of ``PaddedEncoder``.
        """
        features, memory, mask = self.backbone.encoder(*self.backbone.inputs(pictures))
        rows, columns = self.backbone.grid
        features = features[:, -rows * columns :]  # without registers
        return features, features.mean(1), memory, mask
