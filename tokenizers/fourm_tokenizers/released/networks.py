"""Encoders and decoders of the released tokenizers: ViTs over patches or feature maps, and residual
MLPs.

Maps are (B, C, H, W) on both sides. The ViT is ``fourm.model.blocks`` with GELU and biases; its
position table is stored with the weights and interpolated to the grid at hand.
"""

from __future__ import annotations

import re

import numpy as np
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.batches.layout import Layout
from fourm.errors import UserError
from fourm.model.attention import prepare
from fourm.model.blocks import Block, BlockShape
from fourm.model.positions import sincos_2d
from fourm_tokenizers.released.config import ViTPreset


class PostMLP(nn.Module):
    """The tanh head of ViT-VQGAN (2110.04627)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (..., D) -> (..., D)."""
        return self.fc2(self.fc1(rows).tanh())


class _ViT(nn.Module):
    """Positions, blocks and the optional head; rows in, rows out."""

    def __init__(self, size: ViTPreset, grid: int, post_mlp: bool) -> None:
        super().__init__()
        dim = size.dim
        self.pos_emb = nn.Parameter(
            rearrange(sincos_2d(grid, grid, dim), "(h w) d -> 1 d h w", h=grid).clone(),
            requires_grad=False,
        )
        shape = BlockShape(
            dim=dim,
            num_heads=size.num_heads,
            gated=False,
            activation="gelu",
            qkv_bias=True,
            proj_bias=True,
            mlp_bias=True,
            norm_bias=True,
        )
        self.head_dim = shape.head_dim
        self.blocks = nn.ModuleList(Block(shape) for _ in range(size.depth))
        self.norm_mlp = nn.LayerNorm(dim, eps=1e-6) if post_mlp else None
        self.post_mlp = PostMLP(dim, 4 * dim) if post_mlp else None

    def run(self, maps: Tensor) -> Tensor:
        b, _, h, w = maps.shape
        place = self.pos_emb
        if place.shape[-2:] != (h, w):
            place = F.interpolate(place, (h, w), mode="bicubic", align_corners=False)
        rows = rearrange(maps + place, "b d h w -> (b h w) d")
        layout = prepare(Layout.per_sample(np.full(b, h * w)), rows, "auto", self.head_dim)
        for block in self.blocks:
            rows = block(rows, layout)
        if self.post_mlp is not None and self.norm_mlp is not None:
            rows = rows + self.post_mlp(self.norm_mlp(rows))
        return rearrange(rows, "(b h w) d -> b d h w", b=b, h=h)


class ViTEncoder(_ViT):
    """Pictures (B, C, H, W), or feature maps where ``patch_size`` is 1 -> (B, D, h, w)."""

    def __init__(
        self, size: ViTPreset, channels: int, patch_size: int, grid: int, post_mlp: bool
    ) -> None:
        super().__init__(size, grid, post_mlp)
        self.proj = nn.Conv2d(channels, size.dim, patch_size, patch_size)
        self.dim = size.dim

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> maps (B, D, h, w)."""
        return self.run(self.proj(pictures))


class ViTDecoder(_ViT):
    """(B, D, h, w) -> pictures (B, C, h * patch_size, w * patch_size)."""

    def __init__(
        self,
        size: ViTPreset,
        channels: int,
        patch_size: int,
        grid: int,
        post_mlp: bool,
        out_conv: bool,
    ) -> None:
        super().__init__(size, grid, post_mlp)
        self.dim, self.patch_size = size.dim, patch_size
        self.out_proj = nn.Linear(size.dim, channels * patch_size**2)
        self.out_conv = (
            nn.Sequential(ConvNeXtBlock(channels), ConvNeXtBlock(channels)) if out_conv else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, D, h, w) -> pictures (B, C, H, W)."""
        rows = self.out_proj(rearrange(self.run(maps), "b d h w -> b h w d"))
        p = self.patch_size
        pictures = rearrange(rows, "b h w (c p q) -> b c (h p) (w q)", p=p, q=p)
        return pictures if self.out_conv is None else self.out_conv(pictures)


class ConvNeXtBlock(nn.Module):
    """7 x 7 depthwise convolution, norm, pointwise MLP, scaled residual (2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = (
            nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )
        self.gamma = nn.Parameter(1e-6 * self.norm.weight.new_ones(channels))

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps (B, C, H, W) -> (B, C, H, W)."""
        rows = self.norm(rearrange(self.dwconv(pictures), "b c h w -> b h w c"))
        rows = self.gamma * self.pwconv2(F.gelu(self.pwconv1(rows)))
        return pictures + rearrange(rows, "b h w c -> b c h w")


class ResidualMLP(nn.Module):
    """Vectors as maps (B, C, h, w) -> (B, C', h, w); ``B_6-Wi_1024`` is 6 blocks of width 1024.
    Scaling MLPs (2306.13575).
    """

    def __init__(
        self, name: str, channels_in: int | None, channels_out: int | None, expansion: int = 4
    ) -> None:
        super().__init__()
        found = re.fullmatch(r"BottleneckMLP/B_(\d+)-Wi_(\d+)", name)
        if found is None:
            raise UserError(
                f"unknown network {name!r}; an MLP is called BottleneckMLP/B_<blocks>-Wi_<width>"
            )
        depth, width = int(found[1]), int(found[2])
        self.dim = width
        self.linear_in = nn.Linear(channels_in or width, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "block": nn.Sequential(
                        nn.Linear(width, expansion * width),
                        nn.GELU(),
                        nn.Linear(expansion * width, width),
                    )
                }
            )
            for _ in range(depth)
        )
        self.layernorms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.linear_out = nn.Linear(width, channels_out or width)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) -> (B, C', h, w), each place by itself."""
        rows = self.linear_in(rearrange(maps, "b c h w -> b h w c"))
        for block, norm in zip(self.blocks, self.layernorms, strict=True):
            assert isinstance(block, nn.ModuleDict)
            rows = rows + block["block"](norm(rows))
        return rearrange(self.linear_out(rows), "b h w c -> b c h w")
