"""What masking and its compiled part tell each other: numbers of random draws, rules and rows.

Named tuples of arrays, which is what compiled code takes. Shapes: B samples, M modalities, K
components of all mixtures, T rows of all samples.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

NEVER = 1e-6  # a modality with a smaller Dirichlet alpha never gets a token
MAX_REDRAWS = 200  # of the spans of a sequence too long for its budget


class Purpose(IntEnum):
    """What a random number is for: one of the counters that it is a function of."""

    COMPONENT = 0
    INPUT_BUDGET = 1
    TARGET_BUDGET = 2
    NUM_INPUTS = 3
    NUM_TARGETS = 4
    KEEP_SHARE = 5  # of a sequence, how much is kept
    KEEP = 6  # which chunks are kept; one more for each redraw
    ORDER = 7 + MAX_REDRAWS  # of a grid's positions
    WINDOW = 8 + MAX_REDRAWS  # which part of a target that is too long
    OTHER_COMPONENT = 9 + MAX_REDRAWS  # where the first does not suit what a sample has


class KeepRule(IntEnum):
    """Which share of a sequence's ids is kept."""

    random = 0
    all = 1
    binary = 2
    none = 3


class Rules(NamedTuple):
    """The maskings of S data sets as arrays, the components of all of them in one table."""

    first: np.ndarray  # (S + 1,) number of each data set's first component
    thresholds: np.ndarray  # (K,) where a component's share ends, of a number in (0, 1)
    input_alpha: np.ndarray  # (K, M) Dirichlet parameters
    target_alpha: np.ndarray  # (K, M)
    num_inputs: np.ndarray  # (K, 2) both ends of a range
    num_targets: np.ndarray  # (K, 2)
    keep: np.ndarray  # (K, M) ``KeepRule``
    redistribute: np.ndarray  # (K,) bool
    is_sequence: np.ndarray  # (M,) bool
    chunk_size: np.ndarray  # (M,)


class Rows(NamedTuple):
    """Rows of B samples, by sample and then by modality; arrays of T and at least one more."""

    counts: np.ndarray  # (B, M)
    modality: np.ndarray
    position: np.ndarray
    given: np.ndarray  # content of what the network is given (see ``fourm.batches.spans``)
    target: np.ndarray  # content of what it is asked for
