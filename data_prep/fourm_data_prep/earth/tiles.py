"""Tiles of a project as arrays, for figures and pictures of maps."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.data.shards import DamageReport
from fourm.errors import UserError
from fourm.evaluation.held_out import Column, Shards, read_keys, shared_keys
from fourm.modalities import ModalitySet
from fourm.project.project import Project
from fourm_data_prep.rasters.derived import unit_vectors
from fourm_data_prep.rasters.surfaces import Tile


@dataclass(frozen=True)
class Tiles:
    """Some tiles of one split, each with every modality that is asked for."""

    tiles: list[Tile]
    values: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.tiles)

    def stacked(self, name: str) -> np.ndarray:
        """All values of a modality, (B, ...)."""
        return np.stack(self.values[name])

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors (B, 3) of the middles."""
        return unit_vectors(
            np.array([t.y for t in self.tiles]), np.array([t.x for t in self.tiles])
        )

    def regions(self, side: float = 10.0) -> list[np.ndarray]:
        """Numbers of the tiles of each region, about ``side`` degrees of a side: tiles of one are
        alike, so it is regions that are independent of each other.
        """
        of: dict[tuple[int, int], list[int]] = {}
        for i, tile in enumerate(self.tiles):
            band = math.floor(tile.y / side)
            flat = math.cos(math.radians(side * (band + 0.5)))
            of.setdefault((band, math.floor(tile.x * flat / side)), []).append(i)
        return [np.array(numbers) for _, numbers in sorted(of.items())]


def read_tiles(
    project: Project, modalities: ModalitySet, split: str, names: list[str], num: int
) -> Tiles:
    """Up to ``num`` tiles, spread evenly over those of the split that have all modalities
    ``names``. Raises UserError where there are none.
    """
    columns = _columns(project, modalities, split, names)
    keys = shared_keys(columns, DamageReport())
    chosen = np.unique(np.linspace(0, len(keys) - 1, num).astype(int))
    return read_keyed(project, modalities, split, names, [keys[i] for i in chosen])


def read_keyed(
    project: Project, modalities: ModalitySet, split: str, names: list[str], keys: Sequence[str]
) -> Tiles:
    """The tiles ``keys`` (``<shard>/<key>``) of a split, without those that are damaged."""
    columns = _columns(project, modalities, split, names)
    samples = read_keys(columns, list(keys), DamageReport())
    records = json.loads((project.raw / "tiles.json").read_text())[split]
    tiles = {r["key"]: Tile(**{k: v for k, v in r.items() if k != "key"}) for r in records}
    cut = [tiles[key.rpartition("/")[2]] for key in samples.keys]
    return Tiles(cut, {name: samples.of(name) for name in names})


def _columns(
    project: Project, modalities: ModalitySet, split: str, names: list[str]
) -> dict[str, Column]:
    shards = Shards.find(project.root, split)
    found = {name: shards.raw_of(modalities[name]) for name in names}
    columns = {name: column for name, column in found.items() if column is not None}
    if len(columns) < len(names):
        lacking = ", ".join(name for name in names if name not in columns)
        raise UserError(f"no tile of {split} in {project.raw} has {lacking}")
    return columns
