"""Figures of aligned spaces: retrieval over the full gallery by exact search, zero-shot classes.
Approximate search is ``fourm.features.neighbours``.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 4096


class ExactIndex:
    """All inner products, block by block: up to a million rows this is one matrix product."""

    def __init__(self, gallery: np.ndarray) -> None:
        self.gallery = gallery

    def search(self, queries: np.ndarray, num: int) -> np.ndarray:
        """Queries (Q, D) -> numbers of the nearest gallery rows (Q, num), nearest first."""
        num = min(num, len(self.gallery))
        found = []
        for start in range(0, len(queries), _BLOCK):
            scores = queries[start : start + _BLOCK] @ self.gallery.T
            best = np.argpartition(-scores, num - 1, axis=1)[:, :num]
            order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
            found.append(np.take_along_axis(best, order, 1))
        return np.concatenate(found)


def normalized(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) of unit length; rows of zeros stay zeros."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def recall(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
    at: tuple[int, ...] = (1, 5, 10),
) -> dict[str, float]:
    """Share of queries (Q, D) that have an item of their own group among the nearest k of the whole
    gallery (G, D).
    """
    found = ExactIndex(normalized(gallery)).search(normalized(queries), max(at))
    hit = gallery_groups[found] == query_groups[:, None]
    return {f"R@{k}": float(hit[:, :k].any(1).mean()) for k in at}


def zero_shot(vectors: np.ndarray, prompts: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of the nearest of the classes' prompt vectors: (B, D), (C, D) or (C, prompts, D),
    (B,).
    """
    if prompts.ndim == 3:
        prompts = normalized(prompts).mean(1)
    scores = normalized(vectors) @ normalized(prompts).T
    return float((scores.argmax(1) == labels).mean())
