"""Held-out scenes of the demo world, rendered for the occasion, of seeds never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.demo.render import render
from fourm.demo.scenes_to_shards import VALIDATION_SEED, annotate
from fourm.demo.words import Solids
from fourm.demo.world import describe, make_scenes


@dataclass(frozen=True)
class HeldOut:
    """Scenes of one seed with their ground truth."""

    seed: int
    raw: dict[str, list[Any]]
    on_object: np.ndarray  # (S, R, R) bool
    solids: list[Solids]

    def __len__(self) -> int:
        return len(self.solids)

    def first(self, num: int) -> HeldOut:
        """The first ``num`` of the scenes."""
        raw = {name: values[:num] for name, values in self.raw.items()}
        return HeldOut(self.seed, raw, self.on_object[:num], self.solids[:num])


def held_out_scenes(seed: int, num: int, size: int) -> HeldOut:
    """Fresh scenes of a seed that is never a training seed."""
    scenes = make_scenes(VALIDATION_SEED + seed, np.arange(num))
    renders = render(scenes, size)
    solids = [[(color, shape) for _, color, shape in describe(scenes, i)] for i in range(num)]
    return HeldOut(seed, annotate(scenes, renders), renders.object >= 0, solids)
