"""How often an index finds the sample that a query is of: recall at 1, 5 and 10 of the whole
gallery of some held-out samples, against chance and against features as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourm.alignment.retrieval import recall
from fourm.features.index import Index
from fourm.features.rerank import likelihoods, read_directly
from fourm.features.sources import EncoderSource, given_values
from fourm.features.spaces import nearest_rows
from fourm.features.write import write_features
from fourm.modalities import Modality
from fourm.progress import progress_bar

AT = (1, 5, 10)


@dataclass(frozen=True)
class Found:
    """Shares of queries whose truth is among the nearest 1, 5, 10 of ``num``. Samples whose query
    is the same text are one truth.
    """

    query: str
    num: int
    chance: dict[str, float]
    raw: dict[str, float]  # cosine of pooled features as they are
    aligned: dict[str, float]
    reranked: dict[str, float] | None = None  # the nearest ``reranked_of`` by likelihood
    reranked_of: int = 0
    # of an approximate index: share of the exact ten nearest of the whole gallery that it finds
    by_graph: float | None = None

    def text(self) -> str:
        """Lines for a terminal, per cent."""
        rows = {"chance": self.chance, "features": self.raw, "aligned": self.aligned}
        if self.reranked is not None:
            rows[f"likelihood of {self.reranked_of}"] = self.reranked
        head = f"{self.query + f', {self.num} samples':<28}" + "".join(f"{f'R@{k}':>8}" for k in AT)
        lines = [
            f"{name:<28}" + "".join(f"{100 * r[f'R@{k}']:>8.1f}" for k in AT)
            for name, r in rows.items()
        ]
        if self.by_graph is not None:
            lines.append(f"the graph finds {100 * self.by_graph:.1f} % of the exact nearest ten")
        return "\n".join([head, *lines])


def judge_queries(index: Index, query: tuple[Modality, ...], num: int, rerank: int = 0) -> Found:
    """Recall of ``num`` samples of the index's split that have the query and what is searched.

    ``rerank``: so many of the nearest are put in order by the query's likelihood, where the query
    is one output of the model.
    """
    name = "+".join(m.name for m in query)
    source = EncoderSource(index.pipe, index.note.digest, query)
    asked = write_features(
        source,
        Path(index.note.data),
        index.note.split,
        index.folder / "judged" / f"{name}-{num}",
        num,
        also=(index.modality,),
    )
    row_of = {key: row for row, key in enumerate(index.gallery.keys)}
    there = np.array([i for i, key in enumerate(asked.keys) if key in row_of])
    rows = np.array([row_of[asked.keys[i]] for i in there])
    vectors = asked.vectors[there]
    gallery, groups = index.gallery.vectors[rows], _groups(index, query, rows)
    space = index.space(query)
    given = space.query(vectors)
    side = space.gallery
    order = None
    if rerank and len(query) == 1 and query[0].output:
        near, _ = nearest_rows(given, gallery, side, min(rerank, len(rows)))
        order = _reranked(index, query[0], rows, near)
    return Found(
        query=f"{name} -> {index.modality.name}",
        num=len(rows),
        chance=_chance(groups),
        raw=recall(vectors, gallery, groups, groups, AT),
        aligned=recall(given, side(gallery), groups, groups, AT),
        reranked=None if order is None else _recall_of(order, groups),
        reranked_of=0 if order is None else order.shape[1],
        by_graph=_found_by_graph(index, query, vectors) if index.note.approximate else None,
    )


def _found_by_graph(index: Index, query: tuple[Modality, ...], vectors: np.ndarray) -> float:
    space = index.space(query)
    exact, _ = nearest_rows(space.query(vectors), index.gallery.vectors, space.gallery, max(AT))
    found, _ = index.nearest(query, vectors, max(AT))
    return float((exact[:, :, None] == found[:, None]).any(2).mean())


def _groups(index: Index, query: tuple[Modality, ...], rows: np.ndarray) -> np.ndarray:
    """An integer for each sample, the same for the same texts."""
    (first, *others) = query
    if others or first.raw.has_picture:
        return np.arange(len(rows))
    values = index.samples(rows, first).raw(first.name)
    if values is None:
        return np.arange(len(rows))
    return np.unique([first.raw.line(value) for value in values], return_inverse=True)[1]


def _reranked(index: Index, wanted: Modality, rows: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Each query's nearest (Q, k) by its likelihood given them."""
    given = read_directly(index.pipe, index.modality)
    queries = given_values(index.samples(rows, wanted), wanted)
    found = []
    for number in progress_bar(iterable=range(len(rows)), desc="likelihood", unit="query"):
        candidates = index.samples(rows[near[number]], given)
        log_p = likelihoods(index.pipe, wanted, queries[number], given, candidates)
        found.append(near[number][np.argsort(-log_p, kind="stable")])
    return np.stack(found)


def _recall_of(order: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    hit = groups[order] == groups[:, None]
    return {f"R@{k}": float(hit[:, :k].any(1).mean()) for k in AT}


def _chance(groups: np.ndarray) -> dict[str, float]:
    """Of a random order: 1 - the chance that k draws without return all miss the query's group."""
    num, own = len(groups), np.bincount(groups)[groups]
    found = {}
    for k in AT:
        draws = np.arange(min(k, num))
        missed = np.clip((num - own[:, None] - draws) / (num - draws), 0, None).prod(1)
        found[f"R@{k}"] = float((1 - missed).mean())
    return found
