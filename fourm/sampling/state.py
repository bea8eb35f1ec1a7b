"""What is known of a batch of samples while they are generated, and the encoder input that follows
from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fourm.batch import EncoderStream, StreamRows
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


def encoder_stream(
    state: SampleState, modalities: ModalitySet, branches: list[frozenset[str]]
) -> EncoderStream:
    """Encoder input of every branch, one after another: (branches x B) samples.

    A branch is the set of modalities that it leaves out: an image is absent, a sequence is one
    sentinel ("everything is missing").
    """
    b = state.num_samples
    rows = StreamRows(b * len(branches))
    for i, m in enumerate(modalities):
        samples, positions, tokens = [], [], []
        for branch, dropped in enumerate(branches):
            offset = branch * b
            if m.name in state.grids and m.name not in dropped:
                grid = state.grids[m.name]
                sample, position = np.nonzero(grid.known)
                samples.append(sample + offset)
                positions.append(position)
                tokens.append(grid.values[sample, position])
            elif m.name in state.sequences:
                for sample, ids in enumerate(state.sequences[m.name]):
                    shown = np.array([FIRST_SENTINEL]) if m.name in dropped and len(ids) else ids
                    samples.append(np.full(len(shown), sample + offset))
                    positions.append(np.arange(len(shown)))
                    tokens.append(shown)
        if not samples:
            continue
        sample, position, token = (np.concatenate(part) for part in (samples, positions, tokens))
        if m.kind == "continuous":
            if len(sample):
                rows.add_vectors(m.name, i, sample, position, token.astype(np.float32))
        else:
            rows.add(i, sample, position, token)
    return rows.encoder()
