"""Noise schedules of diffusion decoders, as betas for ``diffusers``' schedulers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

Spacing = Literal["trailing", "linspace", "leading"]


def noise_betas(schedule: str, steps: int, zero_terminal_snr: bool) -> Tensor:
    """Betas (T,) of ``linear``, ``scaled_linear``, ``squaredcos_cap_v2`` or
    ``shifted_cosine:<shift>``.

    ``zero_terminal_snr`` rescales them so that the last step is pure noise (2305.08891); the
    shifted cosine ends so by itself.
    """
    if schedule.startswith("shifted_cosine"):  # simple diffusion, 2301.11093
        shift = float(schedule.partition(":")[2] or 1.0)
        tangent = torch.tan(0.5 * math.pi * torch.arange(steps, dtype=torch.float64) / (steps - 1))
        cumulative = 1.0 / (1.0 + (shift * tangent) ** 2)
        previous = torch.cat([cumulative.new_ones(1), cumulative[:-1]])
        return (1 - cumulative / previous).float()
    betas = DDPMScheduler(num_train_timesteps=steps, beta_schedule=schedule).betas  # type: ignore[arg-type]
    return rescale_zero_terminal_snr(betas) if zero_terminal_snr else betas


def make_scheduler(
    kind: Literal["ddpm", "ddim"],
    betas: Tensor,
    prediction: str,
    *,
    clip: bool = False,
    thresholding: bool = False,
    spacing: Spacing = "trailing",
) -> DDPMScheduler | DDIMScheduler:
    """A scheduler over these betas."""
    shared = {
        "num_train_timesteps": len(betas),
        "trained_betas": betas.tolist(),
        "prediction_type": prediction,
        "clip_sample": clip,
        "thresholding": thresholding,
        "timestep_spacing": spacing,
    }
    return DDPMScheduler(**shared) if kind == "ddpm" else DDIMScheduler(**shared)
