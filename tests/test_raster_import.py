"""An import of tiles: what a YAML file asks for is what is cut, bytes are a function of it, a
mistake in it is a sentence.
"""

import filecmp
import json
from dataclasses import replace

import numpy as np
import pytest
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import import_pictures
from fourm_data_prep.rasters import decoding
from PIL import Image
from raster_worlds import MAPS, TILES, edited, planned, values, write_images, write_yaml

from fourm.data.shards import shard_paths
from fourm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path)
    write_yaml(tmp_path)
    return tmp_path


def run(folder, out="raw", workers=1):
    engine = EngineConfig(workers=workers)
    config = folder / "modalities.yaml"
    import_pictures(folder / "maps.yaml", config, folder / out, engine=engine)


# ---- the import ----------------------------------------------------------------------------------


def test_an_import_writes_the_shards_of_every_modality_and_says_where_tiles_lie(folder, capsys):
    write_yaml(folder, edited(rasters__level__missing=0.5, tiles__train=300))
    run(folder)
    places = json.loads((folder / "raw" / "tiles.json").read_text())
    seen = set()
    for split, num in (("train", 300), ("val", 12)):
        keys = [tile["key"] for tile in places[split]]
        assert len(keys) == num and list(values(folder, split, "rgb")) == keys
        where = values(folder, split, "where")
        for tile in places[split]:
            assert where[tile["key"]] == pytest.approx([tile["y"], tile["x"]], abs=1e-3)
        seen |= set(keys)
    assert len(seen) == 312  # no key is in both
    assert 0.4 < len(values(folder, "train", "level")) / 300 < 0.6
    assert not (folder / "raw.decoded").exists()
    assert "300 train, 12 val tiles" in capsys.readouterr().out
    run(folder)
    assert "made before" in capsys.readouterr().out


def test_the_bytes_are_a_function_of_yaml_and_seed_alone(folder):
    run(folder, "one")
    run(folder, "two", workers=2)
    files = [p.relative_to(folder / "one") for p in (folder / "one").rglob("*.tar")]
    assert len(files) == 8
    assert all(filecmp.cmp(folder / "one" / f, folder / "two" / f, shallow=False) for f in files)
    write_yaml(folder, edited(tiles__seed=4))
    run(folder, "three")
    assert values(folder, "train", "where", "three") != values(folder, "train", "where", "one")


def test_shards_of_an_earlier_import_with_more_tiles_do_not_stay(folder):
    write_yaml(folder, edited(tiles__train=300))
    run(folder)
    assert len(shard_paths(folder / "raw", "train", "rgb")) == 2
    write_yaml(folder)
    run(folder)
    assert len(shard_paths(folder / "raw", "train", "rgb")) == 1
    assert len(values(folder, "train", "rgb")) == 40


def test_only_windows_of_decoded_images_are_read(folder):
    _, layers = planned(folder)
    layer = layers.layers["rgb"]
    layer.cut(TILES[0])
    assert isinstance(layer._map, np.memmap)
    assert "_map" not in replace(layer).__getstate__()


def test_the_limit_of_pixels_is_ours_for_named_files_and_pillows_stays(folder, monkeypatch):
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow alone would refuse
    planned(folder)
    assert Image.MAX_IMAGE_PIXELS == 100 and before
    monkeypatch.setattr(decoding, "MOST_PIXELS", 1000)
    with pytest.raises(UserError, match="png has 360 x 180 pixels"):
        planned(folder)


# ---- mistakes ------------------------------------------------------------------------------------

MISTAKES = {
    "no file .*nowhere.png": edited(rasters__rgb__file="nowhere.png"),
    "rasters.rbg is no modality of the config; did you mean 'rgb'": edited(
        rasters__rbg={"file": "rgb.png"}
    ),
    "level is made by nothing": edited(
        rasters={name: MAPS["rasters"][name] for name in ("rgb", "cover")}
    ),
    "unknown key 'sid'; did you mean 'side'": edited(tiles__sid=4),
    "missing key 'tiles'": {"rasters": MAPS["rasters"]},
    "'ocean' is no class": edited(rasters__cover__ids={7: "ocean"}),
    "'ocean' is none of sea, land": edited(tiles__where={"cover": {"classes": ["ocean"]}}),
    "rgb: image has no classes": edited(tiles__where={"rgb": {"classes": ["sea"]}}),
    "where.relief: no such raster": edited(tiles__where={"relief": {}}),
    "split.balance: no raster 'covr'; did you mean 'cover'": edited(split__balance="covr"),
    "'no.module:f' is no package.module:function": edited(derived__where="no.module:f"),
    "cannot hold tiles of 6": edited(split__block=5),
    "extent is left, right, bottom, top": edited(rasters__rgb__extent=[180, -180, -90, 90]),
    "missing is a share": edited(rasters__rgb__missing=1.5),
    "give the side of a tile, or its pixels": edited(tiles__pixels=64),
    "latitudes must rise": edited(surface={"type": "globe", "latitudes": [0, 89]}),
    "surface 'sphere' is not one of globe, plane": edited(surface="sphere"),
    "ids and colors are for class maps": edited(rasters__rgb__ids={7: "sea"}),
    "has bands 0..2, not \\[4\\]": edited(rasters__rgb__bands=[4]),
    "rasters.cover is a colour picture": edited(rasters__cover__file="rgb.png"),
    "is no readable image": edited(rasters__rgb__file="modalities.yaml"),
    "only 0 of 40 train tiles were found in": edited(
        tiles__where={"cover": {"classes": ["sea"], "least": 1.0}}, tiles__side=19
    ),
}


def test_a_yaml_file_without_rasters_is_a_sentence(folder):
    with pytest.raises(UserError, match="names no rasters"):
        import_pictures(folder / "modalities.yaml", folder / "modalities.yaml", folder / "raw")


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_a_sentence(folder, said, monkeypatch):
    monkeypatch.setattr("fourm_data_prep.rasters.tiling._MOST_PLACES", 4)
    write_yaml(folder, MISTAKES[said])
    with pytest.raises(UserError, match=said):
        run(folder)


def test_a_truncated_image_is_a_sentence_and_leaves_nothing_half_decoded(folder):
    data = (folder / "rgb.png").read_bytes()
    (folder / "rgb.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="rgb.png cannot be decoded"):
        run(folder)
    assert not list((folder / "raw.decoded").glob("rgb*"))


@pytest.mark.parametrize("name", ["level.tif", "rgb.png"])
def test_a_file_that_is_no_image_is_a_sentence(folder, name):
    (folder / name).write_text("no image")
    with pytest.raises(UserError, match=f"{name} (cannot be decoded|is no readable image)"):
        planned(folder, edited(rasters__level__file=name))
