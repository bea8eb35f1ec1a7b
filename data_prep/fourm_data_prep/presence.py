"""Which modalities samples have: how many have each, and which are most often together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fourm.data.keys import keys_of

MOST_COMBINATIONS = 12  # that are shown


@dataclass(frozen=True)
class Combinations:
    """Samples by the modalities that they have."""

    modalities: tuple[str, ...]
    counts: tuple[tuple[tuple[str, ...], int], ...]  # modalities held, samples; most frequent first

    @property
    def num_samples(self) -> int:
        """Samples with at least one modality."""
        return sum(num for _, num in self.counts)

    def of(self, modality: str) -> int:
        """Samples that have a modality."""
        return sum(num for held, num in self.counts if modality in held)

    def lines(self) -> list[str]:
        """What a terminal shows: the most frequent combinations and the rest."""
        shown, rest = self.counts[:MOST_COMBINATIONS], self.counts[MOST_COMBINATIONS:]
        found = [
            f"{num:>9,} {num / self.num_samples:>6.1%}  "
            + ("all" if held == self.modalities else ", ".join(held))
            for held, num in shown
        ]
        if rest:
            found.append(f"{sum(n for _, n in rest):>9,}         in {len(rest)} other combinations")
        return found


def combinations(names: Mapping[str, Iterable[str]]) -> Combinations:
    """Of the samples' names of each modality; held as hashes while they are counted."""
    modalities, keys, bits = tuple(names), [], []
    for i, held in enumerate(names.values()):
        keys.append(keys_of(held))
        bits.append(np.full(len(keys[-1]), 1 << i, np.int64))
    if not keys:
        return Combinations((), ())
    joined, bit = np.concatenate(keys), np.concatenate(bits)
    order = np.lexsort(joined.T)
    joined, bit = joined[order], bit[order]
    begins = np.flatnonzero(np.append(True, (joined[1:] != joined[:-1]).any(1))[: len(joined)])
    masks = np.bitwise_or.reduceat(bit, begins) if len(begins) else bit
    counted = Counter(masks.tolist())
    found = [
        (tuple(name for i, name in enumerate(modalities) if mask >> i & 1), num)
        for mask, num in counted.most_common()
    ]
    return Combinations(modalities, tuple(found))
