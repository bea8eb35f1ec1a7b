"""``fourm import maps.yaml``: raw shards of tiles.

Images are decoded into a folder beside the shards, which is removed at the end; a run that was cut
short finds it again, one that is done decodes nothing. ``tiles.json`` in the folder of the shards
says where each tile lies.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fourm.config import to_mapping
from fourm.data.raw_sets import load_raw
from fourm.data.shards import shard_path, shard_paths, write_json_atomic, write_shard
from fourm.numbers.rng import CounterRNG
from fourm_data_prep.engine import run_step
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.rasters.derived import Cut, open_derived
from fourm_data_prep.rasters.layers import Layers
from fourm_data_prep.rasters.settings import RasterImport, load_rasters
from fourm_data_prep.rasters.surfaces import Tile
from fourm_data_prep.rasters.tiling import Chosen, choose_tiles
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint, stamp

SHARD_TILES = 256


@dataclass(frozen=True)
class RasterStep:
    """Cuts the tiles of each shard and writes a tar for each modality."""

    given: RasterImport
    layers: Layers
    tiles: dict[str, list[Tile]]
    made_from: str
    out: Path
    name: str = "import"

    def described(self) -> dict[str, Any]:
        return {"made_from": self.made_from}

    def jobs(self) -> list[Job]:
        return [
            Job(split, number, self.made_from)
            for split, tiles in self.tiles.items()
            for number in range(-(-len(tiles) // SHARD_TILES))
        ]

    def run(self, job: Job) -> ShardResult:
        tiles = self.tiles[job.split][job.number * SHARD_TILES : (job.number + 1) * SHARD_TILES]
        derived = {name: open_derived(f) for name, f in self.given.settings.derived.items()}
        members: dict[str, list[tuple[str, str, bytes]]] = {name: [] for name in self.given.made}
        for tile in tiles:
            cuts = {name: layer.cut(tile) for name, layer in self.layers.layers.items()}
            there = {name: value for name, value in cuts.items() if value is not None}
            cut = Cut(tile, there, self.given.raws)
            values = there | {name: function(cut) for name, function in derived.items()}
            for name, found in members.items():
                value = values.get(name)
                if value is not None and not self._is_kept_back(name, tile):
                    raw = self.given.raws[name]
                    found.append((tile.key, raw.extensions[0], raw.write(value)))
        outputs = {name: str(shard_path("", job.split, name, job.number)) for name in members}
        for name, found in members.items():
            write_shard(self.out / outputs[name], found)
        return ShardResult(tuple(outputs.values()), len(tiles))

    def _is_kept_back(self, name: str, tile: Tile) -> bool:
        """True where a tile lacks a modality on purpose."""
        raster = self.given.settings.rasters.get(name)
        if raster is None or not raster.missing:
            return False
        rng = CounterRNG(self.given.settings.tiles.seed, f"rasters.missing.{name}")
        return float(rng.uniform(tile.number)) < raster.missing


def import_rasters(
    source: Path, config: Path, out: Path, max_damage: float, engine: EngineConfig
) -> None:
    """Cut and write all tiles, unless they are there.

    Raises UserError for settings that do not fit, damaged images, and too few tiles.
    """
    given = load_rasters(source, load_raw(config))
    for function in given.settings.derived.values():
        open_derived(function)
    made_from = _made_from(given)
    done = out / "done.json"
    if done.is_file() and json.loads(done.read_text()).get("made_from") == made_from:
        print(f"{out}: made before from the same images and settings")
        return
    layers = Layers.plan(given, out.parent / f"{out.name}.decoded")
    layers.decode(given, given.settings.rasters)
    chosen = choose_tiles(given, layers)
    _tell(chosen)
    step = RasterStep(given, layers, chosen.tiles, made_from, out)
    run_step(step, engine, max_damage)
    if engine.shard_range is None:
        _forget_older(step)
        _write_places(chosen, out / "tiles.json")
        layers.forget()
        counts = {split: len(tiles) for split, tiles in chosen.tiles.items()}
        write_json_atomic(done, {**counts, "made_from": made_from})


def _forget_older(step: RasterStep) -> None:
    """Remove the shards beyond the last one, of an import that had more tiles."""
    for split, tiles in step.tiles.items():
        for name in step.given.made:
            for path in shard_paths(step.out, split, name):
                if int(path.stem) * SHARD_TILES >= len(tiles):
                    path.unlink()


def _made_from(given: RasterImport) -> str:
    described = [
        repr(given.settings),
        {name: to_mapping(raw) for name, raw in given.raws.items()},
        given.made,
        [stamp(given.path(name)) for name in given.settings.rasters],
    ]
    return fingerprint(described)


def _tell(chosen: Chosen) -> None:
    counts = ", ".join(f"{len(tiles):,} {split}" for split, tiles in chosen.tiles.items())
    print(
        f"{counts} tiles; of {chosen.counts['tried']:,} places {chosen.counts['between splits']:,}"
        f" were between splits, {chosen.counts['not as asked']:,} over an edge or not as asked;"
        f" {len(chosen.blocks.held_out)} blocks of {chosen.blocks.side:g} are held out",
        flush=True,
    )


def _write_places(chosen: Chosen, path: Path) -> None:
    """Each tile's key, middle and sides, for maps of what a model makes of held-out ground."""
    tiles = {
        split: [{"key": tile.key, **asdict(tile)} for tile in tiles]
        for split, tiles in chosen.tiles.items()
    }
    write_json_atomic(path, {"block": chosen.blocks.side, **tiles})
