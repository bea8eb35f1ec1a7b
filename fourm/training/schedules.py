"""How long a run is, and its learning rates as a share of their peak by step.

Lengths may be given in tokens, as the 4M papers give theirs (2312.06647, 2406.09406). A token there
is a *slot of the budget*, filled or not: a step of ``batch_size`` samples is ``batch_size * (most
inputs + most targets)`` of them. So the length in steps is known before any data is read, and stays
a pure function of the config: a resumed run, on other ranks too, has the same rates at every step.
Tokens that were in fact observed are fewer (short captions, samples that lack a modality), and
differ from one data set to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from fourm.config import at_least
from fourm.errors import UserError

_WARMUP = 50


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How learning rates rise, stay and fall over a run's steps."""

    name: Literal["cosine", "wsd", "inverse_sqrt"] = "cosine"
    warmup: int = _WARMUP  # steps of linear rise
    warmup_tokens: float = 0  # the same in slots of the budget, instead
    # wsd and inverse_sqrt: last share of all steps, falling linearly to ``final``
    decay: float = 0.3
    final: float = 0.0  # share of the peak at the end

    def __post_init__(self) -> None:
        at_least(self, 0, "warmup", "warmup_tokens", "decay", "final")
        if self.warmup_tokens and self.warmup != _WARMUP:
            raise UserError(
                f"warmup ({self.warmup} steps) and warmup_tokens ({self.warmup_tokens:g}) are both"
                " given: leave one out, or set warmup_tokens to 0"
            )

    def in_steps(self, tokens_per_step: int) -> ScheduleConfig:
        """The same with its warm-up in steps."""
        if not self.warmup_tokens:
            return self
        return replace(self, warmup=steps_of(self.warmup_tokens, tokens_per_step), warmup_tokens=0)


def check_length(steps: int, total_tokens: float, schedule: ScheduleConfig) -> None:
    """Raise UserError unless a run's length is given once, and is longer than its warm-up."""
    if steps and total_tokens:
        raise UserError(
            f"steps ({steps}) and total_tokens ({total_tokens:g}) are both given: leave one out, or"
            " set total_tokens to 0"
        )
    if total_tokens and not total_tokens > max(schedule.warmup_tokens, 0):
        raise UserError(
            f"total_tokens ({total_tokens:g}) must be more than schedule.warmup_tokens"
            f" ({schedule.warmup_tokens:g})"
        )
    for name, tokens in (
        ("total_tokens", total_tokens),
        ("schedule.warmup_tokens", schedule.warmup_tokens),
    ):
        if tokens == float("inf"):
            raise UserError(f"{name} must be finite")
    if not total_tokens and steps < 1:
        raise UserError(f"steps must be at least 1, not {steps} (or total_tokens given)")


def steps_of(tokens: float, tokens_per_step: int) -> int:
    """Whole steps, at least one, of a length in slots of the budget."""
    return max(1, round(tokens / tokens_per_step))


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
