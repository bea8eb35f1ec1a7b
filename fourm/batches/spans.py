"""Sequences with hidden spans: the input has a sentinel for each, the target fills them in.

Every run of hidden ids becomes one sentinel, numbered from [S_1]; the target is each sentinel
followed by what it hides, and one closing sentinel (T5, 1910.10683; 4M, 2312.06647). For one
sequence at a time, whose ids are not looked at: what a row holds is a *content*, the number of an
element among all ids of the modality (the sequence's first is ``start``), or an id itself, below 0.
Shape: L ids of the sequence.
"""

from __future__ import annotations

import math

import numpy as np

from fourm.batches.mask_rules import MAX_REDRAWS
from fourm.modalities import FIRST_SENTINEL, PAD_ID
from fourm.numbers.compiled import compiled
from fourm.numbers.compiled_rng import along, uniform

# a sequence too long for its budget is redrawn with this share of its keep probability
_SHRINK = 0.9


@compiled
def literal(token: int) -> int:
    """The content of a row that holds this id; ``literal`` of a content below 0 is the id."""
    return -1 - token


@compiled
def draw_spans(
    share: float,
    budget: int,
    chunk_size: int,
    of_modality: np.uint64,
    first_purpose: int,
    hidden: np.ndarray,
) -> tuple[int, int]:
    """Draw which ids are hidden, within ``budget`` input ids: fills ``hidden`` (L,).

    Chunks of ids are kept with probability ``share``. An input that is too long is drawn again with
    a smaller share, as 4M does; one that never fits is hidden whole. ``of_modality`` is the state
    of the randomness, ``first_purpose`` the counter of the first try.

    Returns:
        ids of the input, sentinels included, and ids of the target but one: the first is given.
    """
    num = len(hidden)
    if budget > 0:
        num_chunks = (num + chunk_size - 1) // chunk_size
        behind_end = num_chunks * chunk_size - num  # what the last chunk lacks
        is_kept = np.empty(num_chunks, np.bool_)
        for attempt in range(MAX_REDRAWS):
            of_try = along(of_modality, first_purpose + attempt)
            for chunk in range(num_chunks):
                is_kept[chunk] = uniform(along(of_try, chunk)) <= share
            num_kept = chunk_size * is_kept.sum()
            if num_chunks and is_kept[-1]:
                num_kept -= behind_end
            num_spans = _num_runs_of_false(is_kept)
            if num_kept + num_spans <= budget:
                for place in range(num):
                    hidden[place] = not is_kept[place // chunk_size]
                return num_kept + num_spans, num - num_kept + num_spans
            share *= _SHRINK
    hidden[:] = True
    has_ids = min(num, 1)
    return min(has_ids, budget), num + has_ids


@compiled
def _num_runs_of_false(mask: np.ndarray) -> int:
    num = 1 if len(mask) and not mask[0] else 0
    for i in range(1, len(mask)):
        num += mask[i - 1] and not mask[i]
    return num


@compiled
def write_input(
    hidden: np.ndarray, start: int, position: np.ndarray, content: np.ndarray, row: int
) -> None:
    """Write the input to ``position`` and ``content``, from ``row`` on."""
    first, span = row, 0
    for place in range(len(hidden)):
        opens = hidden[place] and (place == 0 or not hidden[place - 1])
        if opens or not hidden[place]:
            position[row] = row - first
            content[row] = literal(FIRST_SENTINEL + span) if opens else start + place
            row += 1
            span += opens


@compiled
def target_of(hidden: np.ndarray, start: int, content: np.ndarray, opens: np.ndarray) -> int:
    """The target: fills ``content`` (2 L + 2,) and ``opens``, True for the sentinels. Returns the
    place of the last of them, which closes the target.
    """
    place = span = 0
    for i in range(len(hidden)):
        if hidden[i]:
            if i == 0 or not hidden[i - 1]:
                content[place], opens[place] = literal(FIRST_SENTINEL + span), True
                place += 1
                span += 1
            content[place], opens[place] = start + i, False
            place += 1
    content[place], opens[place] = literal(FIRST_SENTINEL + span), True
    # a window may begin so late that it asks for more than the target has; it ends within 2 L + 2,
    # because the start before its own left more than it asks for
    content[place + 1 :] = literal(PAD_ID)
    return place


@compiled
def window_start(last: int, opens: np.ndarray, wanted: int, drawn: float) -> int:
    """Where ``wanted`` predictions of a target whose closing sentinel is at ``last`` begin.

    0 if the whole target fits, else a random one of the spans after whose start so many remain
    (``drawn`` in (0, 1) picks it).
    """
    if last <= wanted or wanted == 0:
        return 0
    pick = math.floor(drawn * opens[: last - wanted + 1].sum())
    for place in range(last):
        if opens[place]:
            if pick == 0:
                return place
            pick -= 1
    return 0
