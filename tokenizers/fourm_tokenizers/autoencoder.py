"""A trainable tokenizer: encoder, codebook, decoder, in any combination that fits the modality.

Pictures, depth, normals and arrays are regressed, class maps classified, feature maps and vectors
matched by angle and size. Encoders are ViT, convolutional, a 1-D list of tokens, or an MLP for
vectors; decoders the same, or a diffusion model. Details are a small part of most pictures, so the
loss can weight pixels by their local contrast (``detail_weight``).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.config import at_least, at_most
from fourm.errors import UserError
from fourm.files.model_memory import refuse_beyond_memory
from fourm_tokenizers.diffusion import DiffusionConfig, DiffusionDecoder
from fourm_tokenizers.networks import (
    ConvDecoder,
    ConvEncoder,
    ListDecoder,
    ListEncoder,
    VectorDecoder,
    VectorEncoder,
    ViTDecoder,
    ViTEncoder,
)
from fourm_tokenizers.quantizers import QuantizerConfig

_ANGLE_WEIGHT = 1.0  # features: of 1 - cosine beside the squared error


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What a tokenizer codes and how it is built."""

    channels: int  # of the input: colour channels, features, or classes where num_classes is set
    image_size: int = 0  # pixels, both sides; 0 = vectors
    patch_size: int = 1  # pixels; one token each (1 = feature maps)
    num_classes: int = 0  # > 0: the picture is a map of class ids
    features: bool = False  # feature maps or vectors: the loss compares angles too
    quantizer: QuantizerConfig
    encoder: Literal["vit", "conv"] = "vit"
    decoder: Literal["vit", "conv", "diffusion"] = "vit"
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    num_tokens: int = 0  # > 0: an ordered list of that many tokens (1-D tokenizer, or vectors)
    dim: int = 128
    num_heads: int = 4
    encoder_depth: int = 2
    decoder_depth: int = 2
    # > 0: two 3 x 3 convolutions at full resolution smooth the seams between patches
    refine_channels: int = 0
    detail_weight: float = 0.0  # extra loss weight of pixels that differ from their surroundings
    quantize: bool = True  # False: a plain autoencoder of the same latent size, to compare with

    def __post_init__(self) -> None:
        at_least(self, 1, "channels", "patch_size", "dim", "num_heads")
        at_least(self, 0, "image_size", "num_classes", "num_tokens", "refine_channels")
        at_least(self, 0, "encoder_depth", "decoder_depth", "detail_weight")
        at_most(self, 1000, "encoder_depth", "decoder_depth")  # a damaged file names any number
        at_most(self, 2**14, "image_size", "patch_size", "num_tokens", "refine_channels")
        at_most(self, 2**16, "channels", "dim", "num_classes")
        q = self.quantizer
        at_most(q, 2**24, "size", "latent_dim", "codes_per_place")
        if q.size * q.latent_dim * q.codes_per_place > 2**30:
            raise UserError(
                f"{q.codes_per_place} codebooks of {q.size:,} codes of {q.latent_dim:,} numbers are"
                f" too large: {2**30:,} numbers are the most"
            )
        if self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} is no multiple of num_heads {self.num_heads}")
        if self.image_size % self.patch_size:
            raise UserError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if not self.image_size and not self.num_tokens:
            raise UserError("a tokenizer of vectors needs num_tokens")
        if (
            self.num_tokens
            and self.image_size
            and (self.encoder == "conv" or self.decoder != "vit")
        ):
            raise UserError("a 1-D tokenizer (num_tokens) has encoder vit and decoder vit")
        if self.decoder == "diffusion" and self.num_classes:
            raise UserError(
                "a diffusion decoder makes pictures; class maps need decoder vit or conv"
            )

    @property
    def grid(self) -> int:
        """Tokens along a side of the picture."""
        return self.image_size // self.patch_size

    @property
    def codebook_size(self) -> int:
        """Number of ids of one codebook."""
        return self.quantizer.size

    @property
    def out_channels(self) -> int:
        """Numbers that the decoder gives at a pixel."""
        return self.num_classes or self.channels


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder makes of a batch while it is trained."""

    # (B, C, H, W) in the normalised range, class logits, or vectors (B, C);
    # None while a diffusion decoder trains
    output: Tensor | None
    ids: Tensor  # (B, n)
    loss: Tensor  # scalar: reconstruction and codebook


class Autoencoder(nn.Module):
    """Pictures are float (B, C, H, W) in [-1, 1], class maps long (B, H, W), vectors float
    (B, C).
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = c = config
        refuse_beyond_memory(lambda: nn.ModuleList([_encoder(c), _decoder(c)]), "tokenizer")
        q = c.quantizer.latent_dim
        self.encoder, self.decoder = _encoder(c), _decoder(c)
        self.to_code = nn.Linear(c.dim, q)
        self.quantizer = c.quantizer.build()
        self.from_code = nn.Linear(q, c.dim)

    def latents(self, values: Tensor) -> Tensor:
        """Values -> latents before quantisation (B, n, latent_dim)."""
        if self.config.num_classes:
            values = self._channels(values, self.to_code.weight.dtype)
        return self.to_code(self.encoder(values))

    def encode(self, values: Tensor) -> Tensor:
        """Values -> ids (B, n)."""
        return self.quantizer(self.latents(values)).ids

    def decode(self, ids: Tensor, steps: int = 0) -> Tensor:
        """Ids (B, n) -> normalised values or class logits.

        1-D tokenizers decode any prefix; ``steps`` is of diffusion.
        """
        return self._decode(self.quantizer.codes(ids), ids, steps)

    def decode_mean(self, probability: Tensor, steps: int = 0) -> Tensor:
        """Probabilities of ids (B, n, V) -> what the expected code of each token decodes to."""
        return self._decode(self.quantizer.mean_codes(probability), probability.argmax(-1), steps)

    def _decode(self, codes: Tensor, ids: Tensor, steps: int) -> Tensor:
        """Codes (B, n, latent_dim) -> values; ``ids`` seed the noise of a diffusion decoder."""
        rows = self.from_code(codes)
        if isinstance(self.decoder, DiffusionDecoder):
            return self.decoder(rows, [zlib.crc32(i.cpu().numpy().tobytes()) for i in ids], steps)
        return self.decoder(rows)

    def forward(self, values: Tensor) -> Reconstruction:
        """Values -> their reconstruction, ids and loss."""
        latents = self.latents(values)
        if self.config.quantize:
            quantized = self.quantizer(latents)
            codes, ids, loss = quantized.codes, quantized.ids, quantized.loss
        else:
            codes, ids, loss = (
                latents.tanh(),
                torch.zeros(latents.shape[:2], dtype=torch.long),
                latents.new_zeros(()),
            )
        rows = self.from_code(codes.to(latents.dtype))
        if isinstance(self.decoder, DiffusionDecoder):
            if self.training:
                return Reconstruction(
                    None,
                    ids,
                    loss + self._weighted(self.decoder.loss(values, rows).mean(1), values),
                )
            output = self.decoder(rows, [zlib.crc32(i.cpu().numpy().tobytes()) for i in ids])
        elif isinstance(self.decoder, ListDecoder):
            kept = None
            if self.training:  # half of the samples show a random prefix
                kept = torch.randint(
                    1, 2 * self.config.num_tokens + 1, (len(rows),), device=rows.device
                )
            output = self.decoder(rows, kept)
        else:
            output = self.decoder(rows)
        return Reconstruction(output, ids, loss + self.loss(output, values))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Squared error plus a little absolute error; cross-entropy for class maps; angles beside
        it for features.
        """
        c = self.config
        if c.num_classes:
            each = F.cross_entropy(output, values, reduction="none", ignore_index=c.num_classes)
            # of the pixels that have a class
            share = (values < c.num_classes).float().mean()
            return self._weighted(each, values) / share.clamp_min(1e-6)
        if c.features:
            return (
                F.mse_loss(output, values)
                + _ANGLE_WEIGHT * (1 - F.cosine_similarity(output, values, dim=1)).mean()
            )
        return self._weighted(
            ((output - values) ** 2 + 0.1 * (output - values).abs()).mean(1), values
        )

    def _channels(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Class ids (B, H, W) as a channel each; ids behind the last class are in none of them."""
        num = self.config.num_classes
        return F.one_hot(ids, num + 1)[..., :num].permute(0, 3, 1, 2).to(dtype)

    def _weighted(self, errors: Tensor, values: Tensor) -> Tensor:
        c = self.config
        if not c.detail_weight:
            return errors.mean()
        if c.num_classes:
            values = self._channels(values, errors.dtype)
        weight = 1.0 + c.detail_weight * local_contrast(values)
        return (errors * weight).sum() / weight.sum()


def _encoder(c: AutoencoderConfig) -> nn.Module:
    if not c.image_size:
        return VectorEncoder(c.channels, c.dim, c.encoder_depth, c.num_tokens)
    channels = c.num_classes or c.channels
    if c.num_tokens:
        return ListEncoder(
            channels, c.patch_size, c.grid, c.dim, c.num_heads, c.encoder_depth, c.num_tokens
        )
    if c.encoder == "conv":
        return ConvEncoder(channels, c.patch_size, c.dim, c.encoder_depth)
    return ViTEncoder(channels, c.patch_size, c.grid, c.dim, c.num_heads, c.encoder_depth)


def _decoder(c: AutoencoderConfig) -> nn.Module:
    if not c.image_size:
        return VectorDecoder(c.channels, c.dim, c.decoder_depth, c.num_tokens)
    if c.num_tokens:
        return ListDecoder(
            c.out_channels,
            c.patch_size,
            c.grid,
            c.dim,
            c.num_heads,
            c.decoder_depth,
            c.num_tokens,
            c.refine_channels,
        )
    if c.decoder == "diffusion":
        return DiffusionDecoder(c.diffusion, c.channels, c.patch_size, c.grid, c.dim, c.num_heads)
    if c.decoder == "conv":
        return ConvDecoder(c.out_channels, c.patch_size, c.dim, c.decoder_depth)
    return ViTDecoder(
        c.out_channels, c.patch_size, c.grid, c.dim, c.num_heads, c.decoder_depth, c.refine_channels
    )


def local_contrast(pictures: Tensor, window: int = 5) -> Tensor:
    """How much each pixel differs from the mean of its surroundings, in [0, 1] of the picture's
    largest: (B, C, H, W) -> (B, H, W).
    """
    blurred = F.avg_pool2d(pictures, window, stride=1, padding=window // 2, count_include_pad=False)
    contrast = (pictures - blurred).abs().mean(1)
    contrast = F.avg_pool2d(contrast[:, None], 3, stride=1, padding=1)[:, 0]
    return contrast / contrast.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
