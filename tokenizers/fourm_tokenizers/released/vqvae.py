"""VQ-VAE tokenizers of 4M: pictures, class maps, feature maps or vectors <-> ids. Architecture: 4M
(2312.06647), appendix.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from fourm.errors import UserError
from fourm_tokenizers.released.codebooks import HeadCodes, NearestCode
from fourm_tokenizers.released.config import VQConfig, VQVAEConfig, preset
from fourm_tokenizers.released.networks import ResidualMLP, ViTDecoder, ViTEncoder

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VQEncoder(nn.Module):
    """What all released tokenizers have: encoder, projection, codebook."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.enc_type.startswith("BottleneckMLP"):
            self.encoder: nn.Module = ResidualMLP(c.enc_type, c.n_channels, None)
            width = self.encoder.dim
        else:
            size = preset(c.enc_type, "_enc")
            patch = c.patch_size if c.patch_proj else 1
            self.encoder, width = (
                ViTEncoder(size, c.n_channels, patch, c.encoder_grid, c.post_mlp),
                size.dim,
            )
        self.cls_emb = nn.Embedding(c.n_labels, c.n_channels) if c.n_labels is not None else None
        self.quant_proj = nn.Conv2d(width, c.latent_dim, 1)
        self.quantize = (
            HeadCodes(c.codebook_size, c.latent_dim, c.num_codebooks)
            if c.quant_type == "memcodes"
            else NearestCode(c.codebook_size, c.latent_dim, c.norm_codes, c.norm_latents)
        )
        if c.quant_type == "lucid" and c.num_codebooks != 1:
            raise UserError("several codebooks need quant_type memcodes")

    def prepared(self, pictures: Tensor) -> Tensor:
        """What the encoder takes: class ids (B, H, W) become maps; standardised pictures go back to
        [-1, 1] where the file says so.
        """
        if self.cls_emb is not None:
            return rearrange(self.cls_emb(pictures), "b h w c -> b c h w")
        if self.config.undo_std:
            mean, std = (
                pictures.new_tensor(v)[:, None, None] for v in (_IMAGENET_MEAN, _IMAGENET_STD)
            )
            return (pictures * std + mean) * 2 - 1
        return pictures

    def latents(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (B, C, H, W), class ids (B, H, W) or features -> (B, L, h, w)."""
        return self.quant_proj(self.encoder(self.prepared(pictures)))

    def encode(self, pictures: Tensor) -> Tensor:
        """-> ids (B, h, w), or (B, codebooks, h, w)."""
        return self.quantize.ids(self.latents(pictures))

    def codes(self, ids: Tensor) -> Tensor:
        """Ids -> quantised latents (B, L, h, w)."""
        return self.quantize.codes(ids)


class VQVAE(VQEncoder):
    """With a deterministic decoder."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__(config)
        c = config
        channels = c.n_labels if c.n_labels is not None else c.n_channels
        if c.dec_type.startswith("BottleneckMLP"):
            self.decoder: nn.Module = ResidualMLP(c.dec_type, None, channels)
            width = self.decoder.dim
        else:
            size, patch = preset(c.dec_type, "_dec"), (c.patch_size_dec or c.patch_size)
            grid = (c.image_size_dec or c.image_size) // patch
            self.decoder = ViTDecoder(
                size, channels, patch if c.patch_proj else 1, grid, c.post_mlp, c.out_conv
            )
            width = size.dim
        self.post_quant_proj = nn.Conv2d(c.latent_dim, width, 1)

    def decode(self, ids: Tensor) -> Tensor:
        """Ids -> normalised pictures or features (B, C, H, W), or class logits."""
        return self.decode_codes(self.codes(ids))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Quantised latents (B, L, h, w) -> what ``decode`` gives."""
        return self.decoder(self.post_quant_proj(codes))
