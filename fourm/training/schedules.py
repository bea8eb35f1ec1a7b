"""Learning rates as a share of their peak, by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fourm.config import at_least


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How learning rates rise, stay and fall over a run's steps."""

    name: Literal["cosine", "wsd", "inverse_sqrt"] = "cosine"
    warmup: int = 50  # steps of linear rise
    # wsd and inverse_sqrt: last share of all steps, falling linearly to ``final``
    decay: float = 0.3
    final: float = 0.0  # share of the peak at the end

    def __post_init__(self) -> None:
        at_least(self, 0, "warmup", "decay", "final")


def learning_rate(config: ScheduleConfig, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at ``step`` (0-based) of ``num_steps``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.name == "cosine":
        progress = (step - config.warmup) / max(1, num_steps - config.warmup)
        return config.final + (1 - config.final) * 0.5 * (
            1 + math.cos(math.pi * min(progress, 1.0))
        )
    plateau = 1.0 if config.name == "wsd" else math.sqrt(max(config.warmup, 1) / (step + 1))
    cooldown = config.decay * num_steps
    left = (num_steps - step) / cooldown if cooldown else 1.0
    return plateau * (config.final + (1 - config.final) * min(1.0, left))
