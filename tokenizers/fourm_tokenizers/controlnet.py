"""Stable Diffusion as decoder of a tokenizer: a ControlNet, driven by the quantised latents, steers
a frozen UNet (VQ-ControlNet of 4M).

    code_dim = model.config.quantizer.latent_dim
    decoder = ControlNetDecoder.from_folder("path/to/stable-diffusion", code_dim=code_dim)

The folder is a ``diffusers`` pipeline on disk (``unet``, ``vae``, ``scheduler``; ``text_encoder``
and ``tokenizer`` if it has them, for the embedding of the empty prompt). Nothing is fetched,
nothing of it is trained; only the ControlNet's weights are saved.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.errors import UserError

_COND_CHANNELS = 8  # of the map that the ControlNet reads
_REDUCED = 8  # by which the ControlNet reduces that map to the size of the latents
_PARTS = ("unet", "vae", "scheduler")


class ControlNetDecoder(nn.Module):
    """Codes (B, n, code_dim) of a square grid -> pictures (B, 3, H, W) in [-1, 1]."""

    def __init__(
        self, unet: Any, vae: Any, noise: Any, empty_prompt: Tensor, code_dim: int
    ) -> None:
        super().__init__()
        from diffusers.models.controlnets.controlnet import ControlNetModel

        # a list: neither trained nor saved
        self.frozen = [unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)]
        self.noise = noise  # settings of the pipeline's scheduler
        self.control = ControlNetModel.from_unet(
            unet, conditioning_channels=_COND_CHANNELS
        ).requires_grad_(True)
        self.condition = nn.Conv2d(code_dim, _COND_CHANNELS, 1)
        self.register_buffer("empty_prompt", empty_prompt, persistent=False)

    empty_prompt: Tensor

    @staticmethod
    def from_folder(folder: str | Path, code_dim: int) -> ControlNetDecoder:
        """Raises UserError that names the part of the pipeline that is missing or unreadable."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        folder = Path(folder)
        for part in _PARTS:
            if not (folder / part).is_dir():
                raise UserError(
                    f"{folder} is no diffusers pipeline: its folder {part!r} is missing"
                )
        try:
            unet = UNet2DConditionModel.from_pretrained(
                folder / "unet", use_safetensors=True, local_files_only=True
            )
            vae = AutoencoderKL.from_pretrained(
                folder / "vae", use_safetensors=True, local_files_only=True
            )
            noise = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} cannot be read: {str(error).splitlines()[0]}") from None
        return ControlNetDecoder(
            unet, vae, noise, _empty_prompt(folder, unet.config["cross_attention_dim"]), code_dim
        )

    def _steered(self, latents: Tensor, time: Tensor, codes: Tensor) -> Tensor:
        """The frozen UNet's prediction for noisy latents (B, 4, h, w) under codes."""
        unet, _ = self.frozen
        side = math.isqrt(codes.shape[1])
        maps = self.condition(rearrange(codes, "b (h w) d -> b d h w", h=side))
        maps = F.interpolate(
            maps, (latents.shape[-2] * _REDUCED, latents.shape[-1] * _REDUCED), mode="nearest"
        )
        text = self.empty_prompt.to(latents.dtype).expand(len(latents), -1, -1)
        down, middle = self.control(
            latents, time, encoder_hidden_states=text, controlnet_cond=maps, return_dict=False
        )
        return unet(
            latents,
            time,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample

    def loss(self, pictures: Tensor, codes: Tensor) -> Tensor:
        """Squared error of the predicted noise (or velocity) at random times; a scalar."""
        _, vae = self.frozen
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean * vae.config["scaling_factor"]
        noise = torch.randn_like(latents)
        time = torch.randint(
            0, self.noise.config["num_train_timesteps"], (len(latents),), device=latents.device
        )
        prediction = self._steered(self.noise.add_noise(latents, noise, time), time, codes)
        velocity = self.noise.config["prediction_type"] == "v_prediction"
        return F.mse_loss(
            prediction, self.noise.get_velocity(latents, noise, time) if velocity else noise
        )

    @torch.no_grad()
    def forward(self, codes: Tensor, size: int, seeds: list[int], steps: int = 25) -> Tensor:
        """Decode codes to pictures of ``size`` pixels; sample i starts from the noise of
        ``seeds[i]``.
        """
        unet, vae = self.frozen
        side = size // 2 ** (len(vae.config["block_out_channels"]) - 1)
        shape = (1, unet.config["in_channels"], side, side)
        latents = torch.cat(
            [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        ).to(codes.device)
        self.noise.set_timesteps(steps)
        for t in self.noise.timesteps:
            prediction = self._steered(latents, t.expand(len(latents)).to(codes.device), codes)
            latents = self.noise.step(prediction, int(t), latents).prev_sample
        return vae.decode(latents / vae.config["scaling_factor"]).sample.clamp(-1, 1)


def _empty_prompt(folder: Path, width: int) -> Tensor:
    """Embedding (1, L, width) of the empty prompt; zeros where the folder has no text encoder."""
    if not (folder / "text_encoder").is_dir():
        return torch.zeros(1, 77, width)
    try:
        from transformers import CLIPTextModel, CLIPTokenizer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{folder} has a text encoder: install transformers to read it") from None
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(
        folder / "text_encoder", use_safetensors=True, local_files_only=True
    )
    ids = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return encoder(ids).last_hidden_state
