"""Joining by key alone: columns of different origins, whose shards have different names.

A sample's name is ``<shard>/<key>``, which tells samples apart where every shard counts from zero.
Captions of one origin and depth of another have the key in common and nothing else: then the key
alone is the identity, and must be unique within a modality.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fourm.batches.tokens import Ragged
from fourm.data.columns import Column
from fourm.data.keys import keys_of

_BLOCK = 1 << 16  # names that are hashed together


@dataclass(frozen=True)
class ByKey:
    """A column whose samples are known by the key in their name (``Column``)."""

    column: Column

    @property
    def num_samples(self) -> int:
        return self.column.num_samples

    @property
    def keys_id(self) -> str:
        return f"by key: {self.column.keys_id}"

    def key_blocks(self) -> Iterator[np.ndarray]:
        for first in range(0, self.num_samples, _BLOCK):
            last = min(first + _BLOCK, self.num_samples)
            yield keys_of(key_in(self.name(row)) for row in range(first, last))

    def name(self, row: int) -> str:
        return self.column.name(row)

    def ragged(self, rows: np.ndarray) -> Ragged:
        return self.column.ragged(rows)


def key_in(name: str) -> str:
    """The key in a name ``<shard>/<key>``."""
    return name.partition("/")[2]
