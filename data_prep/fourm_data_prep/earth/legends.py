"""What the classes of the Earth's maps are called, in words and in colours.

Land cover: the 17 classes of the International Geosphere-Biosphere Programme, as numbered in
MCD12C1. Climate: Köppen-Geiger as Rubel et al. (2017) number them, 31 classes and the ocean.
Colours are those that are usual on such maps.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Class:
    """An entry of a legend: its name in configs, what captions call it, its colour."""

    name: str
    words: str
    color: RGB


LAND_COVER = (
    Class("water", "water", (28, 13, 255)),
    Class("evergreen needleleaf forest", "conifer forest", (5, 69, 10)),
    Class("evergreen broadleaf forest", "evergreen forest", (8, 106, 16)),
    Class("deciduous needleleaf forest", "larch forest", (84, 167, 8)),
    Class("deciduous broadleaf forest", "broadleaf forest", (120, 210, 3)),
    Class("mixed forest", "mixed forest", (0, 153, 0)),
    Class("closed shrubland", "dense shrubland", (198, 176, 68)),
    Class("open shrubland", "open shrubland", (220, 209, 89)),
    Class("woody savanna", "woody savanna", (218, 222, 72)),
    Class("savanna", "savanna", (251, 255, 19)),
    Class("grassland", "grassland", (182, 255, 5)),
    Class("permanent wetland", "wetland", (39, 255, 135)),
    Class("cropland", "cropland", (194, 79, 68)),
    Class("urban", "cities", (165, 165, 165)),
    Class("cropland mosaic", "mixed farmland", (255, 109, 76)),
    Class("snow and ice", "snow and ice", (105, 255, 248)),
    Class("barren", "bare ground", (249, 255, 164)),
)

CLIMATE = (
    Class("Af", "tropical rainforest", (0, 0, 255)),
    Class("Am", "tropical monsoon", (0, 120, 255)),
    Class("As", "dry-summer savanna", (90, 190, 255)),
    Class("Aw", "tropical savanna", (70, 170, 250)),
    Class("BSh", "hot semi-arid", (245, 165, 0)),
    Class("BSk", "cold semi-arid", (255, 220, 100)),
    Class("BWh", "hot desert", (255, 0, 0)),
    Class("BWk", "cold desert", (255, 150, 150)),
    Class("Cfa", "humid subtropical", (200, 255, 80)),
    Class("Cfb", "oceanic", (100, 255, 80)),
    Class("Cfc", "subpolar oceanic", (50, 200, 0)),
    Class("Csa", "hot-summer Mediterranean", (255, 255, 0)),
    Class("Csb", "warm-summer Mediterranean", (200, 200, 0)),
    Class("Csc", "cool-summer Mediterranean", (150, 150, 0)),
    Class("Cwa", "dry-winter subtropical", (150, 255, 150)),
    Class("Cwb", "subtropical highland", (100, 200, 100)),
    Class("Cwc", "cold subtropical highland", (50, 150, 50)),
    Class("Dfa", "hot-summer continental", (0, 255, 255)),
    Class("Dfb", "warm-summer continental", (55, 200, 255)),
    Class("Dfc", "subarctic", (0, 125, 125)),
    Class("Dfd", "severe subarctic", (0, 70, 95)),
    Class("Dsa", "dry hot-summer continental", (255, 0, 255)),
    Class("Dsb", "dry warm-summer continental", (200, 0, 200)),
    Class("Dsc", "dry-summer subarctic", (150, 50, 150)),
    Class("Dsd", "severe dry-summer subarctic", (150, 100, 150)),
    Class("Dwa", "monsoon hot-summer continental", (170, 175, 255)),
    Class("Dwb", "monsoon warm-summer continental", (90, 120, 220)),
    Class("Dwc", "monsoon subarctic", (75, 80, 180)),
    Class("Dwd", "severe monsoon subarctic", (50, 0, 135)),
    Class("EF", "ice cap", (104, 104, 104)),
    Class("ET", "tundra", (178, 178, 178)),
    Class("ocean", "sea", (20, 30, 80)),
)


def names(legend: tuple[Class, ...]) -> tuple[str, ...]:
    """Names in the order of their ids."""
    return tuple(entry.name for entry in legend)


def words(legend: tuple[Class, ...]) -> dict[str, str]:
    """Name in configs -> what captions call it."""
    return {entry.name: entry.words for entry in legend}
