"""Approximate search for galleries of millions: a graph of near neighbours (HNSW, 1603.09320) by
``faiss``, which an extra brings. Exact search (``nearest_rows``) is the reference and the default.

A graph belongs to one space and holds the gallery's vectors of it, so that a search looks at a few
thousand of them instead of all; how many of the exact ones it finds is told by ``fourm index``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.features.spaces import Projection

_LINKS = 32  # of each vector, to its neighbours
_BREADTH = 128  # candidates that are kept while a vector is put in, and the fewest of a search
_BLOCK = 65_536  # vectors put in at once


class Neighbours:
    """Vectors of a space and who is near to whom."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    @staticmethod
    def built(gallery: np.ndarray, side: Projection) -> Neighbours:
        """Of features (G, D), may be memory-mapped; ``side`` leads them into the space."""
        faiss, graph = faiss_library(), None
        for start in range(0, len(gallery), _BLOCK):
            vectors = np.ascontiguousarray(side(gallery[start : start + _BLOCK]), np.float32)
            if graph is None:
                graph = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
                graph.hnsw.efConstruction = _BREADTH
            graph.add(vectors)
        return Neighbours(graph)

    def save(self, path: Path) -> None:
        """In faiss's own format."""
        faiss_library().write_index(self.graph, str(path))

    @staticmethod
    def read(path: Path) -> Neighbours:
        """What ``save`` wrote. Raises UserError for a damaged file."""
        faiss = faiss_library()
        try:
            return Neighbours(faiss.read_index(str(path)))
        except RuntimeError:
            raise UserError(f"{path} is damaged: delete it to search without it") from None

    def nearest(self, queries: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Unit vectors (Q, K) -> rows and cosines (Q, num), nearest first; None where the graph
        leads to fewer than that.
        """
        num = min(num, self.graph.ntotal)
        self.graph.hnsw.efSearch = max(_BREADTH, 2 * num)
        cosines, rows = self.graph.search(np.ascontiguousarray(queries, np.float32), num)
        return None if (rows < 0).any() else (rows, cosines)


def faiss_library() -> Any:
    """``faiss``. Raises UserError where it is not installed."""
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError(
            "a graph of neighbours needs faiss: pip install 'fourm[search]'; without it make the"
            " index anew without --approximate, which searches exactly"
        ) from None
    return faiss
