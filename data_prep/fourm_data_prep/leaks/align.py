"""Laying one picture over another: where the one is in the other, and whether they are the same.

Places that were found in both say how: a change of scale and a shift along each axis, that of the
pair of places with which most others agree. Pixels decide: what lies on each other is compared at a
small size, piece by piece, so that pictures which differ in one thing only (the hands of a clock)
are told apart.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from einops import rearrange, reduce

_GRID = 32  # pixels squared at which what lies on each other is compared
_PIECES = 4  # squared
_MAX_PLACES = 96  # that are asked how the pictures lie
_MAX_OFF = 2.0  # pixels by which places that agree may be off
_MIN_SHARE = 0.35  # of each picture that must lie on the other
_MIN_LARGER_SHARE = 0.6  # of one of them
_MAX_SCALE = 2.2
_BLANK = 2.0  # grey levels about the mean below which a picture shows nothing
_NOISE = 6.0  # grey levels that a strong compression changes
_ALMOST = 0.45
# of the larger side, by which a position is tried to be bettered: one that places gave, or one of a
# grid
NEAR = (0.02, 0.02, 0.008, 0.008)
FAR = (0.035, 0.02, 0.02, 0.012, 0.008, 0.004)
# first and last edge that a step moves: one of them, or both
_MOVES = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))


@dataclass(frozen=True)
class Laid:
    """How a picture lies on another: x there = scale x here + shift, for x and y."""

    scale: np.ndarray  # (2,)
    shift: np.ndarray  # (2,)


def lay(here: np.ndarray, there: np.ndarray) -> Laid | None:
    """The position with which most of the pairs of places (n, 2) agree, none if too few do."""
    some = np.unique(np.linspace(0, len(here) - 1, min(len(here), _MAX_PLACES)).round().astype(int))
    here, there = here[some], there[some]
    i, j = np.triu_indices(len(here), 1)
    apart = here[j] - here[i]
    i, j = i[wide := (np.abs(apart) > 2 * _MAX_OFF).all(1)], j[wide]
    if not len(i):
        return None
    scale = (there[j] - there[i]) / (here[j] - here[i])  # (pairs, 2)
    shift = there[i] - scale * here[i]
    fits = (scale > 1 / _MAX_SCALE).all(1) & (scale < _MAX_SCALE).all(1)
    if not fits.any():
        return None
    scale, shift = scale[fits], shift[fits]
    off = np.abs(scale[:, None] * here + shift[:, None] - there).max(2)  # (pairs, n)
    agree = off <= _MAX_OFF
    best = agree[agree.sum(1).argmax()]
    if best.sum() < 3:
        return None
    return _least_squares(here[best], there[best])


def _least_squares(here: np.ndarray, there: np.ndarray) -> Laid:
    mean, wanted = here.mean(0), there.mean(0)
    scale = ((here - mean) * (there - wanted)).sum(0) / ((here - mean) ** 2).sum(0)
    return Laid(scale, wanted - scale * mean)


def whole(here: np.ndarray, there: np.ndarray) -> Laid:
    """One picture (H, W, 3) laid over the whole of another."""
    size, wanted = (np.array(p.shape[1::-1], float) for p in (here, there))
    return Laid(wanted / size, (wanted / size - 1) / 2)


def bettered(
    here: np.ndarray,
    there: np.ndarray,
    laid: Laid,
    wanted: tuple[float, float],
    steps: tuple[float, ...] = NEAR,
) -> tuple[float, float]:
    """The ``agreement`` of the best position near one that has errors; looked for where they almost
    agree as much as ``wanted``.
    """
    best = agreement(here, there, laid)
    size = np.array(here.shape[1::-1], float)
    edges = laid.scale * np.stack([0 * size, size]) + laid.shift  # (2, 2) of the one in the other
    for number, step in enumerate(steps):
        lacks = wanted[0] - best[0]
        # what is not the same stays far from it, however it is moved
        if lacks > _ALMOST * (1 - number / len(steps)) or (lacks <= 0 and best[1] >= wanted[1]):
            break
        for move, axis, sign in itertools.product(_MOVES, (0, 1), (-1, 1)):
            moved = edges.copy()
            moved[:, axis] += sign * step * size.max() * np.array(move)
            scale = (moved[1] - moved[0]) / size
            found = agreement(here, there, Laid(scale, moved[0]))
            if found > best:
                best, edges = found, moved
    return best


def agreement(here: np.ndarray, there: np.ndarray, laid: Laid) -> tuple[float, float]:
    """How well pictures (H, W, 3) laid so agree: correlation of all, and of the worst pieces but
    one; 0 where too little of them lies on each other.
    """
    import cv2  # pyright: ignore[reportMissingImports]

    size, wanted = (np.array(p.shape[1::-1], float) for p in (here, there))
    first = np.maximum(-0.5, (-0.5 - laid.shift) / laid.scale)
    last = np.minimum(size - 0.5, (wanted - 0.5 - laid.shift) / laid.scale)
    if (last <= first).any():
        return 0.0, 0.0
    shares = (last - first).prod() / size.prod(), ((last - first) * laid.scale / wanted).prod()
    if min(shares) < _MIN_SHARE or max(shares) < _MIN_LARGER_SHARE:
        return 0.0, 0.0
    step = (last - first) / (2 * _GRID)
    patches = []
    for picture, scale, shift in (
        (here, step, first + step / 2),
        (there, step * laid.scale, laid.scale * (first + step / 2) + laid.shift),
    ):
        matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        drawn = cv2.warpAffine(
            picture, matrix, (2 * _GRID, 2 * _GRID), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        patches.append(reduce(drawn.astype(float), "(h a) (w b) c -> h w c", "mean", a=2, b=2))
    return _compare(*patches)


def _compare(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Correlation of pictures (H, W, 3), and that of their second worst piece."""
    a, b = a - a.mean((0, 1)), b - b.mean((0, 1))
    cut = "(h p) (w q) c -> (h w) (p q c)"
    pieces = [rearrange(x, cut, h=_PIECES, w=_PIECES) for x in (a, b)]
    error = ((pieces[0] - pieces[1]) ** 2).mean(1)
    power = (pieces[0] ** 2).mean(1) + (pieces[1] ** 2).mean(1)
    if power.mean() / 2 < _BLANK**2:  # blank pictures are equal, and say nothing
        return 0.0, 0.0
    total = 1 - error.sum() / power.sum()
    contrast = power.mean() / 2 + _NOISE**2
    local = 1 - error / (0.5 * power + 0.5 * contrast)
    return float(total), float(np.sort(local)[1])
