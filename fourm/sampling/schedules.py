"""What changes from step to step: how many tokens are committed, and the temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

TokenSchedule = Literal["cosine", "linear"]
TemperatureSchedule = Literal["linear", "onex"]

# progress 0..1 -> share of the tokens that are committed
_COMMITTED: dict[TokenSchedule, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda progress: 1.0 - np.cos(0.5 * np.pi * progress),
    "linear": lambda progress: progress,
}


def tokens_done(schedule: TokenSchedule, steps: int, open_tokens: np.ndarray) -> np.ndarray:
    """Tokens committed after each step: (steps + 1, B) from 0 to ``open_tokens`` (B,).

    ``cosine`` is MaskGIT's (2202.04200): few tokens at first, many at the end. Every step commits
    at least one, as long as there are any.
    """
    step = np.arange(steps + 1)
    share = _COMMITTED[schedule](step / steps)
    # the small number makes up for shares such as 0.29999... of ten tokens
    done = np.floor(share[:, None] * open_tokens + 1e-9).astype(np.int64)
    done = np.maximum(done, np.minimum(step[:, None], open_tokens))
    done[-1] = open_tokens
    return done


def temperature_at(
    schedule: TemperatureSchedule, start: float, end: float, step: int, steps: int, num_tokens: int
) -> float:
    """Temperature of one step on the way from ``start`` to ``end``.

    ``linear`` ends at ``end`` with the last step. ``onex`` is 4M's "onex" with power 0.5: 1 / sqrt
    of a place between 1 and 100, which moves on by tokens, times what is left of the steps.
    """
    match schedule:
        case "linear":
            return start if steps == 1 else start + (end - start) * step / (steps - 1)
        case "onex":
            last = 100.0**-0.5
            place = 1.0 + 99.0 * step / max(num_tokens - 1, 1)
            share = (place**-0.5 - last) / (1.0 - last) * (1.0 - step / steps)
            return end + (start - end) * max(share, 0.0)
