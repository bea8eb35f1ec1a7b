"""``fourm index``: pooled features of one modality of a split, and for each kind of query a space
that its features share with them, fitted on another split.

A folder holds ``gallery/`` (features), ``space-<query>.safetensors`` and ``index.json``, which says
what was indexed; of an approximate one also ``space-<query>.faiss``, graphs that are searched
instead of all features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fourm.alignment.latents import Latents, open_latents
from fourm.config import ADDED, from_mapping, to_mapping
from fourm.data.shards import DamageReport, write_json_atomic
from fourm.errors import UserError
from fourm.evaluation.held_out import Samples, Shards, read_keys
from fourm.features.neighbours import Neighbours, faiss_library
from fourm.features.opening import open_pipeline
from fourm.features.sources import EncoderSource, chosen_inputs
from fourm.features.spaces import Space, nearest_rows
from fourm.features.write import columns_of, write_features
from fourm.files.formats import FORMAT
from fourm.modalities import Modality
from fourm.pipeline.pipeline import AnyToAnyPipeline

INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class IndexNote:
    """What was indexed."""

    format: int
    model: str
    digest: str
    data: str
    split: str
    modality: str
    fit_split: str
    fit_samples: int
    approximate: bool = field(default=False, metadata=ADDED)  # graphs are searched, not all


@dataclass(frozen=True)
class Index:
    """An index and the model that encodes its queries."""

    folder: Path
    note: IndexNote
    pipe: AnyToAnyPipeline
    gallery: Latents

    @property
    def modality(self) -> Modality:
        """What is searched."""
        return self.pipe.modalities[self.note.modality]

    @cached_property
    def shards(self) -> Shards:
        """Where the samples lie that were indexed."""
        return Shards.find(Path(self.note.data), self.note.split)

    def space(self, query: tuple[Modality, ...]) -> Space:
        """The space of a kind of query. Raises UserError where the index has none."""
        if query == (self.modality,):
            return Space.same(self.gallery.vectors)
        path = self.space_path(query)
        if not path.is_file():
            name = "+".join(m.name for m in query)
            raise UserError(
                f"{self.folder} has no space for {name}: make it with `fourm index … --queries"
                f" {name}`"
            )
        return Space.read(path)

    def space_path(self, query: tuple[Modality, ...]) -> Path:
        """Where the space of a kind of query is kept."""
        return self.folder / f"space-{'+'.join(m.name for m in query)}.safetensors"

    def graph_path(self, query: tuple[Modality, ...]) -> Path:
        """Where the graph of the gallery in a kind of query's space is kept."""
        return self.space_path(query).with_suffix(".faiss")

    def nearest(
        self, query: tuple[Modality, ...], vectors: np.ndarray, num: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pooled features of queries (Q, D) -> rows of the gallery and cosines, (Q, num) each, by
        the graph where the index is an approximate one.
        """
        space = self.space(query)
        path, asked = self.graph_path(query), space.query(vectors)
        found = None
        if self.note.approximate and path.is_file():
            found = Neighbours.read(path).nearest(asked, num)
        return found or nearest_rows(asked, self.gallery.vectors, space.gallery, num)

    def build_graph(self, query: tuple[Modality, ...]) -> None:
        """The graph of a kind of query, where the index is an approximate one."""
        if self.note.approximate:
            graph = Neighbours.built(self.gallery.vectors, self.space(query).gallery)
            graph.save(self.graph_path(query))

    def samples(self, rows: np.ndarray, *modalities: Modality) -> Samples:
        """Values of rows of the gallery. Raises UserError if one cannot be read any more."""
        columns = columns_of(self.shards, modalities)
        keys = [self.gallery.keys[row] for row in rows]
        found = read_keys(columns, keys, DamageReport())
        if len(found) < len(keys):
            raise UserError(f"{self.note.data} has changed since it was indexed: index it again")
        return found


def open_index(folder: Path) -> Index:
    """Open an index. Raises UserError if it is none, or its model has changed."""
    if not (folder / INDEX).is_file():
        raise UserError(f"no index in {folder}: make it with `fourm index`")
    note = from_mapping(IndexNote, json.loads((folder / INDEX).read_text()), str(folder / INDEX))
    pipe, digest = open_pipeline(note.model, folder)
    if digest != note.digest:
        raise UserError(f"{note.model} is another model than the one of {folder}: index again")
    return Index(folder, note, pipe, open_latents(folder / "gallery"))


def make_index(model: str, data: Path, out: Path, note: dict[str, Any]) -> Index:
    """Encode the gallery. ``note``: modality, split, fit_split, fit_samples, approximate."""
    if note["approximate"]:
        faiss_library()  # said before hours of encoding
    pipe, digest = open_pipeline(model, out)
    (m,) = chosen_inputs(pipe.modalities, note["modality"])
    place = str(Path(model).resolve()) if Path(model).exists() else model
    known = IndexNote(format=FORMAT, model=place, digest=digest, data=str(data.resolve()), **note)
    gallery = write_features(EncoderSource(pipe, digest, (m,)), data, known.split, out / "gallery")
    write_json_atomic(out / INDEX, to_mapping(known))
    index = Index(out, known, pipe, gallery)
    index.build_graph((m,))
    return index


def add_queries(index: Index, query: tuple[Modality, ...]) -> Space:
    """Fit the space of a kind of query on samples that have it and the gallery's modality."""
    note = index.note
    pair = []
    for inputs, also in ((query, (index.modality,)), ((index.modality,), query)):
        source = EncoderSource(index.pipe, note.digest, inputs)
        name = "+".join(m.name for m in inputs) + "-with-" + "+".join(m.name for m in also)
        folder = index.folder / "fit" / name
        pair.append(
            write_features(
                source, Path(note.data), note.fit_split, folder, note.fit_samples, also=also
            )
        )
    if pair[0].keys != pair[1].keys:
        raise UserError(f"{note.data}/{note.fit_split} has damaged samples: pairs are not whole")
    space = Space.fitted(pair[0].vectors, pair[1].vectors)
    space.save(index.space_path(query))
    index.build_graph(query)
    return space
