"""What callers give a pipeline: whole values or parts of them, ids, seeds; checked, and in the form
that sampling takes. Shapes: L ids or vectors of a sample, C numbers of a vector.
"""

from __future__ import annotations

import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from fourm.data.npy import read_npy
from fourm.data.pictures import open_header
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.sampling.state import GridState

_SEEDS = 1 << 62  # that a generator draws from
_GAP = re.compile(r"\[S_\d+\]")


@dataclass(frozen=True)
class Partial:
    """A raw value of which only some tokens are given: in-painting, out-painting. ``keep`` True =
    given.

    ``keep`` is a mask over the token grid (rows, columns) or over pixels (H, W), the modality's or
    the picture's own; a token is given if all its pixels are.
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


def at_least_one(value: Any, name: str) -> int:
    """A whole number from 1 on."""
    number = whole_number(value, name)
    if number < 1:
        raise UserError(f"{name} must be at least 1, not {number}")
    return number


def seeds_of(seed: Any, num: int) -> np.ndarray:
    """One seed (that of the first sample) or one for each of ``num`` samples, as (num,) int64.

    A ``torch.Generator`` draws a seed for each, and moves on by that.
    """
    if seed is None:
        raise UserError("seed must be a number: nothing is random by itself here")
    if isinstance(seed, torch.Generator):
        seed = torch.randint(_SEEDS, (num,), generator=seed, device=seed.device)
    if isinstance(seed, (list, tuple)):
        seed = [seeds_of(s, 1)[0] if isinstance(s, torch.Generator) else s for s in seed]
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
    if m.kind == "sequence" and isinstance(value, (list, tuple)) and any(map(is_gap, value)):
        return m.raw.is_batch([item for item in value if not is_gap(item)])
    return m.raw.is_batch(value)


def is_gap(item: Any) -> bool:
    """True for what stands for items of a list that are left open: ``"[S_1]"``."""
    return isinstance(item, str) and _GAP.fullmatch(item) is not None


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


def opened(value: Any, m: Modality) -> Any:
    """A value, or what the file holds that it names. Raises UserError where there is none."""
    name = isinstance(value, str) and (m.raw.pixels or os.path.isfile(value))
    if name or (isinstance(value, os.PathLike) and m.raw.pixels):
        return m.raw.from_argument(os.fspath(value))
    if isinstance(value, os.PathLike):
        if not os.path.isfile(value):
            raise UserError(f"no file {os.fspath(value)}")
        path = Path(value)
        return m.raw.read(path.read_bytes(), path.suffix.lstrip("."))
    return value


def token_mask(value: Any, m: Modality, num: int) -> np.ndarray:
    """Which of a value's tokens are given, (num,) bool: all, but of a ``Partial`` those that its
    mask of tokens or of pixels keeps whole.
    """
    keep = getattr(value, "keep", None)
    if keep is None:
        return np.ones(num, bool)
    if not np.isin(keep, (0, 1)).all():
        raise UserError("a mask holds True (given) or False, or 1 or 0, and nothing else")
    if np.size(keep) == num:
        return np.asarray(keep, bool).reshape(-1)
    rows, columns = m.grid or (1, 1)
    parts = rearrange(pixel_mask(value, m), "(r h) (c w) -> r c (h w)", r=rows, c=columns)
    return parts.all(-1).reshape(-1)


def pixel_mask(value: Any, m: Modality) -> np.ndarray:
    """The mask of a ``Partial`` or of ``Tokens`` over the type's pixels (H, W).

    One at the picture's own size goes the way of the picture: its centre square is resized, and
    what does not lie wholly in it is not kept.
    """
    keep, pixels = np.asarray(value.keep, bool), m.raw.pixels
    if m.grid is not None and pixels:
        if keep.size == m.num_tokens:
            rows, columns = m.grid
            return np.kron(
                keep.reshape(m.grid), np.ones((pixels // rows, pixels // columns), bool)
            ).astype(bool)
        if keep.shape in ((pixels, pixels), own_size(getattr(value, "raw", None), m)):
            return _fitted(keep, pixels)
    own = own_size(getattr(value, "raw", None), m)
    raise UserError(
        f"the mask has shape {keep.shape}; it must cover {m.num_tokens} tokens or {pixels} x"
        f" {pixels} pixels" + (f" or the picture's own {own[0]} x {own[1]}" if own else "")
    )


def own_size(raw: Any, m: Modality) -> tuple[int, ...]:
    """Height and width of a picture as it is given; empty for what has none."""
    if isinstance(raw, (str, os.PathLike)) and os.path.isfile(raw):
        data = Path(raw).read_bytes()
        raw = read_npy(data) if os.fspath(raw).endswith(".npy") else open_header(data)
    if isinstance(raw, Image.Image):
        return raw.height, raw.width
    return np.shape(raw)[:2] if isinstance(raw, np.ndarray) else ()


def _fitted(keep: np.ndarray, pixels: int) -> np.ndarray:
    if keep.shape == (pixels, pixels):
        return keep
    side = min(keep.shape)
    top, left = ((length - side) // 2 for length in keep.shape)
    square = Image.fromarray(keep[top : top + side, left : left + side].astype(np.uint8) * 255)
    return np.asarray(square.resize((pixels, pixels), Image.Resampling.BOX)) == 255


def as_given(value: Any, m: Modality, made: Any) -> Any:
    """What was made for a value that was given in part or whole, with what was given in its
    place; tokens and texts are what their ids say.
    """
    if m.kind == "sequence" or isinstance(value, Tokens):
        return made
    if not isinstance(value, Partial):
        return m.raw.accept(opened(value, m))
    given = np.asarray(m.raw.accept(opened(value.raw, m)))
    if not m.raw.pixels or np.shape(made) != given.shape:
        return made
    keep = pixel_mask(value, m)
    return np.where(keep.reshape(*keep.shape, *(1,) * (given.ndim - 2)), given, made)
