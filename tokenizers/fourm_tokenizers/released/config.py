"""Settings of a released tokenizer, as its ``config.json`` says them; defaults are the reference's
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fourm.config import from_mapping
from fourm.errors import UserError

DIFFUSION_FIELDS = ("num_train_timesteps", "beta_schedule", "prediction_type", "scheduler")


@dataclass(frozen=True, kw_only=True)
class ViTPreset:
    """Size of a ViT that a name stands for."""

    dim: int
    depth: int
    num_heads: int


VITS = {
    "vit_tiny": ViTPreset(dim=32, depth=2, num_heads=4),
    "vit_s": ViTPreset(dim=512, depth=8, num_heads=8),
    "vit_b": ViTPreset(dim=768, depth=12, num_heads=12),
    "vit_l": ViTPreset(dim=1024, depth=24, num_heads=16),
}


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """Fields that all released tokenizers share.

    Those of training alone (EMA, code replacement …) change nothing here.
    """

    image_size: int = 224
    image_size_enc: int | None = None
    image_size_sd: int | None = None
    n_channels: int = 3
    n_labels: int | None = None
    enc_type: str = "vit_b_enc"
    dec_type: str = "vit_b_dec"
    patch_proj: bool = True
    post_mlp: bool = False
    patch_size: int = 16
    quant_type: Literal["lucid", "memcodes"] = "lucid"
    codebook_size: int = 16384
    num_codebooks: int = 1
    latent_dim: int = 32
    norm_codes: bool = True
    norm_latents: bool = False
    sync_codebook: bool = True
    ema_decay: float = 0.99
    threshold_ema_dead_code: float = 0.25
    code_replacement_policy: str = "batch_random"
    commitment_weight: float = 1.0
    kmeans_init: bool = False
    freeze_enc: bool = False
    undo_std: bool = False
    ckpt_path: str | None = None
    loss_fn: str | None = None
    config: dict[str, Any] | None = None

    @property
    def encoder_grid(self) -> int:
        """Rows and columns of the stored position table."""
        return (self.image_size_enc or self.image_size) // self.patch_size


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig(VQConfig):
    """A tokenizer whose decoder is a ViT or an MLP."""

    out_conv: bool = False
    image_size_dec: int | None = None
    patch_size_dec: int | None = None


@dataclass(frozen=True, kw_only=True)
class DiVAEConfig(VQConfig):
    """A tokenizer whose decoder is a diffusion model."""

    dec_type: str = "unet_patched"
    image_size_dec: int | None = None
    num_train_timesteps: int = 1000
    cls_free_guidance_dropout: float = 0.0
    masked_cfg: bool = False
    masked_cfg_low: int = 0
    masked_cfg_high: int | None = None
    scheduler: Literal["ddpm", "ddim"] = "ddpm"
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: Literal["sample", "epsilon", "v_prediction"] = "v_prediction"
    clip_sample: bool = False
    thresholding: bool = True
    conditioning: Literal["concat", "add", "xattn"] = "concat"
    dec_transformer_dropout: float = 0.2
    zero_terminal_snr: bool = True


def read_config(described: dict[str, Any], where: str) -> VQVAEConfig | DiVAEConfig:
    """The settings in a mapping. Raises UserError that names an unknown field."""
    kind = DiVAEConfig if any(field in described for field in DIFFUSION_FIELDS) else VQVAEConfig
    return from_mapping(kind, described, where)


def preset(name: str, suffix: str, where: str = "config.json") -> ViTPreset:
    """The ViT that ``vit_b_enc`` and the like stand for."""
    found = VITS.get(name.removesuffix(suffix))
    if found is None or not name.endswith(suffix):
        raise UserError(
            f"{where}: unknown network {name!r}; known are {', '.join(v + suffix for v in VITS)}"
        )
    return found
