"""Tiles out of large images: they show the ground that they say, at the date line too; no tile
touches ground of the other split; what a YAML file asks for is what is cut, and a mistake in it is
a sentence.
"""

import filecmp
import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import yaml
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import import_pictures
from fourm_data_prep.rasters import decoding
from fourm_data_prep.rasters.blocks import Blocks, area_of
from fourm_data_prep.rasters.derived import Cut, coordinates
from fourm_data_prep.rasters.layers import Layers
from fourm_data_prep.rasters.settings import load_rasters
from fourm_data_prep.rasters.surfaces import Globe, Plane, Tile
from fourm_data_prep.rasters.tiling import choose_tiles
from PIL import Image

from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
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


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path)
    write_yaml(tmp_path)
    return tmp_path


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


def run(folder, out="raw", workers=1):
    engine = EngineConfig(workers=workers)
    config = folder / "modalities.yaml"
    import_pictures(folder / "maps.yaml", config, folder / out, engine=engine)


def values(folder, split, name, out="raw"):
    m = ModalitySet.load(folder / "modalities.yaml")[name]
    report, found = DamageReport(), {}
    for path in shard_paths(folder / out, split, name):
        found |= dict(read_shard(path, m.raw.read, m.raw.extensions, report))
    assert not report.entries
    return found


# ---- what a tile shows ---------------------------------------------------------------------------

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


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: str(tile.number))
def test_a_tile_shows_the_ground_that_it_says_also_at_the_date_line(folder, tile):
    _, layers = planned(folder)
    longitude, latitude = middles(tile)
    cos, sin, up = np.moveaxis(layers.layers["rgb"].cut(tile) / 127.5 - 1, -1, 0)
    assert np.abs(cos - np.cos(np.deg2rad(longitude))).max() < 0.02
    assert np.abs(sin - np.sin(np.deg2rad(longitude))).max() < 0.02
    assert np.abs(up - latitude / 90).max() < 0.02
    level = layers.layers["level"].cut(tile)[..., 0]
    # rows at the edge of a shrunk tile weigh pixels on one side only
    assert np.abs(level - (3 * (latitude + 90))).max() < (3.0 if tile.number == 5 else 0.6)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: str(tile.number))
def test_classes_are_the_nearest_pixel_and_never_mixed(folder, tile):
    _, layers = planned(folder)
    stored = np.asarray(Image.open(folder / "cover.png"))
    longitude, latitude = middles(tile)
    slow = np.empty((SIZE, SIZE), int)
    for i in range(SIZE):
        for j in range(SIZE):
            row = int(np.floor(90 - latitude[i, j]))
            column = int(np.floor(longitude[i, j] + 180)) % 360
            slow[i, j] = stored[row, column] == 9
    assert np.array_equal(layers.layers["cover"].cut(tile), slow)


def test_shrinking_averages_over_the_area_and_classes_do_not(folder):
    fine = np.indices((180, 360)).sum(0) % 2 * 200
    Image.fromarray(fine.astype(np.uint8)).convert("RGB").save(folder / "rgb.png")
    _, layers = planned(folder)
    shown = layers.layers["rgb"].cut(Tile(1, 0, 0, 64, 64))
    assert np.abs(shown.astype(int) - 100).max() <= 3


def test_images_that_do_not_cover_the_ground_lack_the_tiles_beyond(folder):
    piece = np.full((10, 20, 3), 9, np.uint8)
    Image.fromarray(piece).save(folder / "rgb.png")
    _, layers = planned(folder, edited(rasters__rgb__extent=[170, 190, 0, 10]))
    layer = layers.layers["rgb"]
    assert layer.cut(Tile(1, -175, 5, 6, 6)).shape == (SIZE, SIZE, 3)  # 185 is -175
    assert layer.cut(Tile(1, 173, 3, 6, 6)) is not None
    for x, y in ((172.9, 5), (188, 5), (180, 7.1), (0, 5)):
        assert layer.cut(Tile(1, x, y, 6, 6)) is None


def test_colours_of_a_legend_become_their_classes(folder):
    longitude, _ = world()
    east = np.where(longitude[..., None] > 0, [255, 0, 10], [0, 3, 0]).astype(np.uint8)
    east[:2] = 77  # in no legend
    Image.fromarray(east).save(folder / "cover.png")
    maps = edited()
    maps["rasters"]["cover"] = {
        "file": "cover.png",
        "colors": {"land": [255, 0, 10], "sea": [0, 3, 0]},
    }
    _, layers = planned(folder, maps)
    assert (layers.layers["cover"].cut(Tile(1, 40, 0, 6, 6)) == 1).all()
    assert (layers.layers["cover"].cut(Tile(1, -40, 0, 6, 6)) == 0).all()
    assert layers.layers["cover"].cut(Tile(1, -40, 87, 6, 6)) is None


@pytest.mark.parametrize("fill", [None, 5.0])
def test_a_tile_without_data_lacks_the_modality_unless_something_is_to_stand_for_it(folder, fill):
    level = np.full((180, 360), 40000, np.uint16)
    level[80:90, 100:110] = 0
    Image.fromarray(level).save(folder / "level.png")
    _, layers = planned(folder, edited(rasters__level__nodata=0, rasters__level__fill=fill))
    layer = layers.layers["level"]
    assert np.allclose(layer.cut(Tile(1, 0, 40, 6, 6)), 399)
    gap = layer.cut(Tile(1, -75, 5, 4, 4))
    assert gap is None if fill is None else np.allclose(gap, 5 * 0.01 - 1)


def test_grey_bands_and_sixteen_bits_are_read_as_the_raw_type_asks(folder):
    longitude, _ = world()
    band = np.full(longitude.shape, 200, np.uint8)
    picture = np.stack([band, band // 2, band // 4, band // 8], -1)
    Image.fromarray(picture).save(folder / "four.png")
    maps = edited(rasters__level__file="four.png", rasters__level__scale=1.0)
    tile = Tile(1, 0, 0, 6, 6)

    def level(maps):
        return planned(folder, maps)[1].layers["level"].cut(tile)

    assert np.allclose(level(maps), 0.299 * 200 + 0.587 * 100 + 0.114 * 50 - 1, atol=0.01)
    assert np.allclose(level(edited(maps, rasters__level__bands=[3])), 24)
    Image.fromarray(np.full((180, 360), 51456, np.uint16)).save(folder / "rgb.png")
    assert (planned(folder)[1].layers["rgb"].cut(tile) == 201).all()


# ---- where tiles lie -----------------------------------------------------------------------------


@pytest.mark.parametrize("natural", [True, False])
def test_no_tile_touches_a_block_of_the_other_split(folder, natural):
    surface = {"type": "globe", "natural": natural}
    given, layers = planned(folder, edited(surface=surface, tiles__train=200, tiles__val=40))
    chosen = choose_tiles(given, layers)
    assert [len(chosen.tiles[name]) for name in ("train", "val")] == [200, 40]
    for name, tiles in chosen.tiles.items():
        for tile in tiles:
            longitude, latitude = middles(tile)
            for x, y in zip(longitude.ravel(), latitude.ravel(), strict=True):
                # by hand: bands of 20 degrees, each of columns of about 20 degrees on the ground
                band = int((90 - y) // 20)
                width = 20 / np.cos(np.deg2rad(80 - 20 * band)) if natural else 20
                num = round(360 / width)
                column = int((x + 180) % 360 // (360 / num))
                assert ((band, column) in chosen.blocks.held_out) == (name == "val")


def test_tiles_are_even_by_area_and_natural_ones_show_equal_areas(folder):
    given, layers = planned(folder, edited(tiles__train=1500, tiles__val=0))
    tiles = choose_tiles(given, layers).tiles["train"]
    heights = np.sort(np.sin(np.deg2rad([tile.y for tile in tiles])))
    steps = (heights - heights[0]) / (heights[-1] - heights[0])
    assert np.abs(steps - np.linspace(0, 1, len(steps))).max() < 0.08
    for tile in tiles:
        assert tile.width * np.cos(np.deg2rad(tile.y)) == pytest.approx(6) and tile.height == 6
    plain = edited(tiles__train=20, surface={"type": "globe", "natural": False})
    assert {tile.width for tile in choose_tiles(*planned(folder, plain)).tiles["train"]} == {6}


def test_conditions_hold_on_every_tile(folder):
    maps = edited(tiles__where={"cover": {"classes": ["sea"], "least": 0.1, "most": 0.6}})
    given, layers = planned(folder, maps)
    chosen = choose_tiles(given, layers)
    for tile in (*chosen.tiles["train"], *chosen.tiles["val"]):
        assert 0.1 <= (layers.layers["cover"].cut(tile) == 0).mean() <= 0.6
    assert chosen.counts["not as asked"]


def test_balanced_blocks_hold_out_about_their_share_of_every_class():
    surface = Globe()

    def counts(block):  # a rare class in one corner of the world
        rare = 400 * (block.x > 90 and abs(block.y) < 40)
        return np.array([4000, rare, 50 * max(0, int(block.y))])

    all_blocks = [(b, c) for b in range(9) for c in range(surface.num_columns(b, 20))]

    def shares(blocks):
        rows = {block: counts(area_of(surface, 20, block)) for block in all_blocks}
        away = sum(rows[b] for b in blocks.held_out)
        return away / sum(rows.values())

    balanced = shares(Blocks.balanced(surface, 20, 0.2, 0, counts))
    plain = [np.abs(shares(Blocks.draw(surface, 20, 0.2, seed)) - 0.2).max() for seed in range(20)]
    assert np.abs(balanced - 0.2).max() < 0.04 < np.median(plain)


def test_a_plane_is_cut_by_pixels_and_nothing_goes_around(folder):
    rows, columns = np.indices((300, 500))
    Image.fromarray((rows * 100 + columns // 5).astype(np.uint16)).save(folder / "level.png")
    Image.fromarray(np.zeros((300, 500, 3), np.uint8)).save(folder / "rgb.png")
    Image.fromarray(np.full((150, 250), 9, np.uint8)).save(folder / "cover.png")  # coarser
    maps = edited(
        surface="plane", split__block=60, rasters__level__scale=1, rasters__level__offset=0
    )
    maps["tiles"] |= {"pixels": SIZE, "of": "rgb", "side": 0}
    given, layers = planned(folder, maps)
    chosen = choose_tiles(given, layers)
    for tile in (*chosen.tiles["train"], *chosen.tiles["val"]):
        assert tile.width == tile.height == SIZE
        assert coordinates(Cut(tile, {}, {})) == pytest.approx([tile.y, tile.x], abs=1e-3)
        assert SIZE / 2 <= tile.x <= 500 - SIZE / 2 and SIZE / 2 <= tile.y <= 300 - SIZE / 2
        level = layers.layers["level"].cut(tile)
        assert np.abs(level.mean() - ((300 - tile.y - 0.5) * 100 + tile.x / 5 - 0.5)).max() < 12
        assert layers.layers["cover"].cut(tile).all()
    assert (
        isinstance(layers.surface, Plane) and layers.layers["rgb"].cut(Tile(0, 3, 9, 8, 8)) is None
    )


# ---- the import ----------------------------------------------------------------------------------


def test_an_import_writes_the_shards_of_every_modality_and_says_where_tiles_lie(folder, capsys):
    write_yaml(folder, edited(rasters__level__missing=0.5, tiles__train=300))
    run(folder)
    places = json.loads((folder / "raw" / "tiles.json").read_text())
    seen = set()
    for split, num in (("train", 300), ("val", 12)):
        keys = [tile["key"] for tile in places[split]]
        assert len(keys) == num and list(values(folder, split, "rgb")) == keys
        for tile in places[split]:
            where = values(folder, split, "where")[tile["key"]] if split == "val" else None
            assert where is None or where == pytest.approx([tile["y"], tile["x"]], abs=1e-3)
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


# ---- GeoTIFFs ------------------------------------------------------------------------------------


def geotiff(path, crs, west=20.0, north=10.0, step=0.5):
    rasterio = pytest.importorskip("rasterio")
    values = np.arange(40 * 60, dtype=np.float32).reshape(40, 60)
    place = rasterio.transform.from_origin(west, north, step, step)
    form = {"driver": "GTiff", "width": 60, "height": 40, "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", crs=crs, transform=place, **form) as dataset:
        dataset.write(values, 1)
    return values


def test_a_geotiff_lies_where_it_says(folder):
    stored = geotiff(folder / "level.tif", "EPSG:4326")
    maps = edited(rasters__level__file="level.tif", rasters__level__scale=1.0)
    maps["rasters"]["level"]["offset"] = 0.0
    layer = planned(folder, maps)[1].layers["level"]
    assert layer.extent == (20.0, 50.0, -10.0, 10.0)
    # 16 pixels of half a degree: those of the file
    assert np.allclose(layer.cut(Tile(1, 30, 0, 8, 8))[..., 0], stored[12:28, 12:28], atol=1e-3)
    assert layer.cut(Tile(1, 23, 0, 8, 8)) is None


def test_a_geotiff_in_metres_or_without_its_reader_is_refused_with_the_way_out(folder, monkeypatch):
    geotiff(folder / "level.tif", "EPSG:3857", 0, 0, 1000)
    with pytest.raises(UserError, match="not in degrees.*EPSG:4326"):
        planned(folder, edited(rasters__level__file="level.tif"))
    monkeypatch.setattr(decoding, "_has_rasterio", lambda: False)
    with pytest.raises(UserError, match=r"fourm\[geo\]"):
        planned(folder, edited(rasters__level__file="level.tif"))


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
