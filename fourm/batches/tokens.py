"""The tokens of a batch's samples before masking: where they lie, not copies of them.

Masking chooses a few hundred of a sample's thousands of tokens, so only those that it chose are
read, and pictures of which it chose nothing are not decoded. Shapes: B samples, L elements of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np


class UnreadableElements(Exception):
    """Elements that were asked for and cannot be read, because a file is damaged.

    Args:
        at: (n,) bool, which of those that were asked for.
    """

    def __init__(self, at: np.ndarray) -> None:
        super().__init__(f"{at.sum()} elements cannot be read")
        self.at = at


class Elements(Protocol):
    """Elements end to end, read when they are asked for: ids, vectors, patches of pictures.

    A numpy array is one, memory-mapped or not.
    """

    def __getitem__(self, numbers: np.ndarray, /) -> Any:
        """Elements of these numbers (n,): ids (n,) or vectors (n, C). Raises UnreadableElements."""
        ...


@dataclass(frozen=True)
class Ragged:
    """The elements of B samples of one modality, of as many lengths, in one or several parts."""

    parts: tuple[Elements, ...]  # of each source that has the modality
    part: np.ndarray  # (B,) which of them holds the sample
    starts: np.ndarray  # (B,) number of the sample's first element in its part
    lengths: np.ndarray  # (B,) 0 where the sample lacks the modality

    @staticmethod
    def of_one(part: Elements, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
        """Samples that lie in one part."""
        return Ragged((part,), np.zeros(len(starts), np.int64), starts, lengths)

    def take(self, sample: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Elements at positions (n,) of samples (n,); all parts must give the same shape.

        Raises UnreadableElements where a file is damaged.
        """
        numbers, part = self.starts[sample] + position, self.part[sample]
        if len(self.parts) == 1:
            return self.parts[0][numbers]
        places = [np.flatnonzero(part == i) for i in range(len(self.parts))]
        taken, lost = [], np.zeros(len(sample), bool)
        for values, at in zip(self.parts, places, strict=True):
            try:
                taken.append(values[numbers[at]])
            except UnreadableElements as unreadable:
                lost[at] = unreadable.at
        if lost.any():
            raise UnreadableElements(lost)
        result = np.concatenate(taken)
        result[np.concatenate(places)] = np.concatenate(taken)
        return result

    def padded(self) -> np.ndarray:
        """All elements of all samples (B, L, ...), behind the end of each something or other."""
        position = np.arange(int(self.lengths.max(initial=0)))
        last = np.maximum(self.lengths - 1, 0)[:, None]
        position = np.minimum(position, last)
        sample = np.repeat(np.arange(len(position)), position.shape[1])
        taken = self.take(sample, position.reshape(-1))
        return taken.reshape(*position.shape, *taken.shape[1:])


@dataclass(frozen=True)
class SampleTokens:
    """B samples; a modality that none of them has may be left out."""

    samples: np.ndarray  # (B,) number of each sample in its data set
    content: dict[str, Ragged]
    source: np.ndarray | None = None  # (B,) number of the data set; None: all of one

    def __len__(self) -> int:
        return len(self.samples)

    def without(self, name: str, samples: np.ndarray) -> SampleTokens:
        """The same, but that samples (n,) lack a modality."""
        held = self.content[name]
        lengths = held.lengths.copy()
        lengths[samples] = 0
        return replace(self, content={**self.content, name: replace(held, lengths=lengths)})

    @staticmethod
    def from_arrays(
        samples: np.ndarray, arrays: dict[str, np.ndarray], lengths: dict[str, np.ndarray]
    ) -> SampleTokens:
        """From padded ids (B, L) or vectors (B, L, C) and lengths (B,) of each modality."""
        content = {}
        for name, array in arrays.items():
            num, longest = array.shape[:2]
            flat = array.reshape(num * longest, *array.shape[2:])
            content[name] = Ragged.of_one(flat, np.arange(num) * longest, lengths[name])
        return SampleTokens(samples, content)
