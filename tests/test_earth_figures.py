"""Figures of the Earth stand beside predictors that cost nothing, each as good as it can be."""

from __future__ import annotations

import numpy as np
import pytest
from fourm_data_prep.earth.baselines import ColorTable, NearestTiles
from fourm_data_prep.earth.drawn import GOALS as DRAWN_GOALS
from fourm_data_prep.earth.drawn import Pictures, drawn_figures
from fourm_data_prep.earth.every_cell import summary
from fourm_data_prep.earth.mosaic import mosaic
from fourm_data_prep.earth.rivals import cheap_answers
from fourm_data_prep.earth.tasks import TASKS, _jackknife, figures_of
from fourm_data_prep.earth.tiles import Tiles
from fourm_data_prep.rasters.surfaces import Tile

from fourm.evaluation.matrix.figures import Calibration, Cell, Figure, Matrix
from fourm.raw.array import Array
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.raw.numbers import Numbers
from fourm.raw.text import Text


def test_a_colour_table_answers_what_training_pixels_of_that_colour_mostly_were():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 5, (6, 8, 8))
    palette = rng.permutation(256)[:15].reshape(5, 3).astype(np.uint8)
    pictures = palette[classes]
    table = ColorTable.of_classes(pictures, classes, 5)
    assert (table(pictures) == classes).all()
    unseen = np.full((1, 8, 8, 3), 255 - palette[0], np.uint8)
    assert set(table(unseen).ravel()) <= {np.bincount(classes.ravel()).argmax(), *range(5)}
    numbers = ColorTable.of_numbers(pictures, classes * 100.0)
    assert numbers(pictures) == pytest.approx(classes * 100.0)


def test_the_nearest_tiles_are_near_on_the_globe_across_the_date_line():
    places = [(0.0, 179.0), (0.0, 178.0), (0.0, 0.0), (0.0, 2.0)]
    tiles = Tiles([Tile(i, x, y, 5.0, 5.0) for i, (y, x) in enumerate(places)], {})
    maps = np.array([1, 1, 2, 2], np.uint8)[:, None, None] * np.ones((4, 2, 2), np.uint8)
    asked = Tiles([Tile(9, -179.0, 0.0, 5.0, 5.0)], {}).directions
    near = NearestTiles(tiles.directions, maps)
    near_two = NearestTiles(tiles.directions[[0, 1]], maps[[0, 1]])
    assert near_two.classes(asked, 3).tolist() == [[[1, 1], [1, 1]]]
    assert near.numbers(asked) == pytest.approx(np.full((1, 2, 2), 1.5))


def test_figures_are_those_of_the_target_kind_and_tasks_have_names_of_their_own():
    picture = np.zeros((2, 4, 4, 3), np.uint8)
    assert set(figures_of(Image(size=4))(picture, picture)) == {"psnr"}
    assert len({task.name for task in TASKS}) == len(TASKS)


def test_tiles_lie_on_the_map_where_they_were_cut_also_across_the_date_line():
    white = np.full((8, 8, 3), 255, np.uint8)
    tiles = [Tile(0, 0.0, 10.0, 10.0, 10.0), Tile(1, 180.0, -20.0, 10.0, 10.0)]
    world = np.asarray(mosaic(tiles, [white, white], Image(size=8)))
    assert world.shape == (560, 1440, 3)
    middle = world[(80 - 10) * 4, 180 * 4]
    assert (middle == 255).all() and (world[(80 + 20) * 4, [2, 1437]] == 255).all()
    assert (world == 255).all(-1).sum() == 2 * 40 * 40


def test_held_out_tiles_are_laid_on_a_faded_ground():
    white, black = (np.full((8, 8, 3), v, np.uint8) for v in (255, 0))
    ground = mosaic([Tile(0, 50.0, 0.0, 10.0, 10.0)], [black], Image(size=8))
    world = np.asarray(mosaic([Tile(1, 0.0, 0.0, 10.0, 10.0)], [white], Image(size=8), ground))
    assert (world[80 * 4, 180 * 4] == 255).all()
    assert 100 < world[80 * 4, 230 * 4].mean() < 226 and world[2, 2].mean() > 220


def test_rivals_say_what_the_nearest_tiles_and_the_colours_say_and_nothing_more():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (6, 4, 4)).astype(np.uint8)
    palette = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0]], np.uint8)
    train = Tiles(
        [Tile(i, 20.0 * i, 0.0, 5.0, 5.0) for i in range(6)],
        {
            "rgb": list(palette[classes]),
            "cover": list(classes),
            "height": list(classes * np.float32(100.0)),
            "caption": [f"tile {i}" for i in range(6)],
            "coordinates": [[0.0, 20.0 * i] for i in range(6)],
        },
    )
    asked = Tiles([Tile(9, 41.0, 0.0, 5.0, 5.0)], {"rgb": [palette[classes[4]]]})
    cover, height = Labels(size=4, classes=("a", "b", "c")), Array(size=4, range=(0.0, 300.0))
    with_colors = cheap_answers(train, asked, "cover", cover, True)
    assert (with_colors["colour table"][0] == classes[4]).all()
    assert set(cheap_answers(train, asked, "cover", cover, False)) == {"nearest tiles"}
    heights = cheap_answers(train, asked, "height", height, True)
    assert heights["colour table"][0] == pytest.approx(classes[4] * 100.0)
    assert heights["nearest tiles"][0] == pytest.approx(classes.mean(0) * 100.0)  # all six are near
    said = cheap_answers(train, asked, "caption", Text(), True)
    assert said == {"nearest tiles": ["tile 2"]}
    assert cheap_answers(train, asked, "coordinates", Numbers(range=(-180.0, 180.0)), True) == {}


def test_what_is_told_of_the_matrix_are_the_cells_whose_one_answer_is_not_better():
    good, bad = (Figure(value=v, better=b) for v, b in ((0.7, True), (0.2, False)))
    sure = Calibration(error=0.0, bins=())
    cells = [
        Cell(
            condition=name,
            given=(name,),
            target="cover",
            cross_entropy=good,
            calibration=sure,
            answer={"accuracy": figure},
            better_answer=figure.better,
        )
        for name, figure in (("rgb", good), ("clouds", bad))
    ]
    of = {"num_generations": 0, "damaged": (), "conditions": (), "targets": ()}
    matrix = Matrix(
        model="m", data="d", split="val", seed=0, num_samples=9, cells=tuple(cells), **of
    )
    told = summary(matrix)["every cell"]["share better"]
    assert told["value"] == 0.5 and told["n"] == 9
    assert told["not_better"] == {"clouds->cover": ["accuracy"]}


def test_ratios_of_drawn_pictures_are_one_where_the_drawn_are_what_the_tokenizer_makes():
    class Again(Pictures):
        @property
        def bound(self):
            return {"psnr": 30.0, "deviation": 8.0, "frechet": 4.0, "kernel": 2.0}

        def draw(self, given, seed, options=None):
            return np.full((2, 4, 4, 3), seed, np.uint8)

        def figures(self, pictures):
            return {**self.bound, "frechet": 4.0 + pictures.max()}

    found = drawn_figures(Again(pipe=None, tiles=Tiles([], {})))
    assert set(DRAWN_GOALS) < {(task, metric) for task in found for metric in found[task]}
    one = found["caption->rgb, drawn"]
    assert one["variation"]["value"] == 1.0 and one["variation"]["deviation"] == 0.0
    assert one["distance"]["value"] == pytest.approx(1.25)


def test_the_deviation_of_a_mean_is_that_of_the_means_of_regions():
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 2, 2))
    got = np.repeat(rng.normal(5.0, 1.0, 8), 5)[:, None, None] * np.ones((1, 2, 2))
    regions = [np.arange(5 * i, 5 * i + 5) for i in range(8)]
    found = _jackknife(lambda p, t: {"mean": float((p - t).mean())}, got, truth, regions)
    means = got[::5, 0, 0]
    assert found["mean"] == pytest.approx(np.std(means, ddof=1) / 8**0.5)
    assert _jackknife(lambda p, t: {"mean": 0.0}, got, truth, regions[:1]) == {}


def test_regions_are_as_wide_on_the_ground_wherever_they_lie():
    tiles = Tiles(
        [Tile(i, x, y, 5.0, 5.0) for i, (y, x) in enumerate([(1, 1), (2, 9), (1, 12)])], {}
    )
    assert [list(r) for r in tiles.regions()] == [[0, 1], [2]]
    north = Tiles([Tile(i, x, 65.0, 9.0, 5.0) for i, x in enumerate([1.0, 20.0, 30.0])], {})
    assert [list(r) for r in north.regions()] == [[0, 1], [2]]
