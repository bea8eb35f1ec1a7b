"""The order of samples: a pure function of (seed, position), with O(1) access anywhere.

Each pass over a data set is a fresh permutation, computed index by index with a small Feistel
network (cycle walking keeps it inside the range), so nothing is shuffled, stored or replayed:
resuming at any step costs nothing. Mixtures interleave their sources by earliest deadline, so that
every source's share holds in any window to within one sample.

A source that is larger than the disk is read in blocks of neighbours: blocks are permuted, and
samples within a window of several blocks, so that only a window's bytes are needed at a time. This
is the shuffle buffer of streaming readers made a function: no buffer, nothing to fill or replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fourm.config import at_least
from fourm.errors import UserError
from fourm.numbers.rng import CounterRNG

_PERIOD = 4096  # mixture shares are rounded to multiples of 1 / period


class EpochOrder(Protocol):
    """An order of 0..num-1 for each epoch, each number once."""

    num: int

    def __call__(self, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Sample at place ``index`` (n,) of each ``epoch`` (n,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class BlockOrder:
    """How a source is shuffled of which not all fits on the disk."""

    block: int = 16384  # neighbouring samples that are read together
    window: int = 32  # blocks whose samples are shuffled together

    def __post_init__(self) -> None:
        at_least(self, 1, "block", "window")


class Permutation:
    """A random permutation of 0..num-1 for each epoch."""

    def __init__(self, num: int, seed: int, stream: str = "order") -> None:
        if num <= 0:
            raise UserError("no samples to order")
        self.num = num
        from fourm.data.permute import permuted  # loads the compiler

        self._permuted, self._root = permuted, CounterRNG(seed, stream).root
        self._half = max(1, ((num - 1).bit_length() + 1) // 2)

    def __call__(self, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Sample at place ``index`` (n,) of each ``epoch`` (n,)."""
        epoch, index = (np.ascontiguousarray(a, np.int64) for a in (epoch, index))
        return self._permuted(self._root, self.num, self._half, epoch, index)


class WindowedPermutation:
    """Blocks of neighbours in random order, samples in random order within windows of blocks.

    The last block may be short. It takes a place of its own draw among the others, so that where
    it lies, and with it every window's length, is known without a search.
    """

    def __init__(self, num: int, seed: int, order: BlockOrder) -> None:
        self.num, self._seed, self._order = num, seed, order
        self._num_blocks = -(-num // order.block)
        self._lacking = self._num_blocks * order.block - num  # samples, in the last block
        self._full_blocks = Permutation(max(self._num_blocks - 1, 1), seed, "blocks")
        self._place_of_last = CounterRNG(seed, "last block")
        self._within: dict[int, Permutation] = {}  # by length of the window: at most four

    def __call__(self, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Sample at place ``index`` (n,) of each ``epoch`` (n,)."""
        block, size = self._order.block, self._order.block * self._order.window
        epoch, index = (np.ascontiguousarray(a, np.int64) for a in (epoch, index))
        last = self._place_of_last.integers(0, self._num_blocks - 1, epoch)
        # places are counted as if the last block were full: those behind it move up
        its_window = last // self._order.window
        index = index + self._lacking * (index >= (its_window + 1) * size - self._lacking)
        window, place = np.divmod(index, size)
        has_last = window == its_window
        length = np.minimum(size, self._num_blocks * block - window * size)
        place = self._shuffled(epoch, window, length - self._lacking * has_last, place)
        behind = (last - window * self._order.window + 1) * block - self._lacking
        place = place + self._lacking * (has_last & (place >= behind))
        number, within = np.divmod(window * size + place, block)
        is_last = number == last
        full = self._full_blocks(epoch, np.where(is_last, 0, number - (number > last)))
        return np.where(is_last, self._num_blocks - 1, full) * block + within

    def _shuffled(
        self, epoch: np.ndarray, window: np.ndarray, length: np.ndarray, place: np.ndarray
    ) -> np.ndarray:
        """Places (n,) within windows of ``length`` (n,), in each window's own random order."""
        result = np.empty(len(place), np.int64)
        which = epoch * self._num_blocks + window
        for num in np.unique(length).tolist():
            if num not in self._within:
                self._within[num] = Permutation(num, self._seed, "within windows")
            at = length == num
            result[at] = self._within[num](which[at], place[at])
        return result


def epoch_order(num: int, seed: int, blocks: BlockOrder | None) -> EpochOrder:
    """The order of a source of ``num`` samples: of all of them, or of blocks."""
    return Permutation(num, seed) if blocks is None else WindowedPermutation(num, seed, blocks)


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
        blocks: list[BlockOrder | None] | None = None,
    ) -> None:
        if any(w <= 0 for w in weights):
            raise UserError("weights of a mixture must be positive")
        self._first, self._drawn = first, np.array(drawn or [0] * len(sizes), dtype=np.int64)
        self._orders = [
            epoch_order(size, seed + i, of_source)
            for i, (size, of_source) in enumerate(
                zip(sizes, blocks or [None] * len(sizes), strict=True)
            )
        ]
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
        for i, order in enumerate(self._orders):
            at = source == i
            if at.any():
                epoch, index = np.divmod(nth[at], order.num)
                sample[at] = order(epoch, index)
        return Draw(source, sample)

    def drawn_before(self, draw: int) -> np.ndarray:
        """Samples of each source taken before draw number ``draw`` (sources,)."""
        round_, place = divmod(draw - self._first, len(self._pattern))
        within = np.bincount(self._pattern[:place], minlength=len(self._counts))
        return self._drawn + round_ * self._counts + within
