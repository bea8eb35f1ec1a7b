"""Image tokenizer: a ViT autoencoder whose bottleneck is finite scalar quantisation (FSQ).

Any picture-like modality goes in and out: colour, depth, normals, arrays (regression) or class maps (cross-entropy). FSQ rounds
every latent number to a few levels (Mentzer et al., 2309.15505), through ``vector-quantize-pytorch``: no codebook to collapse, and
the code number tells its levels, which FourM's embeddings use. Details are a small part of most pictures, so the loss can weight
pixels by their local contrast (``detail_weight``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.attention import Layout
from fourm.blocks import Block, layer_norm, sincos_2d


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of an image tokenizer."""

    image_size: int  # pixels, both sides
    patch_size: int  # pixels; one token each
    channels: int  # of the input: colour channels, or classes where num_classes is set
    num_classes: int = 0  # > 0: the picture is a map of class ids
    levels: tuple[int, ...] = (8, 8, 8, 5)
    dim: int = 128
    num_heads: int = 4
    encoder_depth: int = 2
    decoder_depth: int = 2
    refine_channels: int = 0  # > 0: two 3x3 convolutions at full resolution smooth the seams between patches
    detail_weight: float = 0.0  # extra loss weight of pixels that differ from their surroundings

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def out_channels(self) -> int:
        return self.num_classes or self.channels


@dataclass(frozen=True)
class Reconstruction:
    output: Tensor  # (B, C, H, W) in the normalised range, or class logits
    ids: Tensor  # (B, n)
    loss: Tensor  # scalar


class ImageAutoencoder(nn.Module):
    """Encoder, FSQ, decoder. Pictures are float (B, C, H, W) in [-1, 1], class maps long (B, H, W)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ

        self.config = config
        c, p = config, config.patch_size
        self.patch_in = nn.Linear(p * p * (c.num_classes or c.channels), c.dim)
        self.encoder = nn.ModuleList(_block(c) for _ in range(c.encoder_depth))
        self.norm_encoder = layer_norm(c.dim, True)
        self.to_code = nn.Linear(c.dim, len(c.levels))
        self.quantizer = FSQ(list(c.levels))
        self.from_code = nn.Linear(len(c.levels), c.dim)
        self.decoder = nn.ModuleList(_block(c) for _ in range(c.decoder_depth))
        self.norm_decoder = layer_norm(c.dim, True)
        self.patch_out = nn.Linear(c.dim, p * p * c.out_channels)
        self.refine = _Refine(c.out_channels, c.refine_channels) if c.refine_channels else None
        self.register_buffer("position", sincos_2d(c.grid, c.grid, c.dim), persistent=False)
        for module in (*self.encoder, *self.decoder):
            assert isinstance(module, Block)
            module.reset_parameters()

    position: Tensor

    def latents(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) or class ids (B, H, W) -> latents before quantisation (B, n, levels)."""
        c = self.config
        if c.num_classes:
            pictures = F.one_hot(pictures, c.num_classes).permute(0, 3, 1, 2).to(self.patch_in.weight.dtype)
        patches = rearrange(pictures, "b c (h p) (w q) -> b (h w) (p q c)", p=c.patch_size, q=c.patch_size)
        rows = self._run(self.encoder, self.patch_in(patches))
        return self.to_code(self.norm_encoder(rows))

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, levels) -> quantised latents (B, n, levels) and ids (B, n)."""
        codes, ids = self.quantizer(latents)
        return codes, ids.long()

    def decode_latents(self, codes: Tensor) -> Tensor:
        """Quantised latents (B, n, levels) -> (B, C, H, W): normalised values or class logits."""
        c = self.config
        rows = self._run(self.decoder, self.from_code(codes))
        patches = self.patch_out(self.norm_decoder(rows))
        pictures = rearrange(
            patches, "b (h w) (p q c) -> b c (h p) (w q)", h=c.grid, p=c.patch_size, q=c.patch_size, c=c.out_channels
        )
        return pictures if self.refine is None else self.refine(pictures)

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures -> ids (B, n)."""
        return self.quantize(self.latents(pictures))[1]

    def decode(self, ids: Tensor) -> Tensor:
        """Ids (B, n) -> pictures (B, C, H, W): normalised values or class logits."""
        return self.decode_latents(self.quantizer.indices_to_codes(ids))

    def forward(self, pictures: Tensor) -> Reconstruction:
        codes, ids = self.quantize(self.latents(pictures))
        output = self.decode_latents(codes)
        return Reconstruction(output, ids, self.loss(output, pictures))

    def loss(self, output: Tensor, pictures: Tensor) -> Tensor:
        """Mean squared error plus a little absolute error, or cross-entropy for class maps; weighted towards details."""
        if self.config.num_classes:
            errors = F.cross_entropy(output, pictures, reduction="none")
            signal = F.one_hot(pictures, self.config.num_classes).permute(0, 3, 1, 2).to(output.dtype)
        else:
            errors = ((output - pictures) ** 2 + 0.1 * (output - pictures).abs()).mean(1)
            signal = pictures
        if not self.config.detail_weight:
            return errors.mean()
        weight = 1.0 + self.config.detail_weight * local_contrast(signal)
        return (errors * weight).sum() / weight.sum()

    def _run(self, blocks: nn.ModuleList, rows: Tensor) -> Tensor:
        b, n, _ = rows.shape
        layout = Layout.per_sample(np.full(b, n)).on(rows.device, "auto", rows.dtype)
        flat = rearrange(rows + self.position.to(rows.dtype), "b n d -> (b n) d")
        for block in blocks:
            flat = block(flat, layout)
        return rearrange(flat, "(b n) d -> b n d", b=b)


class _Refine(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, hidden, 3, padding=1)
        self.outer = nn.Conv2d(hidden, channels, 3, padding=1)
        nn.init.zeros_(self.outer.weight)

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures + self.outer(F.silu(self.inner(pictures)))


def _block(c: AutoencoderConfig) -> Block:
    return Block(c.dim, c.num_heads)


def local_contrast(pictures: Tensor, window: int = 5) -> Tensor:
    """How much each pixel differs from the mean of its surroundings, in [0, 1] of the picture's largest: (B, C, H, W) -> (B, H, W)."""
    blurred = F.avg_pool2d(pictures, window, stride=1, padding=window // 2, count_include_pad=False)
    contrast = (pictures - blurred).abs().mean(1)
    contrast = F.avg_pool2d(contrast[:, None], 3, stride=1, padding=1)[:, 0]
    return contrast / contrast.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
