"""Sequences that are given, with gaps or without: ``"a [S_1] cube"``, ``[box, "[S_1]", box]``.

Gaps are numbered in the order in which they stand, whatever their numbers, as in training. What
would have to be cut is refused. Shape: L ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID, Modality
from fourm.pipeline.given import Partial, Tokens, ids_of, is_gap, opened


def ids_with_gaps(
    value: Any, m: Modality, encode: Callable[[Any], np.ndarray], num_sentinels: int
) -> np.ndarray:
    """Ids (L,) of a value; a sequence that ends in a gap has no end yet: it is to be told, too.

    Args:
        value: raw, or ``Tokens``; of those that are lists an item may be a gap.
        encode: a whole value as ids.
    """
    if isinstance(value, Partial) or (isinstance(value, Tokens) and value.keep is not None):
        raise UserError(
            f"{m.name} is a sequence, of which no mask can be kept: write [S_1] where something is"
            " left open"
        )
    if isinstance(value, Tokens):
        ids = ids_of(value.ids)
        if len(ids) > m.num_tokens:
            raise UserError(f"{len(ids)} ids are more than the {m.num_tokens} that {m.name} holds")
    else:
        ids = _encoded(opened(value, m), m, encode)
    return _in_order(_open_ended(ids, num_sentinels), m, num_sentinels)


def _encoded(value: Any, m: Modality, encode: Callable[[Any], np.ndarray]) -> np.ndarray:
    if isinstance(value, Sequence) and any(map(is_gap, value)):
        parts = [
            np.full(len(list(run)), FIRST_SENTINEL)
            if open_
            else _whole(encode(m.raw.accept(list(run))), m)[:-1]
            for open_, run in groupby(value, key=is_gap)
        ]
        return _whole(np.array([*np.concatenate(parts), END_ID], np.int64), m)
    return _whole(encode(m.raw.accept(value)), m)


def _whole(ids: np.ndarray, m: Modality) -> np.ndarray:
    """Ids that a codec did not cut: they hold their end."""
    if len(ids) > m.num_tokens or (len(ids) == m.num_tokens and ids[-1] != END_ID):
        raise UserError(f"it is longer than the {m.num_tokens} tokens that it holds: shorten it")
    return ids


def _open_ended(ids: np.ndarray, num_sentinels: int) -> np.ndarray:
    ends_in_gap = (
        len(ids) >= 2 and ids[-1] == END_ID and SENTINEL_ID <= ids[-2] < SENTINEL_ID + num_sentinels
    )
    return ids[:-1] if ends_in_gap else ids


def _in_order(ids: np.ndarray, m: Modality, num_sentinels: int) -> np.ndarray:
    gaps = (ids >= SENTINEL_ID) & (ids < SENTINEL_ID + num_sentinels)
    if gaps.sum() > num_sentinels - 2:  # [S_0] is not used, the last one closes
        raise UserError(f"{gaps.sum()} gaps are more than the {num_sentinels - 2} that can be told")
    ids = ids.copy()
    ids[gaps] = FIRST_SENTINEL + np.arange(gaps.sum())
    return ids
