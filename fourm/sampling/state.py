"""What is known of a batch of samples while they are generated, and the encoder input that follows
from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fourm.batches.batch import EncoderStream, StreamRows
from fourm.modalities import FIRST_SENTINEL, ModalitySet


@dataclass
class GridState:
    """A grid, set or continuous modality: values and which of them are known."""

    values: np.ndarray  # (B, n) ids, or (B, n, C) vectors
    known: np.ndarray  # (B, n) bool
    # of what was generated: nats of the distribution of each token, 0 where it was given, and
    # where its mean is to be decoded that distribution itself (B, n, V)
    entropy: np.ndarray | None = None
    probability: np.ndarray | None = None


@dataclass
class SampleState:
    """Known content of B samples, by modality.

    Sequences are one id array a sample; sentinels in it mark gaps to fill.
    """

    num_samples: int
    grids: dict[str, GridState] = field(default_factory=dict)
    sequences: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def present(self) -> list[str]:
        """Names of the modalities of which anything is known."""
        return [*self.grids, *self.sequences]

    def found(self, name: str) -> GridState | list[np.ndarray]:
        """What is known of a modality that is present."""
        return self.grids[name] if name in self.grids else self.sequences[name]


@dataclass(frozen=True)
class Branch:
    """What one pass of several sees of a state: some modalities are left out, an image is absent, a
    sequence is one sentinel ("everything is missing"); others stand in their place.
    """

    dropped: frozenset[str] = frozenset()
    instead: SampleState | None = None

    def of(self, state: SampleState) -> SampleState:
        """The state as it sees it."""
        grids = {name: grid for name, grid in state.grids.items() if name not in self.dropped}
        sequences = {
            name: [_missing(i) for i in ids] if name in self.dropped else ids
            for name, ids in state.sequences.items()
        }
        if self.instead is not None:
            grids, sequences = grids | self.instead.grids, sequences | self.instead.sequences
        return SampleState(state.num_samples, grids, sequences)


def _missing(ids: np.ndarray) -> np.ndarray:
    return np.array([FIRST_SENTINEL]) if len(ids) else ids


def encoder_stream(states: Sequence[SampleState], modalities: ModalitySet) -> EncoderStream:
    """Encoder input of states of B samples each, one after another."""
    b = states[0].num_samples
    rows = StreamRows(b * len(states))
    for i, m in enumerate(modalities):
        samples, positions, tokens = [], [], []
        for number, state in enumerate(states):
            offset = number * b
            if m.name in state.grids:
                grid = state.grids[m.name]
                sample, position = np.nonzero(grid.known)
                samples.append(sample + offset)
                positions.append(position)
                tokens.append(grid.values[sample, position])
            for sample, ids in enumerate(state.sequences.get(m.name, ())):
                samples.append(np.full(len(ids), sample + offset))
                positions.append(np.arange(len(ids)))
                tokens.append(ids)
        if not samples:
            continue
        sample, position, token = (np.concatenate(part) for part in (samples, positions, tokens))
        if m.kind != "continuous":
            rows.add(i, sample, position, token)
        elif len(sample):
            rows.add_vectors(m.name, i, sample, position, token.astype(np.float32))
    return rows.encoder()
