"""A space that features of two modalities share: canonical correlation analysis in closed form.

Pooled features of one encoder are no common space by themselves: what they differ in most is the
modality. CCA finds directions of both sides that vary together over paired samples; each direction
counts by the square of its correlation, so that what does not agree does not matter. Ridge and
equal weights are far behind (docs/evaluation.md). Shapes: n pairs, D numbers, K directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from fourm.alignment.retrieval import normalized
from fourm.errors import UserError
from fourm.files.tensor_file import save_tensors

_RIDGE = 1e-2  # of the mean variance, added to each direction's
_FEWEST = 16


@dataclass(frozen=True)
class Projection:
    """One side's way into the space."""

    mean: np.ndarray  # (D,)
    matrix: np.ndarray | None  # (D, K); None = no change but the mean

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(n, D) -> unit vectors (n, K)."""
        moved = np.asarray(vectors, np.float32) - self.mean
        return normalized(moved if self.matrix is None else moved @ self.matrix)


@dataclass(frozen=True)
class Space:
    """Both ways into a space, in which cosines are compared."""

    query: Projection
    gallery: Projection

    @staticmethod
    def same(gallery: np.ndarray) -> Space:
        """Queries of the gallery's own modality need no alignment."""
        side = Projection(np.asarray(gallery, np.float32).mean(0), None)
        return Space(side, side)

    @staticmethod
    def fitted(queries: np.ndarray, gallery: np.ndarray) -> Space:
        """From features of the same samples (n, D_q), (n, D_g). Raises UserError for too few."""
        if len(queries) < _FEWEST:
            raise UserError(f"{len(queries)} pairs are too few to align two modalities with")
        sides = [np.asarray(side, np.float64) for side in (queries, gallery)]
        means = [side.mean(0) for side in sides]
        x, y = (side - mean for side, mean in zip(sides, means, strict=True))
        white_x, white_y = _whitening(x), _whitening(y)
        left, correlation, right = np.linalg.svd(
            white_x.T @ (x.T @ y / len(x)) @ white_y, full_matrices=False
        )
        ways = (white_x @ left * correlation**2, white_y @ right.T * correlation**2)
        return Space(*(_projection(mean, way) for mean, way in zip(means, ways, strict=True)))

    def save(self, path: Path) -> None:
        """As one safetensors file; of a fitted space."""
        assert self.query.matrix is not None and self.gallery.matrix is not None
        tensors = {
            "query.mean": self.query.mean,
            "query.matrix": self.query.matrix,
            "gallery.mean": self.gallery.mean,
            "gallery.matrix": self.gallery.matrix,
        }
        save_tensors(path, {name: torch.from_numpy(t) for name, t in tensors.items()})

    @staticmethod
    def read(path: Path) -> Space:
        """What ``save`` wrote. Raises UserError for a damaged file."""
        try:
            tensors = load_file(path)
            return Space(
                Projection(tensors["query.mean"], tensors["query.matrix"]),
                Projection(tensors["gallery.mean"], tensors["gallery.matrix"]),
            )
        except Exception as error:  # safetensors' own type is not among its public names
            raise UserError(f"{path} cannot be read: {error}; make the index again") from None


def _projection(mean: np.ndarray, matrix: np.ndarray) -> Projection:
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))


def _whitening(centred: np.ndarray) -> np.ndarray:
    """(n, D) -> (D, D): with it all directions vary alike, but those that hardly vary less."""
    variance, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    floor = max(_RIDGE * variance.mean(), 1e-12)
    return directions / np.sqrt(np.maximum(variance, 0) + floor)


def nearest_rows(
    queries: np.ndarray, gallery: np.ndarray, side: Projection, num: int, block: int = 65_536
) -> tuple[np.ndarray, np.ndarray]:
    """The gallery's nearest rows, exactly, with a block of it in memory at a time.

    Args:
        queries: unit vectors of the space (Q, K).
        gallery: features (G, D), may be memory-mapped; ``side`` leads them into the space.

    Returns:
        Numbers (Q, num) and cosines (Q, num), nearest first; of equals the first.
    """
    numbers = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(gallery), block):
        found = queries @ side(gallery[start : start + block]).T
        scores = np.concatenate([scores, found], 1)
        own = np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)
        numbers = np.concatenate([numbers, own], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :num]
        scores = np.take_along_axis(scores, order, 1)
        numbers = np.take_along_axis(numbers, order, 1)
    return numbers, scores
