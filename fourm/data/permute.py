"""Random permutations computed index by index, compiled."""

from __future__ import annotations

import numpy as np

from fourm.numbers.compiled import compiled
from fourm.numbers.compiled_rng import along

_ROUNDS = 6


@compiled
def permuted(
    root: np.uint64, num: int, half: int, epochs: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """Samples (n,) at places ``indices`` (n,) of permutations of 0..num-1, one for each of
    ``epochs`` (n,).

    A Feistel network over twice ``half`` bits, which permutes all numbers of so many bits; what
    falls outside goes through again (cycle walking). ``root`` is the state of the randomness.
    """
    result = np.empty(len(indices), np.int64)
    mask = (1 << half) - 1
    for n in range(len(indices)):
        of_epoch, value = along(root, epochs[n]), indices[n]
        while True:
            left, right = value >> half, value & mask
            for i in range(_ROUNDS):
                scrambled = np.int64(along(along(of_epoch, i), right) & np.uint64(mask))
                left, right = right, left ^ scrambled
            value = (left << half) | right
            if value < num:
                break
        result[n] = value
    return result
