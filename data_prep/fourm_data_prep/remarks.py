"""What is odd about samples and put up with, or is lost of them when they become tokens: counted by
its words, said once with the number and a sample to look at.

Raw types say what they see in values (``Raw.remark``). Of sequences, ids tell what was lost: those
that are cut have no end, words that the tokenizer does not know are one id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.modalities import END_ID, UNKNOWN_ID, Modality


@dataclass
class Count:
    """Samples of one remark, and the first of them."""

    samples: int
    first: str


@dataclass
class Remarks:
    """Remarks by modality and words."""

    num_seen: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, Count]] = field(default_factory=dict)

    def see(self, modality: str, key: str, said: Iterable[str | None]) -> None:
        """One sample and what there is to say of it."""
        self.num_seen[modality] = self.num_seen.get(modality, 0) + 1
        for words in said:
            if words is not None:
                found = self.counts.setdefault(modality, {}).setdefault(words, Count(0, key))
                found.samples += 1

    def merge(self, other: Remarks) -> None:
        """Add those of other samples."""
        for modality, number in other.num_seen.items():
            self.num_seen[modality] = self.num_seen.get(modality, 0) + number
        for modality, counts in other.counts.items():
            for words, count in counts.items():
                mine = self.counts.setdefault(modality, {}).setdefault(words, Count(0, count.first))
                mine.samples += count.samples

    def of(self, modalities: Iterable[str]) -> Remarks:
        """Those of some modalities."""
        found = Remarks()
        for modality in modalities:
            if modality in self.num_seen:
                found.num_seen[modality] = self.num_seen[modality]
                found.counts[modality] = dict(self.counts.get(modality, {}))
        return found

    def lines(self) -> list[str]:
        """A sentence for each remark, the most frequent first."""
        found = [
            (count.samples, modality, words, count.first)
            for modality, counts in self.counts.items()
            for words, count in counts.items()
        ]
        found.sort(key=lambda line: (-line[0], *line[1:]))
        return [
            f"{modality}: {number:,} of {self.num_seen[modality]:,} samples: {words}"
            f" (first: {first})"
            for number, modality, words, first in found
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain mappings: modality -> samples seen and remarks."""
        return {
            modality: {
                "seen": number,
                "remarks": {
                    words: [count.samples, count.first]
                    for words, count in self.counts.get(modality, {}).items()
                },
            }
            for modality, number in self.num_seen.items()
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Remarks:
        """The inverse. Raises UserError for anything else."""
        try:
            counts = {
                modality: {words: Count(*count) for words, count in entry["remarks"].items()}
                for modality, entry in data.items()
            }
            return Remarks({modality: entry["seen"] for modality, entry in data.items()}, counts)
        except (TypeError, KeyError, AttributeError, IndexError):
            raise UserError(
                "remarks in a manifest are damaged: delete the folder manifests and run again"
            ) from None


def said_of_ids(m: Modality, ids: np.ndarray) -> list[str]:
    """What the ids of one sample of a sequence have lost."""
    if m.kind != "sequence" or not len(ids):
        return []
    said = []
    if ids[-1] != END_ID:
        said.append(f"cut at {m.max_tokens} tokens (max_tokens)")
    if (ids == UNKNOWN_ID).any():
        said.append("words or signs that the tokenizer does not know")
    return said
