"""An invented world in the files of the real one, for where nothing can be fetched: tests, CI, a
machine without a network.

Continents are fractal noise. Everything else follows from their height as on the Earth, roughly:
climate from latitude, height and a noise of moisture, ground from climate, colours from ground.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image

from fourm.numbers.rng import CounterRNG
from fourm_data_prep.earth.legends import CLIMATE, LAND_COVER, names

STAND_IN = "stand_in.json"  # marks a folder of invented maps
_LAND = 0.36  # share of the world
_HIGHEST = 6000.0  # metres
_GROUND = np.array([entry.color for entry in LAND_COVER], np.float32)
# what grows where, by climate: the usual ground, and the ground where it is moist
_GROWS = {
    "Af": ("evergreen broadleaf forest", "evergreen broadleaf forest"),
    "Aw": ("savanna", "woody savanna"),
    "BWh": ("barren", "open shrubland"),
    "BSk": ("open shrubland", "grassland"),
    "Cfb": ("cropland", "deciduous broadleaf forest"),
    "Dfb": ("cropland mosaic", "mixed forest"),
    "Dfc": ("grassland", "evergreen needleleaf forest"),
    "ET": ("open shrubland", "permanent wetland"),
    "EF": ("snow and ice", "snow and ice"),
}


def make_world(folder: Path, seed: int = 0, per_degree: int = 4) -> None:
    """All files of the maps but outlines of countries, ``per_degree`` pixels for each degree."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = 180 * per_degree, 360 * per_degree
    ground, moisture, fine, sky = (_noise(shape, seed, k, s) for k, s in enumerate((2, 2, 1, 1.5)))
    ground = ground + 0.12 * fine
    shore = np.quantile(ground, 1.0 - _LAND)
    height = np.clip((ground - shore) / (ground.max() - shore), 0, 1) ** 1.5 * _HIGHEST
    land = ground > shore
    latitude = np.abs(np.linspace(90, -90, shape[0]))[:, None]
    warmth = 30.0 - 0.6 * latitude - height / 200.0 + 2.0 * moisture
    climate = np.where(land, _climate(warmth, moisture), names(CLIMATE).index("ocean"))
    cover = np.where(land, _cover(climate, moisture + 0.5 * fine), 0)
    slope = np.gradient(height, axis=1) / (1.0 + height.std()) * per_degree
    light = np.clip(1.0 - 2.0 * slope, 0.6, 1.3)[..., None]
    colors = (0.6 * _GROUND[cover] + 0.15 * _GROUND[cover].mean(-1, keepdims=True)) * light
    depth = np.clip((shore - ground) * 120.0, 0, 160)[..., None]
    blue = np.array([40, 90, 190], np.float32) - depth * np.array([0.2, 0.4, 0.6])
    heights = (height / 25.0)[..., None] * np.array([1.0, 0.8, 0.6]) + np.array([60, 110, 60])
    towns = (fine > 1.8) & np.isin(cover, [12, 14])
    veil = np.clip(sky * 90.0, 0, 255)
    _save(folder / "blue_marble.jpg", np.where(land[..., None], colors, blue))
    _save(folder / "relief.jpg", np.where(land[..., None], heights * light, blue + 40))
    _save(folder / "land_cover.tif", cover)
    _save(folder / "climate.png", climate + 1)  # numbered from 1 in the file
    _save(folder / "height.png", height / 25.0)
    _save(folder / "night.jpg", np.stack([towns * 230.0, land * 30.0, land * 45.0], -1))
    white = np.full((*shape, 3), 255.0)
    _save(folder / "clouds.png", np.concatenate([white, veil[..., None]], -1))
    (folder / STAND_IN).write_text(json.dumps({"seed": seed, "per_degree": per_degree}))


def _noise(shape: tuple[int, int], seed: int, stream: int, steepness: float) -> np.ndarray:
    """Fractal noise (H, W) of unit deviation that joins at the date line."""
    rng = CounterRNG(seed, "earth.stand_in")
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    spectrum = np.fft.rfft2(rng.normal(rows, columns, stream))
    across = np.fft.rfftfreq(shape[1])[None] * shape[1]
    down = np.fft.fftfreq(shape[0])[:, None] * shape[1]
    strength = np.maximum(np.hypot(across, down), 3.0) ** -steepness
    noise = np.fft.irfft2(spectrum * strength, shape)
    return (noise - noise.mean()) / noise.std()


def _climate(warmth: np.ndarray, moisture: np.ndarray) -> np.ndarray:
    """Ids of climates of the land, from warmth (about mean °C) and moisture (unit deviation)."""
    known = names(CLIMATE)
    dry = moisture < -0.5
    rules = (
        (warmth < -14, "EF"),
        (warmth < -6, "ET"),
        (dry & (warmth > 14), "BWh"),
        (dry, "BSk"),
        (warmth < 1, "Dfc"),
        (warmth < 7, "Dfb"),
        (warmth < 18, "Cfb"),
        (moisture < 0.5, "Aw"),
    )
    conditions = [condition for condition, _ in rules]
    return np.select(conditions, [known.index(name) for _, name in rules], known.index("Af"))


def _cover(climate: np.ndarray, moisture: np.ndarray) -> np.ndarray:
    """Ids of the ground."""
    weather, grounds = names(CLIMATE), names(LAND_COVER)
    table = np.zeros((len(weather), 2), np.int64)
    for name, (usual, moist) in _GROWS.items():
        table[weather.index(name)] = grounds.index(usual), grounds.index(moist)
    return table[climate, (moisture > 0.3).astype(int)]


def _save(path: Path, values: np.ndarray) -> None:
    picture = PIL.Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    picture.save(path, quality=92)  # of JPEGs
