"""Orders in which the positions of a grid are committed when they are known before any token is.

Each returns the rank of every position, (B, n): rank 0 comes first.
"""

from __future__ import annotations

import numpy as np

from fourm.rng import CounterRNG


def random_order(rng: CounterRNG, seeds: np.ndarray, num: int) -> np.ndarray:
    """ROAR: a uniformly random order of its own for each sample; ``seeds`` (B,)."""
    return _ranks(rng.uniform(seeds[:, None], np.arange(num)[None]))


def raster_order(seeds: np.ndarray, num: int) -> np.ndarray:
    return np.broadcast_to(np.arange(num), (len(seeds), num)).copy()


def halton_order(rng: CounterRNG, seeds: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Low-discrepancy order (2503.17076): each step's positions are spread over the picture; rolled
    at random for each sample.
    """
    height, width = grid
    visited = np.full(height * width, -1)
    count, i = 0, 0
    while count < height * width:
        cell = int(_radical_inverse(i, 2) * height) * width + int(_radical_inverse(i, 3) * width)
        if visited[cell] < 0:
            visited[cell] = count
            count += 1
        i += 1
    base = visited.reshape(height, width)
    down = rng.integers(0, height - 1, seeds, 1)
    across = rng.integers(0, width - 1, seeds, 2)
    return np.stack(
        [np.roll(base, (d, a), axis=(0, 1)).reshape(-1) for d, a in zip(down, across, strict=True)]
    )


def _radical_inverse(i: int, base: int) -> float:
    result, scale = 0.0, 1.0 / base
    while i:
        i, digit = divmod(i, base)
        result += digit * scale
        scale /= base
    return result


def _ranks(keys: np.ndarray) -> np.ndarray:
    ranks = np.empty(keys.shape, dtype=np.int64)
    np.put_along_axis(
        ranks, np.argsort(keys, axis=1, kind="stable"), np.arange(keys.shape[1])[None], axis=1
    )
    return ranks
