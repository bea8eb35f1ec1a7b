"""What a model of the Earth must be better than: predictors made of training tiles alone, asked
where the matrix of ``fourm evaluate`` asks the model.

``nearest tiles`` knows the coordinates alone; ``colour table`` each pixel's colour, where colours
are given. The commonest class and the mean are the matrix's own bound (``constant``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from fourm.modalities import Modality
from fourm.raw import Raw
from fourm.raw.labels import Labels
from fourm.raw.text import Text
from fourm_data_prep.earth.baselines import ColorTable, NearestTiles
from fourm_data_prep.earth.tiles import Tiles

NEAREST, TABLE = "nearest tiles", "colour table"
_COLORS = "rgb"


@dataclass(frozen=True)
class Rivals:
    """Predictors that know training tiles.

    Attributes:
        train: tiles with colours and all targets.
        asked: reads held-out tiles by their keys.
    """

    train: Tiles
    asked: Callable[[Sequence[str]], Tiles]

    @property
    def name(self) -> str:
        """What their answers depend on."""
        return f"{NEAREST} and {TABLE} of {len(self.train)} training tiles"

    def answers(
        self, keys: Sequence[str], given: Sequence[str], target: Modality
    ) -> dict[str, list[Any]]:
        """Of held-out tiles ``keys``; see ``fourm.evaluation.matrix.cells.RivalPredictors``."""
        with_colors = any(name in (_COLORS, "pixels") for name in given)
        return cheap_answers(self.train, self.asked(keys), target.raw_name, target.raw, with_colors)


def cheap_answers(
    train: Tiles, asked: Tiles, target: str, raw: Raw, with_colors: bool
) -> dict[str, list[Any]]:
    """Answers by name for the tiles ``asked``; nothing where places and colours say nothing."""
    known = train.values[target]
    if isinstance(raw, Text):
        nearest = KDTree(train.directions).query(asked.directions)[1]
        return {NEAREST: [known[i] for i in np.atleast_1d(nearest)]}
    if not isinstance(known[0], np.ndarray):
        return {}  # coordinates are what the first predictor is given
    maps = np.stack(known)
    near = NearestTiles(train.directions, maps)
    if isinstance(raw, Labels):
        num = len(raw.classes)
        found = {NEAREST: near.classes(asked.directions, num)}
        if with_colors:
            table = ColorTable.of_classes(train.stacked(_COLORS), maps, num)
            found[TABLE] = table(asked.stacked(_COLORS))
    else:
        found = {NEAREST: near.numbers(asked.directions)}
        if with_colors and maps[0].size == maps[0].shape[0] * maps[0].shape[1]:
            table = ColorTable.of_numbers(
                train.stacked(_COLORS), maps.reshape(len(maps), *maps.shape[1:3])
            )
            found[TABLE] = table(asked.stacked(_COLORS)).reshape(-1, *maps.shape[1:])
    return {name: list(values.astype(maps.dtype)) for name, values in found.items()}
