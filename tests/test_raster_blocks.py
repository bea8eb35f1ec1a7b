"""Where tiles of large images lie: no tile touches ground of the other split; they are even by
area or balanced by class.
"""

import numpy as np
import pytest
from fourm_data_prep.rasters.blocks import Blocks, area_of
from fourm_data_prep.rasters.derived import Cut, coordinates
from fourm_data_prep.rasters.surfaces import Globe, Plane, Tile
from fourm_data_prep.rasters.tiling import choose_tiles
from PIL import Image
from raster_worlds import SIZE, edited, middles, planned, write_images, write_yaml


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path)
    write_yaml(tmp_path)
    return tmp_path


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
