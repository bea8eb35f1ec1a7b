"""Maps of the whole globe as images, and the YAML file that asks for tiles of them."""

from copy import deepcopy

import numpy as np
import yaml
from fourm_data_prep.rasters.layers import Layers
from fourm_data_prep.rasters.settings import load_rasters
from fourm_data_prep.rasters.surfaces import Tile
from PIL import Image

from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.modalities import ModalitySet

SIZE = 16
TEXT = {"text": {"type": "text", "vocab_size": 400}}
MODALITIES = {
    "rgb": {"kind": "grid", "raw": {"type": "image", "size": SIZE}},
    "cover": {"kind": "grid", "raw": {"type": "labels", "size": SIZE, "classes": ["sea", "land"]}},
    "level": {"kind": "grid", "raw": {"type": "array", "size": SIZE, "range": [0, 1000]}},
    "where": {"kind": "sequence", "raw": {"type": "numbers", "range": [-180, 180]}},
}
MAPS = {
    "rasters": {
        "rgb": {"file": "rgb.png"},
        "cover": {"file": "cover.png", "ids": {7: "sea", 9: "land"}},
        "level": {"file": "level.png", "scale": 0.01, "offset": -1.0},
    },
    "tiles": {"side": 6, "train": 40, "val": 12, "seed": 3},
    "split": {"block": 20, "share": 0.2},
    "derived": {"where": "fourm_data_prep.rasters.derived:coordinates"},
}


def world():
    """Longitude and latitude (180, 360) of the pixels of maps of one degree."""
    longitude, latitude = np.meshgrid(np.arange(360) - 179.5, 89.5 - np.arange(180))
    return longitude, latitude


def write_images(folder):
    longitude, latitude = world()
    around = np.cos(np.deg2rad(longitude)), np.sin(np.deg2rad(longitude)), latitude / 90
    rgb = np.stack([127.5 + 127.5 * wave for wave in around], -1)
    Image.fromarray(rgb.round().astype(np.uint8)).save(folder / "rgb.png")
    cover = np.where((longitude + latitude) % 40 < 20, 9, 7).astype(np.uint8)
    Image.fromarray(cover).save(folder / "cover.png")
    level = (100 + 300 * (latitude + 90)).astype(np.uint16)
    Image.fromarray(level).save(folder / "level.png")


def write_yaml(folder, maps=None, modalities=None):
    sets = deepcopy(MODALITIES if modalities is None else modalities)
    for m in sets.values():
        patches = {"type": "autoencoder", "levels": [8, 8], "patch_size": 8}
        m["tokenizer"] = "text" if m["kind"] == "sequence" else patches
        if m["kind"] == "sequence":
            m["max_tokens"] = 8
    tree = {"tokenizers": TEXT, "modalities": sets}
    (folder / "modalities.yaml").write_text(yaml.safe_dump(tree))
    (folder / "maps.yaml").write_text(yaml.safe_dump(MAPS if maps is None else maps))


def edited(maps=MAPS, **changes):
    """The YAML tree with changes such as ``tiles__side=3``."""
    tree = deepcopy(maps)
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree


def planned(folder, maps=None, modalities=None):
    write_yaml(folder, maps, modalities)
    given = load_rasters(folder / "maps.yaml", ModalitySet.load(folder / "modalities.yaml"))
    layers = Layers.plan(given, folder / "decoded")
    layers.decode(given, given.settings.rasters)
    return given, layers


def values(folder, split, name, out="raw"):
    m = ModalitySet.load(folder / "modalities.yaml")[name]
    report, found = DamageReport(), {}
    for path in shard_paths(folder / out, split, name):
        found |= dict(read_shard(path, m.raw.read, m.raw.extensions, report))
    assert not report.entries
    return found


TILES = [
    Tile(1, 10.3, 4.1, 6.0, 6.0),
    Tile(2, 179.2, -30.7, 6.98, 6.0),  # over the date line, from the west
    Tile(3, -179.9, 70.2, 17.7, 6.0),  # from the east, three times as wide in degrees as high
    Tile(4, 0.0, 80.0, 34.0, 6.0),
    Tile(5, 100.0, 10.0, 40.0, 40.0),  # coarser than the image
]


def middles(tile):
    """Longitudes and latitudes (SIZE, SIZE) of a tile's pixels."""
    steps = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    return np.meshgrid(tile.x + steps * tile.width, tile.y - steps * tile.height)
