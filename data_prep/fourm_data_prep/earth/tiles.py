"""Tiles of a project as arrays, for figures and pictures of maps."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.project import Project
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
        latitude, longitude = np.deg2rad([[t.y for t in self.tiles], [t.x for t in self.tiles]])
        flat = np.cos(latitude)
        return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], -1)

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
    values: dict[str, dict[str, Any]] = {}
    for name in names:
        raw, report = modalities[name].raw, DamageReport()
        values[name] = {}
        for path in shard_paths(project.raw, split, name):
            values[name] |= dict(read_shard(path, raw.read, raw.extensions, report))
    records = json.loads((project.raw / "tiles.json").read_text())[split]
    there = [r for r in records if all(r["key"] in values[name] for name in names)]
    if not there:
        raise UserError(f"no tile of {split} in {project.raw} has all of {', '.join(names)}")
    chosen = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, num).astype(int))]
    tiles = [Tile(**{k: v for k, v in r.items() if k != "key"}) for r in chosen]
    return Tiles(tiles, {name: [v[r["key"]] for r in chosen] for name, v in values.items()})
