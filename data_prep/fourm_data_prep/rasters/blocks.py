"""Blocks of the ground that are kept for validation.

Pictures of neighbouring ground are alike, so that tiles drawn at random for validation would be
half known. Whole blocks are held out instead, and no tile touches blocks of both splits. Of each
band of latitude about the same share is held out; where a class map is named to balance by, many
draws are made and that one is kept whose held-out blocks have most nearly their share of every
class, so that no climate, say, is in one of the splits alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fourm.numbers.rng import CounterRNG
from fourm_data_prep.rasters.surfaces import Surface, Tile

SPLITS = ("train", "val")
_DRAWS = 512

Block = tuple[int, int]  # band from the top, column from the left


@dataclass(frozen=True)
class Blocks:
    """Which blocks are held out."""

    surface: Surface
    side: float
    held_out: frozenset[Block]

    @staticmethod
    def draw(surface: Surface, side: float, share: float, seed: int, attempt: int = 0) -> Blocks:
        """Every 1/share-th block, counted through the bands, in random order within each."""
        rng = CounterRNG(seed, "rasters.blocks")
        ordered: list[Block] = []
        for band in range(surface.num_bands(side)):
            columns = np.arange(surface.num_columns(band, side))
            order = np.argsort(rng.uniform(attempt, band, columns), kind="stable")
            ordered += [(band, int(column)) for column in order]
        shift = float(rng.uniform(attempt, 0, 0, 1))
        marks = np.floor(shift + share * np.arange(len(ordered) + 1))
        chosen = np.flatnonzero(np.diff(marks))
        return Blocks(surface, side, frozenset(ordered[k] for k in chosen))

    @staticmethod
    def balanced(
        surface: Surface,
        side: float,
        share: float,
        seed: int,
        counts: Callable[[Tile], np.ndarray | None],
    ) -> Blocks:
        """The best of many draws.

        Args:
            counts: what a block shows -> pixels of each class (V,), or None where no tiles lie.
        """
        found = {block: counts(area_of(surface, side, block)) for block in _all(surface, side)}
        there = {block: of for block, of in found.items() if of is not None}
        classes = np.array(list(there.values()), np.float64)  # (blocks, V)
        total = classes.sum(0)
        weights = np.sqrt(total)

        def unevenness(blocks: Blocks) -> float:
            away = np.array([block in blocks.held_out for block in there])
            return float((weights * np.abs(classes[away].sum(0) / total.clip(1) - share)).sum())

        draws = (Blocks.draw(surface, side, share, seed, k) for k in range(_DRAWS if there else 1))
        return min(draws, key=unevenness) if there else next(draws)

    def split_of(self, tile: Tile) -> str | None:
        """The split that a tile is in; None where it touches blocks of both."""
        away = {block in self.held_out for block in self.surface.blocks_of(tile, self.side)}
        return None if len(away) > 1 else SPLITS[away.pop()]


def area_of(surface: Surface, side: float, block: Block) -> Tile:
    """A block as one large tile."""
    left, right, _, top = surface.extent
    band, column = block
    width = (right - left) / surface.num_columns(band, side)
    return Tile(0, left + (column + 0.5) * width, top - (band + 0.5) * side, width, side)


def _all(surface: Surface, side: float) -> list[Block]:
    return [
        (band, column)
        for band in range(surface.num_bands(side))
        for column in range(surface.num_columns(band, side))
    ]
