"""``fourm search``: one query, its nearest samples, a page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.features.index import Index
from fourm.features.rerank import likelihoods, read_directly
from fourm.features.sources import chosen_inputs
from fourm.report import Gallery, Report
from fourm.report.gallery import Cell


@dataclass(frozen=True)
class Hit:
    """A sample that was found."""

    row: int  # of the gallery
    key: str
    score: float  # cosine, or nats of the query given the sample where these were asked for


def search(index: Index, inputs: Mapping[str, Any], top: int, rerank: int = 0) -> list[Hit]:
    """The nearest samples to one query of raw values; of ``rerank`` nearest the likeliest."""
    if not inputs:
        raise UserError("no query: give --caption TEXT or --input NAME=VALUE")
    query = chosen_inputs(index.pipe.modalities, ",".join(inputs))
    first, *others = query
    if rerank and others:
        raise UserError("the likelihood of several modalities together is not known: give one")
    index.space(query)  # refused before anything is encoded
    vectors = index.pipe.encode_features(inputs).vectors.numpy()
    near, cosines = index.nearest(query, vectors, max(top, rerank))
    rows, scores = near[0], cosines[0]
    if rerank:
        given = read_directly(index.pipe, index.modality)
        samples = index.samples(rows, given)
        scores = likelihoods(index.pipe, first, inputs[first.name], given, samples)
        order = np.argsort(-scores, kind="stable")
        rows, scores = rows[order], scores[order]
    return [
        Hit(int(row), index.gallery.keys[row], float(score))
        for row, score in zip(rows[:top], scores[:top], strict=True)
    ]


def write_results(index: Index, inputs: Mapping[str, Any], hits: list[Hit], path: Path) -> None:
    """A page of the query and what was found, with all else that is known of these samples."""
    modalities = index.pipe.modalities
    shown = {m.raw_name: m for m in modalities if index.shards.raw_of(m) is not None}
    first = index.modality
    order = [first, *(m for m in shown.values() if m.raw_name != first.raw_name)]
    samples = index.samples(np.array([hit.row for hit in hits]), *order)
    report = Report(f"Search in {first.name}", f"{len(index.gallery)} samples of {index.note.data}")
    query = [(value, modalities[name].raw) for name, value in inputs.items()]
    report.gallery(Gallery("Query", list(inputs), [_cells(query)]))
    rows = []
    for number, hit in enumerate(hits):
        values = [(samples.of(m.name)[number], m.raw) for m in order]
        rows.append([f"{number + 1}: {hit.key} ({hit.score:.3f})", *_cells(values)])
    report.gallery(Gallery("Found", ["sample (score)", *(m.name for m in order)], rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path)


def _cells(values: list[tuple[Any, Any]]) -> list[Cell]:
    return [(raw.accept(value), raw) for value, raw in values]
