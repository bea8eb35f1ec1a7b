"""Tiles out of large images: they show the ground that they say, at the date line too."""

import numpy as np
import pytest
from fourm_data_prep.rasters import decoding
from fourm_data_prep.rasters.surfaces import Tile
from PIL import Image
from raster_worlds import SIZE, TILES, edited, middles, planned, world, write_images, write_yaml

from fourm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path)
    write_yaml(tmp_path)
    return tmp_path


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
