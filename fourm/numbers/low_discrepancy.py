"""Low-discrepancy sequences: points that fill a square evenly, however many of them are taken."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=16)
def halton_ranks(height: int, width: int) -> np.ndarray:
    """When the Halton sequence of bases 2 and 3 first meets each cell: (height, width)."""
    visited = np.full((height, width), -1)
    count, i = 0, 0
    while count < height * width:
        cell = int(radical_inverse(i, 2) * height), int(radical_inverse(i, 3) * width)
        if visited[cell] < 0:
            visited[cell] = count
            count += 1
        i += 1
    return visited


def radical_inverse(i: int, base: int) -> float:
    """The digits of ``i`` mirrored behind the point: a number in [0, 1)."""
    result, scale = 0.0, 1.0 / base
    while i:
        i, digit = divmod(i, base)
        result += digit * scale
        scale /= base
    return result
