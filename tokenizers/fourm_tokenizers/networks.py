"""Encoders and decoders of trainable tokenizers: ViT, convolutional, 1-D (an ordered list of
tokens), and MLP for vectors.

Encoders map (B, C, H, W) pictures (or (B, C) vectors) to rows (B, n, D); decoders map rows back.
All positions are fixed sin-cos, except those of the tokens of a 1-D tokenizer, which are learned.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.model.attention import PreparedLayout
from fourm.model.attention.kernels import Kernel
from fourm.model.blocks import Block, BlockShape, layer_norm
from fourm.model.positions import sincos_2d
from fourm.model.roles import TABLE, state_roles


class Blocks(nn.Module):
    """Transformer blocks over rows of equal length, with a norm at the end."""

    def __init__(self, dim: int, num_heads: int, depth: int) -> None:
        super().__init__()
        shape = BlockShape(dim=dim, num_heads=num_heads)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(depth))
        self.norm = layer_norm(dim, True)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.reset_parameters()

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, N, D) -> (B, N, D)."""
        b, n, _ = rows.shape
        flat = rearrange(rows, "b n d -> (b n) d")
        layout = PreparedLayout(_EvenKernel(b, n))
        for block in self.blocks:
            flat = block(flat, layout)
        return self.norm(rearrange(flat, "(b n) d -> b n d", b=b, n=n))


@dataclass(frozen=True)
class _EvenKernel(Kernel):
    """Attention within samples of equally many rows: nothing is padded, nothing masked, and sizes
    may be those of a graph that is exported.
    """

    num: int  # B
    length: int  # N

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            rearrange(rows, "(b n) h k -> b h n k", b=self.num, n=self.length) for rows in (q, k, v)
        )
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n k -> (b n) h k")


class Patches(nn.Module):
    """Pictures -> rows of patches with their places."""

    def __init__(self, channels: int, patch_size: int, grid: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(patch_size**2 * channels, dim)
        self.register_buffer("position", sincos_2d(grid, grid, dim), persistent=False)

    position: Tensor

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> rows (B, N, D), row after row of the grid."""
        p = self.patch_size
        rows = self.proj(rearrange(pictures, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p))
        return rows + places(self.position, pictures.shape[-2] // p, pictures.shape[-1] // p).to(
            rows.dtype
        )


def places(table: Tensor, height: int, width: int) -> Tensor:
    """A square position table (n, D), enlarged or reduced to another grid where it is asked for
    one.
    """
    if height * width == len(table):
        return table
    side = math.isqrt(len(table))
    maps = rearrange(table, "(h w) d -> 1 d h w", h=side)
    return rearrange(
        F.interpolate(maps, (height, width), mode="bicubic", align_corners=False),
        "1 d h w -> (h w) d",
    )


class ViTEncoder(nn.Module):
    """Pictures -> rows of a grid by a transformer."""

    def __init__(
        self, channels: int, patch_size: int, grid: int, dim: int, num_heads: int, depth: int
    ) -> None:
        super().__init__()
        self.patches = Patches(channels, patch_size, grid, dim)
        self.trunk = Blocks(dim, num_heads, depth)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> rows (B, N, D)."""
        return self.trunk(self.patches(pictures))


class ViTDecoder(nn.Module):
    """Rows of a grid -> pictures; ``refine`` channels of two 3 x 3 convolutions smooth the seams
    between patches.
    """

    def __init__(
        self,
        channels: int,
        patch_size: int,
        grid: int,
        dim: int,
        num_heads: int,
        depth: int,
        refine: int,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.register_buffer("position", sincos_2d(grid, grid, dim), persistent=False)
        self.trunk = Blocks(dim, num_heads, depth)
        self.out = nn.Linear(dim, patch_size**2 * channels)
        self.refine = _Refine(channels, refine) if refine else None

    position: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, N, D) of a square grid -> pictures (B, C, H, W)."""
        side, p = math.isqrt(rows.shape[1]), self.patch_size
        rows = self.out(self.trunk(rows + places(self.position, side, side).to(rows.dtype)))
        pictures = rearrange(rows, "b (h w) (p q c) -> b c (h p) (w q)", h=side, p=p, q=p)
        return pictures if self.refine is None else self.refine(pictures)


class _Refine(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, hidden, 3, padding=1)
        self.outer = nn.Conv2d(hidden, channels, 3, padding=1)
        nn.init.zeros_(self.outer.weight)

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures + self.outer(F.silu(self.inner(pictures)))


class ListEncoder(nn.Module):
    """Pictures -> an ordered list of K rows: learned queries among the patches (TiTok,
    2406.07550).
    """

    def __init__(
        self,
        channels: int,
        patch_size: int,
        grid: int,
        dim: int,
        num_heads: int,
        depth: int,
        num_tokens: int,
    ) -> None:
        super().__init__()
        self.patches = Patches(channels, patch_size, grid, dim)
        self.queries = nn.Parameter(torch.randn(num_tokens, dim) * 0.3)
        state_roles(self, queries=TABLE)
        self.trunk = Blocks(dim, num_heads, depth)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> the list's rows (B, K, D)."""
        rows = self.patches(pictures)
        queries = self.queries.to(rows.dtype).expand(len(rows), -1, -1)
        return self.trunk(torch.cat([queries, rows], 1))[:, : len(self.queries)]


class ListDecoder(nn.Module):
    """Any prefix of the list -> pictures.

    In training a random prefix is shown (nested dropout), so early tokens matter most.
    """

    def __init__(
        self,
        channels: int,
        patch_size: int,
        grid: int,
        dim: int,
        num_heads: int,
        depth: int,
        num_tokens: int,
        refine: int,
    ) -> None:
        super().__init__()
        self.grid, self.patch_size = grid, patch_size
        self.token_place = nn.Parameter(torch.randn(num_tokens, dim) * 0.3)
        state_roles(self, token_place=TABLE)
        self.dropped = nn.Parameter(torch.zeros(dim))
        self.register_buffer("position", sincos_2d(grid, grid, dim), persistent=False)
        self.trunk = Blocks(dim, num_heads, depth)
        self.out = nn.Linear(dim, patch_size**2 * channels)
        self.refine = _Refine(channels, refine) if refine else None

    position: Tensor

    def forward(self, rows: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, k, D) with k <= K; ``kept`` (B,) shows only that many of each sample's tokens."""
        b, k, _ = rows.shape
        num, p = len(self.token_place), self.patch_size
        rows = torch.cat([rows, rows.new_zeros(b, num - k, rows.shape[2])], 1)
        limit = torch.full((b,), k, device=rows.device) if kept is None else kept.clamp(max=k)
        shown = torch.arange(num, device=rows.device) < limit[:, None]
        rows = torch.where(
            shown[..., None], rows, self.dropped.to(rows.dtype)
        ) + self.token_place.to(rows.dtype)
        canvas = self.position.to(rows.dtype).expand(b, -1, -1)
        patches = self.out(self.trunk(torch.cat([rows, canvas], 1))[:, num:])
        pictures = rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=self.grid, p=p, q=p)
        return pictures if self.refine is None else self.refine(pictures)


class _ResidualConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = math.gcd(8, channels)
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1, self.conv2 = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        nn.init.zeros_(self.conv2.weight)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(maps))))))


def _widths(dim: int, patch_size: int) -> list[int]:
    """Channels of each resolution, full first; they double until ``dim``."""
    stages = int(math.log2(patch_size))
    if 2**stages != patch_size:
        raise UserError(
            f"convolutional networks need a patch_size that is a power of two, not {patch_size}"
        )
    return [max(8, dim >> (stages - i)) for i in range(stages)] + [dim]


class ConvEncoder(nn.Module):
    """Residual convolutions that halve the resolution until one place is one token."""

    def __init__(self, channels: int, patch_size: int, dim: int, depth: int) -> None:
        super().__init__()
        widths = _widths(dim, patch_size)
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        for a, b in itertools.pairwise(widths):
            layers += [_ResidualConv(a), nn.Conv2d(a, b, 4, stride=2, padding=1)]
        layers += [_ResidualConv(dim) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> rows (B, N, D)."""
        return rearrange(self.layers(pictures), "b d h w -> b (h w) d")


class ConvDecoder(nn.Module):
    """The mirror image of ``ConvEncoder``."""

    def __init__(self, channels: int, patch_size: int, dim: int, depth: int) -> None:
        super().__init__()
        widths = _widths(dim, patch_size)[::-1]
        layers: list[nn.Module] = [_ResidualConv(dim) for _ in range(depth)]
        for a, b in itertools.pairwise(widths):
            layers += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(a, b, 3, padding=1),
                _ResidualConv(b),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, N, D) of a square grid -> pictures (B, C, H, W)."""
        return self.layers(rearrange(rows, "b (h w) d -> b d h w", h=math.isqrt(rows.shape[1])))


class VectorEncoder(nn.Module):
    """Vectors (B, C) -> rows (B, K, D)."""

    def __init__(self, channels: int, dim: int, depth: int, num_tokens: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, dim)
        self.layers = nn.Sequential(*(_ResidualLinear(dim) for _ in range(depth)))
        self.split = nn.Linear(dim, num_tokens * dim)
        self.num_tokens = num_tokens

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (B, C) -> rows (B, K, D)."""
        return rearrange(
            self.split(self.layers(self.proj(vectors))), "b (k d) -> b k d", k=self.num_tokens
        )


class VectorDecoder(nn.Module):
    """Rows (B, K, D) -> vectors (B, C)."""

    def __init__(self, channels: int, dim: int, depth: int, num_tokens: int) -> None:
        super().__init__()
        self.join = nn.Linear(num_tokens * dim, dim)
        self.layers = nn.Sequential(*(_ResidualLinear(dim) for _ in range(depth)))
        self.out = nn.Linear(dim, channels)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, K, D) -> vectors (B, C)."""
        return self.out(self.layers(self.join(rows.flatten(1))))


class _ResidualLinear(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = layer_norm(dim, True)
        self.inner, self.outer = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        nn.init.zeros_(self.outer.weight)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.outer(F.gelu(self.inner(self.norm(rows))))
