"""Tiles laid out on the map of the world, each where it was cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image

from fourm.raw import Raw
from fourm_data_prep.rasters.surfaces import Tile

_PER_DEGREE = 4  # pixels
_NORTH, _SOUTH = 80.0, -60.0
_EMPTY = (226, 230, 236)
_FADED = 0.78  # of a backdrop


def mosaic(
    tiles: Sequence[Tile],
    values: Sequence[np.ndarray],
    raw: Raw,
    behind: PIL.Image.Image | None = None,
) -> PIL.Image.Image:
    """The world with these tiles on it; later ones cover earlier ones, and one that crosses the
    date line is at both ends. ``behind`` is another such world that they are laid on, faded.
    """
    height, width = int((_NORTH - _SOUTH) * _PER_DEGREE), 360 * _PER_DEGREE
    page = PIL.Image.new("RGB", (width, height), _EMPTY)
    if behind is not None:
        page = PIL.Image.blend(behind.convert("L").convert("RGB"), page, _FADED)
    for tile, value in zip(tiles, values, strict=True):
        size = round(tile.width * _PER_DEGREE), round(tile.height * _PER_DEGREE)
        picture = raw.picture(value).convert("RGB").resize(size, PIL.Image.Resampling.BOX)
        left = round((tile.x - tile.width / 2 + 180.0) * _PER_DEGREE) % width
        top = round((_NORTH - tile.y - tile.height / 2) * _PER_DEGREE)
        page.paste(picture, (left, top))
        if left + size[0] > width:
            page.paste(picture, (left - width, top))
    return page
