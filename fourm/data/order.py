"""The order of samples: a pure function of (seed, position), with O(1) access anywhere.

Each pass over a data set is a fresh permutation, computed index by index with a small Feistel
network (cycle walking keeps it inside the range), so nothing is shuffled, stored or replayed:
resuming at any step costs nothing. Mixtures interleave their sources by earliest deadline, so that
every source's share holds in any window to within one sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm.errors import UserError
from fourm.rng import CounterRNG

_PERIOD = 4096  # mixture shares are rounded to multiples of 1 / period


class Permutation:
    """A random permutation of 0..num-1 for each epoch."""

    def __init__(self, num: int, seed: int) -> None:
        if num <= 0:
            raise UserError("no samples to order")
        self.num = num
        from fourm.data.permute import permuted  # loads the compiler

        self._permuted, self._root = permuted, CounterRNG(seed, "order").root
        self._half = max(1, ((num - 1).bit_length() + 1) // 2)

    def __call__(self, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Sample at place ``index`` (n,) of each ``epoch`` (n,)."""
        epoch, index = (np.ascontiguousarray(a, np.int64) for a in (epoch, index))
        return self._permuted(self._root, self.num, self._half, epoch, index)


@dataclass(frozen=True)
class Draw:
    """Where the samples of some draws come from."""

    source: np.ndarray  # (n,) number of the source
    sample: np.ndarray  # (n,) number of the sample within it


class SampleOrder:
    """Which sample draw number d is, for a mixture of sources with given sizes and weights.

    Weights that hold from draw ``first`` on, before which ``drawn`` samples of each source were
    taken, continue each source's own order.
    """

    def __init__(
        self,
        sizes: list[int],
        weights: list[float],
        seed: int,
        first: int = 0,
        drawn: list[int] | None = None,
    ) -> None:
        if any(w <= 0 for w in weights):
            raise UserError("weights of a mixture must be positive")
        self._first, self._drawn = first, np.array(drawn or [0] * len(sizes), dtype=np.int64)
        self._permutations = [Permutation(size, seed + i) for i, size in enumerate(sizes)]
        share = np.array(weights) / sum(weights)
        counts = (
            np.maximum(1, np.floor(share * _PERIOD)).astype(np.int64)
            if len(sizes) > 1
            else np.array([1])
        )
        if len(sizes) > 1:
            counts[counts.argmax()] += _PERIOD - counts.sum()
        deadline = np.concatenate([(np.arange(c) + 0.5) / c for c in counts])
        source = np.repeat(np.arange(len(sizes)), counts)
        self._pattern = source[np.argsort(deadline, kind="stable")]
        self._counts = counts
        occurrence = np.zeros(len(self._pattern), dtype=np.int64)
        for i in range(len(sizes)):
            at = self._pattern == i
            occurrence[at] = np.arange(at.sum())
        self._occurrence = occurrence

    def __call__(self, draws: np.ndarray) -> Draw:
        """Sources and samples of draws number ``draws`` (n,)."""
        draws = np.asarray(draws, dtype=np.int64) - self._first
        round_, place = np.divmod(draws, len(self._pattern))
        source = self._pattern[place]
        nth = self._drawn[source] + round_ * self._counts[source] + self._occurrence[place]
        sample = np.empty(len(draws), dtype=np.int64)
        for i, permutation in enumerate(self._permutations):
            at = source == i
            if at.any():
                epoch, index = np.divmod(nth[at], permutation.num)
                sample[at] = permutation(epoch, index)
        return Draw(source, sample)

    def drawn_before(self, draw: int) -> np.ndarray:
        """Samples of each source taken before draw number ``draw`` (sources,)."""
        round_, place = divmod(draw - self._first, len(self._pattern))
        within = np.bincount(self._pattern[:place], minlength=len(self._counts))
        return self._drawn + round_ * self._counts + within
