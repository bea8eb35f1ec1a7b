"""Do the fetched maps of the Earth line up? The coast of each beside that of the climate map.

    fourm earth --size smoke && python benchmarks/earth_maps.py runs/earth/source

Land by each map, ten pixels a degree, is shifted by up to three pixels each way; the line says how
much agrees unshifted and where most does. Exit status 1 if that is elsewhere than at no shift.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import PIL.Image

PER_DEGREE = 10
MOST = 3  # pixels
BETWEEN = slice(12 * PER_DEGREE, 148 * PER_DEGREE)  # rows from 78 degrees north to 58 south


def pixels(path: Path) -> np.ndarray:
    """The nearest pixels of a map of the globe at 10 a degree."""
    stored = np.asarray(PIL.Image.open(path))
    rows = (np.arange(180 * PER_DEGREE) + 0.5) / (180 * PER_DEGREE) * stored.shape[0]
    columns = (np.arange(360 * PER_DEGREE) + 0.5) / (360 * PER_DEGREE) * stored.shape[1]
    return stored[rows.astype(int)][:, columns.astype(int)].astype(int)


def land(source: Path) -> dict[str, np.ndarray]:
    """Land by each map, the one to compare with first."""
    relief, rgb = pixels(source / "relief.jpg"), pixels(source / "blue_marble.jpg")
    return {
        "climate": pixels(source / "climate.png") != 32,
        "land_cover": pixels(source / "land_cover.tif") != 0,
        "height": pixels(source / "height.png") > 0,
        "relief": relief[..., 2] <= relief[..., 0] + 15,
        "rgb": rgb[..., 2] <= rgb[..., 0] * 1.3 + 8,
        "countries": pixels(source / "countries.png") > 0,
    }


def main() -> None:
    (_, truth), *others = land(Path(sys.argv[1])).items()
    shifts = [(y, x) for y in range(-MOST, MOST + 1) for x in range(-MOST, MOST + 1)]
    well = True
    for name, there in others:
        agreed = {
            shift: float((np.roll(there, shift, (0, 1)) == truth)[BETWEEN].mean())
            for shift in shifts
        }
        best = max(agreed, key=lambda shift: agreed[shift])
        well &= best == (0, 0)
        print(f"{name:<11} {agreed[0, 0]:.4f} unshifted, {agreed[best]:.4f} at most, at {best}")
    sys.exit(not well)


if __name__ == "__main__":
    main()
