"""The YAML files of the Earth: which map is which modality, how it is read, and what is cut.

They are written into the project's folder, to be edited there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fourm.files.yaml_files import read_yaml
from fourm.resources import configs_folder
from fourm_data_prep.earth.countries import country_names, draw_countries
from fourm_data_prep.earth.legends import CLIMATE, names

_PIXELS = 64
# stored 0..255 is 0..6,400 m, as peaks and plains of known height show
_METRES = 25.0
_LATITUDES = (-58.0, 78.0)  # without Antarctica, which is one colour

MAPS: dict[str, dict[str, Any]] = {
    "rgb": {"file": "blue_marble.jpg"},
    "relief": {"file": "relief.jpg"},
    "land_cover": {"file": "land_cover.tif", "extent": [-180, 180, -90, 90]},
    "climate": {
        "file": "climate.png",
        "ids": {str(value): name for value, name in enumerate(names(CLIMATE), start=1)},
    },
    "height": {"file": "height.png", "scale": _METRES},
    # red tells lamps from the bluish land
    "night": {"file": "night.jpg", "bands": [0], "scale": round(1 / 255, 8), "missing": 0.15},
    # white of some transparency
    "clouds": {"file": "clouds.png", "bands": [3], "scale": round(1 / 255, 8), "missing": 0.4},
}
DERIVED = {
    "caption": "fourm_data_prep.earth.captions:caption",
    "coordinates": "fourm_data_prep.rasters.derived:coordinates",
    "direction": "fourm_data_prep.rasters.derived:direction",
}


@dataclass(frozen=True)
class Amount:
    """How many tiles of which size."""

    train: int
    val: int
    degrees: float = 5.0
    block: float = 10.0
    share: float = 0.15
    seed: int = 0


def write_maps(source: Path, path: Path, amount: Amount) -> list[str]:
    """``maps.yaml`` for the files in ``source``; returns the modalities whose files are not
    there.
    """
    there = {name: given for name, given in MAPS.items() if (source / given["file"]).is_file()}
    place = Path(os.path.relpath(source, path.parent))
    rasters = {name: {**given, "file": str(place / given["file"])} for name, given in there.items()}
    outlines = source / "countries.geojson"
    if outlines.is_file():
        draw_countries(outlines, source / "countries.png")
        raw = {"type": "labels", "size": _PIXELS, "classes": country_names(outlines)}
        rasters["countries"] = {"file": str(place / "countries.png"), "raw": raw}
    tree = {
        "surface": {"type": "globe", "latitudes": list(_LATITUDES)},
        "tiles": {
            "side": amount.degrees,
            "train": amount.train,
            "val": amount.val,
            "seed": amount.seed,
            "where": {"land_cover": {"classes": ["water"], "most": 0.8}},
        },
        "split": {"block": amount.block, "share": amount.share, "balance": "climate"},
        "derived": DERIVED,
        "rasters": rasters,
    }
    head = "# What `fourm earth` cuts tiles from (keys: docs/data.md); edit and run it again.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100))
    return [name for name in MAPS if name not in there]


def write_modalities(path: Path, lacking: list[str]) -> None:
    """The set of modalities, without those that lack their map."""
    packaged = configs_folder() / "modalities" / "earth.yaml"
    if not lacking:
        path.write_text(packaged.read_text())
        return
    tree = read_yaml(packaged)
    tree["modalities"] = {n: m for n, m in tree["modalities"].items() if n not in lacking}
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100))
