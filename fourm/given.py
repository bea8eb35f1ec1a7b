"""What callers give a pipeline: whole values or parts of them, ids, seeds; checked, and in the form
that sampling takes. Shapes: L ids or vectors of a sample, C numbers of a vector.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID, Modality
from fourm.sampling.state import GridState


@dataclass(frozen=True)
class Partial:
    """A raw value of which only some tokens are given: in-painting, out-painting. ``keep`` True =
    given.

    ``keep`` is a mask over the token grid (rows, columns) or over pixels (H, W); a token is given
    if all its pixels are.
    """

    raw: Any
    keep: np.ndarray


@dataclass(frozen=True)
class Tokens:
    """Ids instead of a raw value, with an optional mask of which are given (True = given)."""

    ids: np.ndarray
    keep: np.ndarray | None = None


def whole_number(value: Any, name: str) -> int:
    """An int, numpy's too."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be a whole number, not {value!r}") from None


def seeds_of(seed: Any, num: int) -> np.ndarray:
    """One seed (that of the first sample) or one for each of ``num`` samples, as (num,) int64."""
    if seed is None:
        raise UserError("seed must be a number: nothing is random by itself here")
    if np.ndim(seed) == 0:
        first = whole_number(seed, "seed")
        seeds = [first + i for i in range(num)]
    else:
        seeds = [whole_number(value, "a seed") for value in seed]
    if len(seeds) != num:
        raise UserError(f"{len(seeds)} seeds for {num} samples")
    limits = np.iinfo(np.int64)
    if min(seeds) < limits.min or max(seeds) > limits.max:
        raise UserError(f"seeds must fit 64 bits: {limits.min} to {limits.max}, not {max(seeds)}")
    return np.array(seeds, np.int64)


def ids_of(value: Any) -> np.ndarray:
    """Ids as (L,) int64. Raises UserError for what is no whole number."""
    ids = np.asarray(value)
    if ids.size and ids.dtype.kind not in "iu":
        raise UserError(f"ids must be integers, not {ids.dtype}")
    return ids.astype(np.int64).reshape(-1)


def is_batch(value: Any, m: Modality) -> bool:
    """A list of samples, as opposed to one sample that may itself be a list."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (Partial, Tokens)):
        return True
    return m.raw.is_batch(value)


def padded_vectors(values: list[np.ndarray], most: int) -> GridState:
    """Lists of vectors (L, C) of different lengths as one state; raises ValueError for one of more
    than ``most``.
    """
    longest = max(len(value) for value in values)
    if longest > most:
        raise UserError(f"{longest} vectors are more than the {most} that this modality holds")
    table = np.zeros((len(values), longest, values[0].shape[1]), np.float32)
    known = np.zeros(table.shape[:2], bool)
    for row, value in enumerate(values):
        table[row, : len(value)], known[row, : len(value)] = value, True
    return GridState(table, known)


def token_mask(value: Any, m: Modality, num: int) -> np.ndarray:
    """Which of a value's tokens are given, (num,) bool: all, but of a ``Partial`` those that its
    mask of tokens or of pixels keeps whole.
    """
    keep = getattr(value, "keep", None)
    if keep is None:
        return np.ones(num, bool)
    keep = np.asarray(keep, bool)
    if keep.size == num:
        return keep.reshape(-1)
    if m.grid is not None and keep.shape == (m.raw.pixels, m.raw.pixels):
        rows, columns = m.grid
        pixels = m.raw.pixels
        parts = keep.reshape(rows, pixels // rows, columns, pixels // columns)
        return parts.all((1, 3)).reshape(-1)
    raise UserError(
        f"the mask has shape {keep.shape}; it must cover {num} tokens or {m.raw.pixels} x"
        f" {m.raw.pixels} pixels"
    )


def open_gap(ids: np.ndarray, num_sentinels: int) -> np.ndarray:
    """A prompt that ends in a sentinel is open-ended: what follows it is to be generated, so it has
    no end yet.
    """
    if (
        len(ids) >= 2
        and ids[-1] == END_ID
        and FIRST_SENTINEL <= ids[-2] < SENTINEL_ID + num_sentinels
    ):
        return ids[:-1]
    return ids
