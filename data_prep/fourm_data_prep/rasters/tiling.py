"""Where tiles lie: places drawn even by area, each in the split whose blocks it touches, kept where
it is as asked.

A pure function of the YAML and the images: place ``k`` is a function of (seed, k), and the first
ones that pass are taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fourm.errors import UserError
from fourm.numbers.rng import CounterRNG
from fourm.raw import Raw
from fourm.raw.labels import Labels
from fourm_data_prep.rasters.blocks import SPLITS, Blocks
from fourm_data_prep.rasters.layers import Layers
from fourm_data_prep.rasters.settings import Condition, RasterImport
from fourm_data_prep.rasters.surfaces import Surface, Tile

_BLOCKS_A_SIDE = 4  # blocks are so many tiles wide unless the YAML says otherwise
_BATCH = 4096
_MOST_PLACES = 1000  # that are tried for each tile asked for


@dataclass(frozen=True)
class Chosen:
    """Tiles of each split, in the order of their numbers, and what became of the places tried."""

    tiles: dict[str, list[Tile]]
    blocks: Blocks
    counts: Counter[str]


def tile_side(given: RasterImport, layers: Layers) -> float:
    """Units of the surface from the top of a tile to its bottom."""
    tiles = given.settings.tiles
    return tiles.side or tiles.pixels * layers.layers[tiles.of].pixel_height


def choose_tiles(given: RasterImport, layers: Layers) -> Chosen:
    """All tiles of an import. Raises UserError where there are too few."""
    tiles, split = given.settings.tiles, given.settings.split
    side = tile_side(given, layers)
    block = split.block or _BLOCKS_A_SIDE * side
    if block <= side:
        raise UserError(f"blocks of {block:g} cannot hold tiles of {side:g}: make them larger")
    tests = [_Test.of(name, given.raws[name], asked) for name, asked in tiles.where.items()]
    blocks = _draw_blocks(given, layers, block, tests)
    wanted = {"train": tiles.train, "val": tiles.val}
    found: dict[str, list[Tile]] = {name: [] for name in SPLITS}
    counts: Counter[str] = Counter()
    for tile in _places(layers.surface, side, tiles.seed, _MOST_PLACES * sum(wanted.values())):
        if all(len(found[name]) == wanted[name] for name in SPLITS):
            break
        counts["tried"] += 1
        name = blocks.split_of(tile)
        if name is None:
            counts["between splits"] += 1
        elif len(found[name]) < wanted[name]:
            if _is_inside(layers.surface, tile) and _passes(tests, layers, tile):
                found[name].append(tile)
            else:
                counts["not as asked"] += 1
    for name, num in wanted.items():
        if len(found[name]) < num:
            raise UserError(
                f"only {len(found[name])} of {num} {name} tiles were found in {counts['tried']}"
                " places: ask for fewer, loosen tiles.where, or change the blocks"
            )
    return Chosen(found, blocks, counts)


def _draw_blocks(given: RasterImport, layers: Layers, side: float, tests: list[_Test]) -> Blocks:
    split, seed = given.settings.split, given.settings.tiles.seed
    surface, name = layers.surface, split.balance
    if not name:
        return Blocks.draw(surface, side, split.share, seed)
    raw, (low, high) = given.raws[name], surface.middles
    if not isinstance(raw, Labels):
        raise UserError(f"split.balance: {name} ({raw.type_name}) has no classes")

    def counts(block: Tile) -> np.ndarray | None:
        if not low <= block.y <= high or not _passes(tests, layers, block):
            return None
        value = layers.layers[name].cut(block)
        return None if value is None else np.bincount(value.ravel(), minlength=len(raw.classes))

    return Blocks.balanced(surface, side, split.share, seed, counts)


def _places(surface: Surface, side: float, seed: int, most: int) -> Iterator[Tile]:
    rng = CounterRNG(seed, "rasters.places")
    for first in range(0, most, _BATCH):
        numbers = np.arange(first, min(first + _BATCH, most))
        xs, ys = surface.places(rng.uniform(numbers, 0), rng.uniform(numbers, 1))
        for number, x, y in zip(numbers.tolist(), xs.tolist(), ys.tolist(), strict=True):
            yield Tile(number, x, y, side * surface.stretch(y), side)


def _is_inside(surface: Surface, tile: Tile) -> bool:
    left, right, bottom, top = surface.extent
    high = bottom <= tile.y - tile.height / 2 and tile.y + tile.height / 2 <= top
    wide = left <= tile.x - tile.width / 2 and tile.x + tile.width / 2 <= right
    return high and (wide or surface.period > tile.width)


def _passes(tests: list[_Test], layers: Layers, tile: Tile) -> bool:
    return all(test.passes(layers, tile) for test in tests)


@dataclass(frozen=True)
class _Test:
    """A condition on one image."""

    name: str
    ids: tuple[int, ...]
    least: float
    most: float

    @staticmethod
    def of(name: str, raw: Raw, asked: Condition) -> _Test:
        if asked.classes and not isinstance(raw, Labels):
            raise UserError(f"tiles.where.{name}: {raw.type_name} has no classes")
        ids = []
        for of in asked.classes:
            assert isinstance(raw, Labels)
            if of not in raw.classes:
                raise UserError(f"tiles.where.{name}: {of!r} is none of {', '.join(raw.classes)}")
            ids.append(raw.classes.index(of))
        if not 0.0 <= asked.least <= asked.most <= 1.0:
            raise UserError(f"tiles.where.{name}: least and most are shares from 0 to 1")
        return _Test(name, tuple(ids), asked.least, asked.most)

    def passes(self, layers: Layers, tile: Tile) -> bool:
        value = layers.layers[self.name].cut(tile)
        if value is None:
            return False
        share = float(np.isin(value, self.ids).mean()) if self.ids else self.least
        return self.least <= share <= self.most
