"""Modalities that follow from a tile and its values: functions ``(Cut) -> value``, named in YAML as
``package.module:function``. None: the tile lacks it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.raw import Raw
from fourm.raw.labels import Labels
from fourm_data_prep.rasters.surfaces import Tile


@dataclass(frozen=True)
class Cut:
    """What is known of a tile: values of all images that have data there, those that the sample
    will lack on purpose too.
    """

    tile: Tile
    values: Mapping[str, Any]
    raws: Mapping[str, Raw]

    def shares(self, name: str) -> dict[str, float]:
        """Share of each class that a class map shows, largest first; nothing where it has no
        data.
        """
        if name not in self.values:
            return {}
        raw = self.raws[name]
        assert isinstance(raw, Labels), f"{name} has no classes"
        counts = np.bincount(self.values[name].ravel(), minlength=len(raw.classes))
        order = np.argsort(-counts, kind="stable")
        shares = counts / counts.sum()
        return {raw.classes[i]: float(shares[i]) for i in order if counts[i]}


def open_derived(name: str) -> Callable[[Cut], Any]:
    """The function of a name. Raises UserError for one that cannot be loaded."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"derived: {name!r} is no package.module:function ({error})") from None


def coordinates(cut: Cut) -> list[float]:
    """The tile's middle: latitude and longitude in degrees, or y and x of a plane."""
    return [round(cut.tile.y, 4), round(cut.tile.x, 4)]


def direction(cut: Cut) -> np.ndarray:
    """The middle of a tile of the globe as the unit vector from the globe's centre, float32 (3,):
    whole, and without a seam at the date line.
    """
    return unit_vectors(np.float64(cut.tile.y), np.float64(cut.tile.x)).astype(np.float32)


def unit_vectors(latitude: np.ndarray | float, longitude: np.ndarray | float) -> np.ndarray:
    """Places in degrees, of any shape -> unit vectors from the globe's centre, (..., 3)."""
    latitude, longitude = np.deg2rad(latitude), np.deg2rad(longitude)
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], -1)
