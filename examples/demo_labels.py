"""Demo scenes with a table of labels, to probe the demo's model with few of them.

    python examples/demo_labels.py runs/scenes
    fourm probe fourm/demo/model runs/scenes --label runs/scenes/labels.csv:shape

Labels are what the renderer saw: ``shape`` and ``colour`` of the solid with the most pixels, where
its middle is seen (``x`` and ``y``, shares of the picture's sides), ``count`` of solids. The
columns ``split`` and ``key`` say which sample a row is of.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from fourm.demo.render import render
from fourm.demo.scenes_to_shards import SHARD_SCENES, VALIDATION_SEED, write_scene_shard
from fourm.demo.world import COLORS, SHAPES, Scenes, make_scenes

SIZE = 64  # pixels of the demo's pictures
SEED = 7  # of a world that the demo's model has not seen
_COUNTED_AT = 32  # pixels that solids are compared at
_COLUMNS = ("shape", "colour", "count", "x", "y")


def labels(scenes: Scenes) -> list[tuple[str, str, int, float, float]]:
    """Shape and colour of each scene's largest solid, how many there are, and where it is."""
    seen = render(scenes, _COUNTED_AT).object
    slots = np.arange(scenes.present.shape[1])
    largest = (seen[..., None] == slots).sum((1, 2)).argmax(1)
    found = []
    for i, k in enumerate(largest):
        y, x = (np.argwhere(seen[i] == k).mean(0) + 0.5) / _COUNTED_AT
        shape, colour = SHAPES[scenes.shape[i, k]], COLORS[scenes.color[i, k]]
        found.append((shape, colour, int(scenes.present[i].sum()), round(x, 4), round(y, 4)))
    return found


def write_scenes(out: Path, num_train: int, num_val: int, seed: int = SEED) -> None:
    """Shards of both splits and ``labels.csv`` of all their scenes."""
    rows = []
    for split, world, num in (("train", seed, num_train), ("val", VALIDATION_SEED + seed, num_val)):
        for number in range(-(-num // SHARD_SCENES)):
            write_scene_shard(out, split, world, number, num, SIZE)
        known = labels(make_scenes(world, np.arange(num)))
        rows += [(split, f"{i:08d}", *row) for i, row in enumerate(known)]
    with open(out / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "key", *_COLUMNS), *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--val", type=int, default=512)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    write_scenes(options.out, options.train, options.val, options.seed)
