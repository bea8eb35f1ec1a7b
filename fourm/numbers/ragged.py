"""Rows of samples of different lengths, end to end, and ranks within each: the numpy idioms that
masking, attention and sampling share, each written once.
"""

from __future__ import annotations

import numpy as np


def starts(lengths: np.ndarray) -> np.ndarray:
    """First row of each block when blocks of ``lengths`` (S,) lie end to end."""
    return np.cumsum(lengths) - lengths


def rows_of_blocks(start: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Row numbers (sum of lengths,) of blocks that begin at ``start`` (S,), one after another."""
    within = np.arange(lengths.sum()) - np.repeat(starts(lengths), lengths)
    return np.repeat(start, lengths) + within


def ranks(keys: np.ndarray) -> np.ndarray:
    """Rank of each element among those of its row: (B, n) -> (B, n), 0 for the smallest.

    Equal keys keep their order.
    """
    # the inverse of the permutation that sorts a row says where each of its elements ends up
    order = np.argsort(keys, axis=1, kind="stable")
    result = np.empty(keys.shape, dtype=np.int64)
    np.put_along_axis(result, order, np.arange(keys.shape[1])[None], axis=1)
    return result


def ranks_in_groups(keys: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """Rank of each element among those of its group: ``keys`` (n,), ``group`` (n,) -> (n,).

    Equal keys keep their order; groups need not lie together.
    """
    order = np.lexsort((np.arange(len(keys)), keys, group))
    first = starts(np.bincount(group, minlength=num_groups))
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = np.arange(len(keys)) - first[group[order]]
    return result
