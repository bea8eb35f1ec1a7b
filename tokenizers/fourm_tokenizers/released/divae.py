"""DiVAE tokenizers of 4M: a ViT encoder and a diffusion model as decoder, sampled through
``diffusers``' schedulers.

The decoder denoises a picture in patches of 4 pixels; the quantised latents, enlarged to that grid,
are concatenated to it. Settings (noise schedule, prediction type, thresholding) come from the
tokenizer's file. Zero terminal SNR: 2305.08891.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from einops import rearrange
from torch import Tensor, nn

from fourm_tokenizers.noise import Spacing, make_scheduler, noise_betas
from fourm_tokenizers.released.config import DiVAEConfig
from fourm_tokenizers.released.vqvae import VQEncoder

DENOISER_PATCH = 4  # pixels


class PatchedDenoiser(nn.Module):
    """(noisy picture, time, latents) -> prediction of the picture's shape."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, noisy: Tensor, time: Tensor | int, latents: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W), () or (B,), (B, L, h, w); ``hidden`` (B, h, w) True = this latent is kept
        from the denoiser.
        """
        if hidden is not None:
            latents = latents.masked_fill(hidden[:, None], 0.0)
        p = DENOISER_PATCH
        rows = rearrange(noisy, "b c (h p) (w q) -> b (c p q) h w", p=p, q=p)
        condition = F.interpolate(latents, rows.shape[-2:], mode="nearest")
        out = self.unet(torch.cat([rows, condition], 1), time).sample
        return rearrange(out, "b (c p q) h w -> b c (h p) (w q)", p=p, q=p)


class DiVAE(VQEncoder):
    """With a diffusion decoder."""

    def __init__(self, config: DiVAEConfig, unet: UNet2DModel) -> None:
        super().__init__(config)
        self.settings = config
        self.decoder = PatchedDenoiser(unet)

    def scheduler(
        self,
        kind: Literal["ddpm", "ddim"] | None = None,
        spacing: Spacing = "trailing",
        prediction: str = "",
    ) -> DDPMScheduler | DDIMScheduler:
        """The scheduler that the file names, with its settings; or another kind, spacing of time
        steps, or prediction type.
        """
        c = self.settings
        betas = noise_betas(c.beta_schedule, c.num_train_timesteps, c.zero_terminal_snr)
        return make_scheduler(
            kind or c.scheduler,
            betas,
            prediction or c.prediction_type,
            clip=c.clip_sample,
            thresholding=c.thresholding,
            spacing=spacing,
        )

    @torch.inference_mode()
    def decode(
        self,
        ids: Tensor,
        *,
        steps: int = 25,
        size: int = 0,
        seeds: Sequence[int] | None = None,
        scheduler: DDPMScheduler | DDIMScheduler | None = None,
    ) -> Tensor:
        """Ids (B, h, w) -> normalised pictures (B, C, size, size) by ``steps`` steps of denoising;
        sample i from ``seeds[i]``.
        """
        c = self.settings
        size = size or ids.shape[-1] * c.patch_size
        generators = [
            torch.Generator(ids.device).manual_seed(s) for s in (seeds or range(len(ids)))
        ]
        noise = torch.cat(
            [
                torch.randn(1, c.n_channels, size, size, generator=g, device=ids.device)
                for g in generators
            ]
        )
        return self.denoise(
            self.codes(ids), noise, scheduler or self.scheduler("ddim"), steps, generators
        )

    def denoise(
        self,
        latents: Tensor,
        noise: Tensor,
        scheduler: DDPMScheduler | DDIMScheduler,
        steps: int,
        generators: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """Noise (B, C, H, W) to pictures under latents (B, L, h, w)."""
        scheduler.set_timesteps(steps, device=str(noise.device))
        if scheduler.config.timestep_spacing == "linspace":  # type: ignore[attr-defined]
            # counted from the end: ties round down, as in the released code
            last = self.settings.num_train_timesteps - 1
            times = last - np.linspace(0, last, steps).round()
            scheduler.timesteps = torch.from_numpy(times.astype(np.int64)).to(noise.device)
        picture = noise
        for time in scheduler.timesteps:
            prediction = self.decoder(picture, time, latents)
            picture = scheduler.step(prediction, time, picture, generator=generators).prev_sample  # type: ignore[arg-type,union-attr]
        return picture
