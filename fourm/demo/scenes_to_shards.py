"""Demo scenes as ordinary raw shards: rgb, depth, normal, semseg, caption, boxes, through the
writer that users' data goes through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.shards import shard_path, write_shard
from fourm.demo.render import FAR, Renders, render
from fourm.demo.world import COLORS, MAX_OBJECTS, SHAPES, Scenes, caption, make_scenes
from fourm.raw import Raw
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal
from fourm.raw.text import Text

SEMSEG_CLASSES = ("sky", "floor", *SHAPES)
DEPTH_RANGE = (3.0, FAR)
SHARD_SCENES = 512
VALIDATION_SEED = 1_000_003  # added to the world's seed for held-out scenes: no scene is in both


def raw_specs(size: int) -> dict[str, Raw]:
    """Raw form of each modality of the demo world."""
    return {
        "rgb": Image(size=size),
        "depth": Depth(size=size, range=DEPTH_RANGE),
        "normal": Normal(size=size),
        "semseg": Labels(size=size, classes=SEMSEG_CLASSES),
        "caption": Text(),
        "boxes": Boxes(),
    }


def annotate(scenes: Scenes, renders: Renders) -> dict[str, list[Any]]:
    """Raw values of every modality for a batch of scenes."""
    number = renders.object.astype(np.int64)
    flat = number.clip(0).reshape(len(scenes), -1)
    kind = np.take_along_axis(scenes.shape, flat, 1).reshape(number.shape)
    semseg = np.where(number >= 0, kind + 2, number + 2).astype(np.uint8)
    return {
        "rgb": list(renders.rgb),
        "depth": list(renders.depth),
        "normal": list(renders.normal),
        "semseg": list(semseg),
        "caption": [caption(scenes, i) for i in range(len(scenes))],
        "boxes": [boxes(scenes, renders, i) for i in range(len(scenes))],
    }


def boxes(scenes: Scenes, renders: Renders, i: int) -> list[dict[str, Any]]:
    """Box of the visible pixels of each solid of scene i, left to right, corners in [0, 1]."""
    result = []
    size = renders.object.shape[1]
    for slot in range(MAX_OBJECTS):
        rows, columns = np.nonzero(renders.object[i] == slot)
        if not len(rows):
            continue
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        label = f"{COLORS[scenes.color[i, slot]]} {SHAPES[scenes.shape[i, slot]]}"
        result.append({"box": [round(float(c) / size, 4) for c in corners], "label": label})
    return result


def write_scene_shard(
    root: str | Path, split: str, seed: int, number: int, num_scenes: int, size: int
) -> int:
    """Render shard ``number`` of a split (a pure function of its arguments) and write one tar for
    each modality.

    Returns the number of scenes. A shard that is there already is left alone.
    """
    specs = raw_specs(size)
    first = number * SHARD_SCENES
    index = np.arange(first, min(first + SHARD_SCENES, num_scenes))
    paths = {name: shard_path(root, split, name, number) for name in specs}
    if all(path.is_file() for path in paths.values()):
        return len(index)
    scenes = make_scenes(seed, index)
    values = annotate(scenes, render(scenes, size))
    for name, spec in specs.items():
        extension = spec.extensions[0]
        write_shard(
            paths[name],
            (
                (f"{i:08d}", extension, spec.write(v))
                for i, v in zip(index, values[name], strict=True)
            ),
        )
    return len(index)
