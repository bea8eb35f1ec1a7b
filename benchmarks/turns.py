"""Actions that are compared take turns, so that a machine that is shared slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds_in_turn(
    actions: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, dict[str, float]]:
    """CPU seconds of each action, fastest and median of ``repeats`` turns after a first one: what
    they use is made in that.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats + 1):
        for name, action in actions.items():
            started = time.process_time()
            action()
            seconds[name].append(time.process_time() - started)
    kept = {name: times[1:] for name, times in seconds.items()}
    return {
        "fastest_seconds": {name: min(times) for name, times in kept.items()},
        "median_seconds": {name: statistics.median(times) for name, times in kept.items()},
    }
