"""A diffusion model as decoder (DiVAE, 4M): a ``diffusers`` UNet denoises pictures under the
quantised latents.

The UNet sees patches of a few pixels; beside them, maps that a small ViT makes of the latents at
that resolution (merely enlarged latents do not tell a convolution where in the token it is).
Trained to predict the picture, the noise or the velocity; some samples hide their latents, so that
decoding can be guided. Decoding takes few deterministic (DDIM) steps; its noise is a function of
the ids alone, so the same tokens always give the same picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from fourm.config import at_least
from fourm.errors import UserError
from fourm_tokenizers.networks import ViTDecoder


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Size and settings of a diffusion decoder."""

    patch_size: int = 4  # pixels that the UNet takes as one
    channels: tuple[int, ...] = (64, 128)  # of each resolution
    layers: int = 1  # residual blocks of each resolution
    attention: bool = True  # at the lowest resolution
    condition_channels: int = 32
    condition_depth: int = 2  # transformer blocks that turn latents into those maps
    prediction: Literal["sample", "epsilon", "v_prediction"] = "sample"
    schedule: str = "linear"
    zero_terminal_snr: bool = True
    num_train_steps: int = 1000
    condition_dropout: float = 0.1  # share of samples that hide their latents in training
    steps: int = 20  # of decoding
    guidance_scale: float = 1.0  # of decoding; 1 = none

    def __post_init__(self) -> None:
        at_least(self, 1, "patch_size", "channels", "layers", "num_train_steps", "steps")
        at_least(self, 0, "condition_channels", "condition_depth", "condition_dropout")
        if not self.channels:
            raise UserError("diffusion.channels needs a number for at least one resolution")


class DiffusionDecoder(nn.Module):
    """Rows (B, n, D) of a square grid -> pictures (B, C, H, W) in [-1, 1]."""

    def __init__(
        self,
        config: DiffusionConfig,
        channels: int,
        patch_size: int,
        grid: int,
        dim: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        if patch_size % config.patch_size:
            raise UserError(
                f"the UNet's patches of {config.patch_size} pixels do not divide the tokens'"
                f" {patch_size}"
            )
        from diffusers.models.unets.unet_2d import (
            UNet2DModel,  # here: importing diffusers takes seconds
        )

        from fourm_tokenizers.noise import noise_betas

        self.config, self.channels, self.patch_size = config, channels, patch_size
        c = config
        pixels = channels * c.patch_size**2
        last = "AttnDownBlock2D" if c.attention else "DownBlock2D"
        plain = ["DownBlock2D"] * (len(c.channels) - 1)
        self.condition = ViTDecoder(
            c.condition_channels,
            patch_size // c.patch_size,
            grid,
            dim,
            num_heads,
            c.condition_depth,
            0,
        )
        self.unet = UNet2DModel(
            in_channels=pixels + c.condition_channels,
            out_channels=pixels,
            down_block_types=(*plain, last),
            up_block_types=(
                last.replace("Down", "Up"),
                *(name.replace("Down", "Up") for name in plain),
            ),
            block_out_channels=c.channels,
            layers_per_block=c.layers,
            norm_num_groups=math.gcd(32, *c.channels),
            attention_head_dim=32 if c.channels[-1] % 32 == 0 else None,
        )
        self.betas = noise_betas(c.schedule, c.num_train_steps, c.zero_terminal_snr)

    def predict(
        self, noisy: Tensor, time: Tensor, rows: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """Noisy pictures (B, C, H, W), times (B,), rows (B, n, D); ``hidden`` (B,) True = decode
        without the rows.
        """
        p, condition = self.config.patch_size, self.condition(rows)
        if hidden is not None:
            condition = condition.masked_fill(hidden[:, None, None, None], 0.0)
        maps = rearrange(noisy, "b c (h p) (w q) -> b (c p q) h w", p=p, q=p)
        out = self.unet(torch.cat([maps, condition], 1), time).sample
        return rearrange(out, "b (c p q) h w -> b c (h p) (w q)", p=p, q=p)

    def loss(self, pictures: Tensor, rows: Tensor) -> Tensor:
        """Squared error of the prediction at random times (B, C, H, W); draws from torch's
        generator, which the loop seeds a step.
        """
        from fourm_tokenizers.noise import make_scheduler

        c, b = self.config, len(pictures)
        scheduler = make_scheduler("ddpm", self.betas, c.prediction)
        time = torch.randint(0, c.num_train_steps, (b,), device=pictures.device)
        noise = torch.randn_like(pictures)
        hidden = torch.rand(b, device=pictures.device) < c.condition_dropout
        prediction = self.predict(scheduler.add_noise(pictures, noise, time), time, rows, hidden)  # type: ignore[arg-type]
        if c.prediction == "sample":
            wanted = pictures
        elif c.prediction == "epsilon":
            wanted = noise
        else:
            wanted = scheduler.get_velocity(pictures, noise, time)  # type: ignore[arg-type]
        return (prediction - wanted) ** 2

    @torch.no_grad()
    def forward(self, rows: Tensor, seeds: list[int], steps: int = 0) -> Tensor:
        """Decode rows; sample i starts from the noise of ``seeds[i]``."""
        from fourm_tokenizers.noise import make_scheduler

        c = self.config
        size = math.isqrt(rows.shape[1]) * self.patch_size
        shape = (1, self.channels, size, size)
        noise = [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds
        ]
        pictures = torch.cat(noise).to(rows.device)
        scheduler = make_scheduler("ddim", self.betas, c.prediction, clip=True)
        scheduler.set_timesteps(steps or c.steps, device=str(rows.device))
        for t in scheduler.timesteps:
            time = t.expand(len(pictures))
            out = self.predict(pictures, time, rows)
            if c.guidance_scale != 1.0:
                without = self.predict(
                    pictures,
                    time,
                    rows,
                    torch.ones(len(rows), dtype=torch.bool, device=rows.device),
                )
                out = without + c.guidance_scale * (out - without)
            pictures = scheduler.step(out, int(t), pictures).prev_sample  # type: ignore[union-attr]
        return pictures
