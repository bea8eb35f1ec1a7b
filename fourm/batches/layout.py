"""Who sees whom: blocks of packed rows, described on the host.

Encoder self-attention is block-diagonal over samples, decoder self-attention over a sample's target
modalities (causal in sequences), cross-attention pairs a sample's target rows with its input rows.
All three are a ``Layout``: S blocks, each with a number of query rows, a number of key rows and a
causal flag. ``fourm.model.attention.prepare`` makes of it what a back end needs on a device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """S blocks of rows; queries of a block see the keys of the same block only.

    Lengths live on the host (numpy), so that no back end has to ask the device for them.
    """

    q_lengths: np.ndarray  # (S,) query rows of each block
    k_lengths: np.ndarray  # (S,) key rows of each block
    group: np.ndarray  # (S,) sample of each block, ascending: the reference path pads by sample
    num_groups: int  # B, samples (some may have no block)
    causal: np.ndarray  # (S,) True: row i sees rows 0..i (queries and keys are the same rows)
    max_blocks: int = 0  # S can be this many: what must not change its shape is made as long

    @staticmethod
    def per_sample(q_lengths: np.ndarray, k_lengths: np.ndarray | None = None) -> Layout:
        """One bidirectional block a sample; ``q_lengths`` (B,), ``k_lengths`` (B,) or the same."""
        q_lengths = np.asarray(q_lengths)
        num = len(q_lengths)
        k_lengths = q_lengths if k_lengths is None else np.asarray(k_lengths)
        return Layout(q_lengths, k_lengths, np.arange(num), num, np.zeros(num, dtype=bool))

    @staticmethod
    def segments(
        lengths: np.ndarray,
        group: np.ndarray,
        num_groups: int,
        causal: np.ndarray,
        max_blocks: int = 0,
    ) -> Layout:
        """Self-attention inside each segment; ``group`` (S,) is the sample of a segment."""
        lengths = np.asarray(lengths)
        causal = np.asarray(causal, dtype=bool)
        return Layout(lengths, lengths, np.asarray(group), num_groups, causal, max_blocks)

    @property
    def is_empty(self) -> bool:
        """True where there is no query or no key at all."""
        return not self.q_lengths.sum() or not self.k_lengths.sum()
