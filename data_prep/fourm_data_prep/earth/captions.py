"""A sentence for a tile of the Earth, made of what its maps say: ground, climate, height, coast,
latitude, place.

    mostly grassland with some cropland, cold semi-arid climate, high plateau, inland, middle
    latitudes, Mongolia, Eastern Asia

Every clause is true of the tile, whatever modalities the sample itself will lack; a clause whose
map is not there is left out.
"""

from __future__ import annotations

from fourm_data_prep.earth.legends import CLIMATE, LAND_COVER, words
from fourm_data_prep.rasters.derived import Cut

NO_COUNTRY = "no country"
_GROUND, _WEATHER = words(LAND_COVER), words(CLIMATE)
_SOME, _MOST, _ALL = 0.12, 0.5, 0.9  # shares of a tile's land
_ZONES = (  # up to which latitude, north and south of the equator
    (23.4, "tropics", "tropics"),
    (40.0, "northern subtropics", "southern subtropics"),
    (55.0, "northern middle latitudes", "southern middle latitudes"),
    (66.6, "far north", "far south"),
    (90.0, "arctic", "antarctic"),
)
_HIGH, _HILLS, _ROUGH = 2500.0, 500.0, 400.0  # metres; of the middle, and of the spread


def caption(cut: Cut) -> str:
    """The sentence."""
    clauses = (_ground(cut), _climate(cut), _relief(cut), _coast(cut), _zone(cut), _place(cut))
    return ", ".join(clause for clause in clauses if clause)


def _ground(cut: Cut) -> str:
    """Kinds of ground by their shares of the land."""
    there = cut.shares("land_cover")
    land = {name: share for name, share in there.items() if name != "water"}
    total = sum(land.values())
    if not total:
        return "water" if there else ""
    shares = [(share / total, _GROUND[name]) for name, share in land.items()]
    (first, ground), *others = shares
    some = [name for share, name in others[:2] if share >= _SOME]
    begin = "all" if first >= _ALL else "mostly" if first >= _MOST else ""
    line = " ".join(part for part in (begin, ground) if part)
    return line + (f" with some {' and '.join(some)}" if some else "")


def _climate(cut: Cut) -> str:
    there = [name for name in cut.shares("climate") if name != "ocean"]
    return f"{_WEATHER[there[0]]} climate" if there else ""


def _relief(cut: Cut) -> str:
    """Of the land; the sea counts as no height."""
    if "height" not in cut.values:
        return ""
    height = cut.values["height"]
    land = height[height > 0]
    if not land.size:
        return ""
    middle, spread = float(land.mean()), float(land.std())
    if middle >= _HIGH:
        return "high mountains" if spread >= _ROUGH else "high plateau"
    if spread >= _ROUGH:
        return "mountains"
    return "uplands" if middle >= _HILLS else "lowland"


def _coast(cut: Cut) -> str:
    shares = cut.shares("climate")
    if not shares:
        return ""
    sea = shares.get("ocean", 0.0)
    if sea < 0.01:
        lakes = cut.shares("land_cover").get("water", 0.0) >= 0.05
        return "inland with lakes" if lakes else "inland"
    return "islands" if sea > 0.7 else "coast"


def _zone(cut: Cut) -> str:
    return next(
        north if cut.tile.y > 0 else south
        for most, north, south in _ZONES
        if abs(cut.tile.y) <= most
    )


def _place(cut: Cut) -> str:
    """The country with most of the land, and its part of the world."""
    there = [name for name in cut.shares("countries") if name != NO_COUNTRY]
    return there[0] if there else ""
