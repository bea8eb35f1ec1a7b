"""Do windows leave seams in maps that are larger than the model?

    python benchmarks/tiled_seams.py runs/earth [--overlap 0.25] [--regions 6]

Regions of 4 x 4 tiles near the equator are cut from the maps of a project that `fourm earth` made,
each target is generated over them with ``pipe.tiled``, and errors within two pixels of where the
set of windows changes are set against errors elsewhere. Exit status 1 where a seam's error is more
than 1.05 times that of the interior.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
from PIL import Image

from fourm import AnyToAnyPipeline
from fourm.pipeline.windows import Windows

_ACROSS, _SIDE, _TILES, _WIDTH, _MOST = 4608, 64, 4, 2, 1.05
# latitude and longitude of north-west corners
_REGIONS = ((10, 15), (20, 75), (0, -70), (-5, 120), (15, -5), (-10, -60), (10, 95), (-10, 20))


def load(source: Path) -> dict[str, np.ndarray]:
    """The whole Earth at the model's scale: 5 degrees are 64 pixels."""
    Image.MAX_IMAGE_PIXELS, size = None, (_ACROSS, _ACROSS // 2)
    rgb = Image.open(source / "blue_marble.jpg").convert("RGB").resize(size, Image.Resampling.BOX)
    land = Image.open(source / "land_cover.tif").resize(size, Image.Resampling.NEAREST)
    height = Image.fromarray(np.asarray(Image.open(source / "height.png"), np.float32))
    metres = np.asarray(height.resize(size, Image.Resampling.BOX)) * 25.0
    return {
        "rgb": np.asarray(rgb),
        "land_cover": np.asarray(land),
        "height": metres.clip(0, 6400).astype(np.float32),
    }


def near_seams(overlap: float, side: int) -> np.ndarray:
    """Mask (H, W) of what lies near the edge of a window."""
    windows = Windows.over((side // 8, side // 8), (8, 8), overlap)
    near = np.zeros(side, bool)
    for edge in {8 * (row + past) for row in windows.rows for past in (0, 8)} - {0, side}:
        near[edge - _WIDTH : edge + _WIDTH] = True
    return near[:, None] | near


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), help="Maps; left out: of the project.")
@click.option("--overlap", default=0.25)
@click.option("--regions", default=len(_REGIONS))
def main(project: Path, source: Path | None, overlap: float, regions: int) -> None:
    """Print errors near seams and elsewhere, and their ratio."""
    pipe = AnyToAnyPipeline.from_pretrained(project / "model")
    maps = load(source or project / "source")
    side = _SIDE * _TILES
    near, worst = near_seams(overlap, side), 0.0
    for inputs, target in ((("rgb",), "land_cover"), (("land_cover", "height"), "rgb")):
        errors = []
        for latitude, longitude in _REGIONS[:regions]:
            top, left = (round(d * _ACROSS / 360) for d in (90 - latitude, longitude + 180))
            cut = {n: m[top : top + side, left : left + side] for n, m in maps.items()}
            made = pipe.tiled({n: cut[n] for n in inputs}, target, overlap=overlap)[target].value
            wrong = made != cut[target] if target == "land_cover" else _squared(made, cut[target])
            errors.append((wrong[near].mean(), wrong[~near].mean()))
        seam, interior = np.mean(errors, axis=0) ** (1.0 if target == "land_cover" else 0.5)
        worst = max(worst, seam / interior)
        print(
            f"{'+'.join(inputs)} -> {target}: {seam:.4g} near seams, {interior:.4g} elsewhere,"
            f" ratio {seam / interior:.3f}"
        )
    sys.exit(worst > _MOST)


def _squared(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.square(made.astype(float) - truth).mean(-1)


if __name__ == "__main__":
    main()
