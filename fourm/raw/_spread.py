"""How numbers and names are spread over a data set of any size, in bounded memory.

Extremes are exact. Percentiles are those of at most a quarter of a million numbers, evenly spaced:
of a sample no more than a few thousand, and every second one is let go whenever there are too many.
Nothing is drawn, so the same data gives the same figures.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_MOST_KEPT = 1 << 18  # numbers, 2 MB
_MOST_OF_A_SAMPLE = 1 << 12
_MOST_NAMES = 10_000  # distinct names that are counted
OTHERS = "(others)"  # what further ones are counted as


@dataclass
class Spread:
    """Numbers of one kind, sample by sample."""

    num_samples: int = 0
    num_values: int = 0
    low: float = math.inf
    high: float = -math.inf
    low_key: str = ""  # sample of the extremes
    high_key: str = ""
    _sum: float = 0.0
    _every: int = 1  # of the numbers that could be kept, those at multiples of this are
    _num_seen: int = 0
    _kept: array[float] = field(default_factory=lambda: array("d"))

    def add(self, values: np.ndarray, key: str) -> None:
        """The numbers of one sample, of any shape."""
        values = np.asarray(values, np.float64).reshape(-1)
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        if low < self.low:
            self.low, self.low_key = low, key
        if high > self.high:
            self.high, self.high_key = high, key
        some = values[:: -(-len(values) // _MOST_OF_A_SAMPLE)]
        self._kept.frombytes(some[-self._num_seen % self._every :: self._every].tobytes())
        self._num_seen += len(some)
        while len(self._kept) > _MOST_KEPT:
            self._kept, self._every = self._kept[::2], 2 * self._every
        self.num_samples += 1
        self.num_values += len(values)
        self._sum += float(values.sum())

    @property
    def mean(self) -> float:
        """Mean of all numbers."""
        return self._sum / max(self.num_values, 1)

    def percentiles(self, percent: Sequence[float]) -> list[float]:
        """Numbers below which these shares lie. There must be numbers."""
        return [float(p) for p in np.percentile(np.array(self._kept), percent)]


@dataclass
class Tally:
    """How often each name occurs; of very many names the late ones are counted together."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # name -> first sample with it

    def add(self, counted: Mapping[str, int], key: str) -> None:
        """The names of one sample."""
        for name, number in counted.items():
            new = name not in self.counts
            name = OTHERS if new and len(self.counts) >= _MOST_NAMES else name
            self.counts[name] += number
            self.examples.setdefault(name, key)

    def shares(self) -> dict[str, float]:
        """Share of each name, the most frequent first."""
        total = max(self.counts.total(), 1)
        return {name: number / total for name, number in self.counts.most_common()}
