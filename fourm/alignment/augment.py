"""Augmentation of cached latents: FuseMix's shared mixup (2312.10144), its baselines, and noise.

FuseMix mixes two pairs with one lambda *shared* by all modalities, so that the mixed latents are a
true pair again. Baselines: nothing, a lambda for each modality (which breaks the pair), Gaussian
noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fourm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to a batch of paired latents."""

    mixup: Literal["none", "shared", "independent"] = "shared"
    # one lambda for the batch, as the paper, or one for each sample
    per: Literal["batch", "sample"] = "batch"
    alpha: float = 1.0  # of Beta(alpha, alpha); 1 = uniform
    noise: float = 0.0  # deviation of Gaussian noise, in deviations of the latents' entries

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.noise < 0:
            raise UserError(f"alpha {self.alpha} must be above 0 and noise {self.noise} at least 0")


def augment(
    latents: list[Tensor], config: AugmentConfig, generator: torch.Generator
) -> list[Tensor]:
    """Paired latents, one (B, d) for each modality -> the same shapes.

    Partners are a random order, the same in all modalities.
    """
    result = latents
    if config.mixup != "none":
        num = len(latents[0])
        partner = torch.randperm(num, generator=generator)
        shared = _lambda(config, num, generator)
        result = []
        for z in latents:
            share = shared if config.mixup == "shared" else _lambda(config, num, generator)
            share = share.to(z)
            result.append(share * z + (1 - share) * z[partner.to(z.device)])
    if config.noise:
        drawn = [torch.randn(z.shape, generator=generator).to(z) for z in result]
        result = [z + config.noise * z.std() * n for z, n in zip(result, drawn, strict=True)]
    return result


def _lambda(config: AugmentConfig, num: int, generator: torch.Generator) -> Tensor:
    """(1, 1) or (num, 1) draws of Beta(alpha, alpha)."""
    size = (num if config.per == "sample" else 1, 1)
    if config.alpha == 1.0:
        return torch.rand(size, generator=generator)
    seed = int(torch.randint(2**31, (), generator=generator))
    return torch.from_numpy(
        np.random.default_rng(seed).beta(config.alpha, config.alpha, size)
    ).float()
