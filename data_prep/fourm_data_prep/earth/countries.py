"""Outlines of countries (GeoJSON) -> a class map, for the names in captions."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

from fourm.errors import UserError
from fourm_data_prep.earth.captions import NO_COUNTRY

_PER_DEGREE = 8  # pixels


def country_names(outlines: Path) -> list[str]:
    """Name and part of the world of each country, "Mongolia, Eastern Asia"; the first is none."""
    return [NO_COUNTRY, *(name for name, _ in _countries(outlines))]


def draw_countries(outlines: Path, out: Path) -> None:
    """A picture of ids on the whole globe. Raises UserError for another kind of file."""
    picture = PIL.Image.new("L", (360 * _PER_DEGREE, 180 * _PER_DEGREE))
    pen = PIL.ImageDraw.Draw(picture)
    for number, (_, polygons) in enumerate(_countries(outlines), start=1):
        for ring, *holes in polygons:
            pen.polygon([_at(*point[:2]) for point in ring], fill=number)
            for hole in holes:
                pen.polygon([_at(*point[:2]) for point in hole], fill=0)
    picture.save(out)


def _at(longitude: float, latitude: float) -> tuple[float, float]:
    return (longitude + 180.0) * _PER_DEGREE, (90.0 - latitude) * _PER_DEGREE


def _countries(outlines: Path) -> list[tuple[str, list[list[list[list[float]]]]]]:
    """(name, polygons), larger countries first: those that lie within them are drawn later."""
    try:
        features = json.loads(outlines.read_text(encoding="utf-8"))["features"]
        found = []
        for feature in features:
            said, shape = feature["properties"], feature["geometry"]
            several = shape["type"] == "MultiPolygon"
            polygons = shape["coordinates"] if several else [shape["coordinates"]]
            found.append((f"{said['ADMIN']}, {said['SUBREGION']}", polygons))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{outlines} holds no outlines of countries") from None
    if len(found) > 254:
        raise UserError(f"{outlines} holds {len(found)} countries; a class map here has 254")
    return sorted(found, key=lambda country: -sum(_area(rings[0]) for rings in country[1]))


def _area(ring: list[list[float]]) -> float:
    """Of a closed ring, in square degrees."""
    sides = pairwise(ring)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in sides)) / 2
