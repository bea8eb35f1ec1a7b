"""How one target is sampled: scheme, steps, schedules, filters, guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fourm.errors import UserError

Scheme = Literal["maskgit", "roar", "halton", "raster", "entropy"]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options of one target modality. Sequences are always decoded left to right; ``scheme``,
    ``steps`` and ``schedule`` are for grids and sets."""

    scheme: Scheme = "maskgit"
    steps: int = 12
    schedule: Literal["cosine", "linear"] = "cosine"  # tokens committed at each step
    temperature: float = 1.0
    temperature_end: float | None = None  # what it falls to by the last step; None = constant
    # onex: steeply at first, as 4M's "onex" with power 0.5
    temperature_schedule: Literal["linear", "onex"] = "linear"
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    guidance_scale: float = 1.0  # 1 = no guidance
    # linear, cosine: from 1 up to the scale
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    # several weighted conditions instead of all together
    condition_weights: dict[str, float] = field(default_factory=dict)
    confidence_noise: float = 1.0  # maskgit: Gumbel noise on the confidence, annealed to 0
    entropy_bound: float = 0.5  # entropy: nats that the tokens committed in one step may share
    # maskgit: share of what was committed that each step but the last gives back, least likely
    # first
    remask: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if (
            self.temperature < 0
            or not 0 < self.top_p <= 1
            or self.top_k < 0
            or not 0 <= self.remask < 1
        ):
            raise UserError(
                "temperature >= 0, 0 < top_p <= 1, top_k >= 0 and 0 <= remask < 1 are needed"
            )

    def temperature_at(self, step: int, num_tokens: int = 196) -> float:
        if self.temperature_end is None:
            return self.temperature
        if self.temperature_schedule == "onex":
            last = 100.0**-0.5
            place = 1.0 + 99.0 * step / max(num_tokens - 1, 1)
            share = (place**-0.5 - last) / (1.0 - last) * (1.0 - step / self.steps)
            return self.temperature_end + (self.temperature - self.temperature_end) * max(
                share, 0.0
            )
        if self.steps == 1:
            return self.temperature
        return self.temperature + (self.temperature_end - self.temperature) * step / (
            self.steps - 1
        )

    def guidance_at(self, step: int, num_steps: int) -> float:
        if self.guidance_schedule == "constant" or num_steps == 1:
            return self.guidance_scale
        progress = step / (num_steps - 1)
        rise = (
            progress
            if self.guidance_schedule == "linear"
            else 0.5 * (1 - math.cos(math.pi * progress))
        )
        return 1.0 + (self.guidance_scale - 1.0) * rise


def tokens_done(schedule: str, steps: int, open_tokens: np.ndarray) -> np.ndarray:
    """Tokens committed after each step: (steps + 1, B) from 0 to ``open_tokens`` (B,).

    ``cosine`` is MaskGIT's (2202.04200): few tokens at first, many at the end. Every step but empty
    ones commits at least one.
    """
    progress = np.arange(steps + 1) / steps
    share = 1.0 - np.cos(0.5 * np.pi * progress) if schedule == "cosine" else progress
    done = np.floor(share[:, None] * open_tokens + 1e-9).astype(np.int64)
    done = np.maximum(done, np.minimum(np.arange(steps + 1)[:, None], open_tokens))
    done[-1] = open_tokens
    return done
