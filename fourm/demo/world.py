"""Scenes of the demo world: what stands where, seen from where, lit from where.

A scene is a pure function of (seed, index). One or two solids stand on a plain floor; their shapes,
colours, sizes, places and turns vary, and so do the camera (distance, height, field of view), the
light and the tints of floor and sky. Colours within a scene differ, and no solid hides more than a
part of another, so that a caption can be checked against the pixels alone. Units: a solid is about
one unit wide; z is up; the camera looks along +y before its own turn.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from fourm.numbers.rng import CounterRNG

SHAPES = ("cube", "sphere", "cylinder", "cone")
COLORS = ("red", "yellow", "green", "cyan", "blue", "purple")
HUES = np.array([0.0, 50.0, 120.0, 180.0, 222.0, 285.0])  # degrees, one for each colour name
SIZES = ("small", "large")
LARGE_FROM = 0.74  # a solid with at least this half-width is called "large"
MAX_OBJECTS = 2
COUNT_SHARES = (0.4, 0.6)  # scenes with one, two solids
_NUM_LAYOUTS = 48  # candidate layouts drawn for each scene; the first one without overlap is kept

_PALETTE = np.array([colorsys.hsv_to_rgb(hue / 360.0, 1.0, 1.0) for hue in HUES])


@dataclass(frozen=True)
class Scenes:
    """A batch of S scenes with K = MAX_OBJECTS slots each; ``present`` (S, K) says which slots hold
    a solid.
    """

    present: np.ndarray  # (S, K) bool
    shape: np.ndarray  # (S, K) index into SHAPES
    color: np.ndarray  # (S, K) index into COLORS
    half_width: np.ndarray  # (S, K) units
    height: np.ndarray  # (S, K) units
    x: np.ndarray  # (S, K) to the right of the camera's axis
    y: np.ndarray  # (S, K) away from the camera, 0 = where it looks
    yaw: np.ndarray  # (S, K) radians
    albedo: np.ndarray  # (S, K, 3) linear RGB in [0, 1]
    camera_distance: np.ndarray  # (S,)
    camera_elevation: np.ndarray  # (S,) radians above the floor
    camera_zoom: np.ndarray  # (S,) focal length over half the picture's width
    light: np.ndarray  # (S, 3) unit vector towards the light
    floor: np.ndarray  # (S, 3) albedo
    sky: np.ndarray  # (S, 3) colour

    def __len__(self) -> int:
        return len(self.present)

    def select(self, index: np.ndarray | slice) -> Scenes:
        """The scenes of some numbers."""
        return Scenes(**{name: value[index] for name, value in vars(self).items()})


def camera_frame(scenes: Scenes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Eye (S, 3) and the unit vectors right, up, forward (S, 3) of each camera."""
    cos, sin = np.cos(scenes.camera_elevation), np.sin(scenes.camera_elevation)
    zero = np.zeros_like(cos)
    forward = np.stack([zero, cos, -sin], -1)
    up = np.stack([zero, sin, cos], -1)
    right = np.stack([zero + 1.0, zero, zero], -1)
    target = np.array([0.0, 0.0, 0.45])
    return target - forward * scenes.camera_distance[:, None], right, up, forward


def make_scenes(seed: int, index: np.ndarray) -> Scenes:
    """The scenes number ``index`` (S,) of the world ``seed``."""
    rng = CounterRNG(seed, "demo.scene")
    index = np.asarray(index)
    slot = np.arange(MAX_OBJECTS)
    per_object = (index[:, None], slot[None])

    count = 1 + np.searchsorted(np.cumsum(COUNT_SHARES)[:-1], rng.uniform(index, 0))
    shape = rng.integers(0, len(SHAPES) - 1, *per_object, 1)
    color = np.argsort(rng.uniform(index[:, None], np.arange(len(COLORS))[None], 2), axis=1)[
        :, :MAX_OBJECTS
    ]
    half_width = 0.58 + 0.36 * rng.uniform(*per_object, 3)
    # cubes and spheres are as tall as wide, cones taller, cylinders slim like cans: outlines that a
    # person tells apart at 48 px
    stretch = np.where(shape >= 2, 0.9 + 0.35 * rng.uniform(*per_object, 4), 1.0)
    stretch = np.where(shape == 3, stretch * 1.25, np.where(shape == 2, stretch * 1.35, stretch))
    distance = 6.2 + 1.6 * rng.uniform(index, 5)
    elevation = np.deg2rad(24.0 + 16.0 * rng.uniform(index, 6))
    zoom = 2.75 + 0.4 * rng.uniform(index, 7)
    x, y = _place(rng, index, count, half_width, distance, zoom)

    hue = HUES[color] + 14.0 * (rng.uniform(*per_object, 8) - 0.5)
    saturation = 0.78 + 0.2 * rng.uniform(*per_object, 9)
    value = 0.72 + 0.28 * rng.uniform(*per_object, 10)
    azimuth = 2 * np.pi * rng.uniform(index, 11)
    height_of_light = np.deg2rad(40.0 + 25.0 * rng.uniform(index, 12))
    light = np.stack(
        [
            np.cos(azimuth) * np.cos(height_of_light),
            np.sin(azimuth) * np.cos(height_of_light),
            np.sin(height_of_light),
        ],
        -1,
    )
    light[:, 1] = -np.abs(light[:, 1])  # from the camera's side: the faces one sees are lit
    tint = rng.uniform(index[:, None], np.arange(3)[None], 13)
    floor = (0.45 + 0.35 * rng.uniform(index, 14))[:, None] + 0.07 * (tint - 0.5)
    sky = (0.72 + 0.2 * rng.uniform(index, 15))[:, None] + np.array([-0.08, -0.02, 0.06]) * (
        2 * tint[:, :1]
    )
    return Scenes(
        present=slot[None] < count[:, None],
        shape=shape,
        color=color,
        half_width=np.where(shape == 2, 0.8 * half_width, half_width),
        height=2 * half_width * stretch,
        x=x,
        y=y,
        yaw=0.5 * np.pi * rng.uniform(*per_object, 16),
        albedo=_hsv_to_rgb(hue, saturation, value),
        camera_distance=distance,
        camera_elevation=elevation,
        camera_zoom=zoom,
        light=light,
        floor=floor,
        sky=np.clip(sky, 0, 1),
    )


def _place(
    rng: CounterRNG,
    index: np.ndarray,
    count: np.ndarray,
    half_width: np.ndarray,
    distance: np.ndarray,
    zoom: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Places (S, K) on the floor such that solids are whole in the picture and side by side, left
    to right in slot order.
    """
    s, k = half_width.shape
    trial, slot = np.arange(_NUM_LAYOUTS), np.arange(k)
    address = (index[:, None, None], trial[None, :, None], slot[None, None])
    depth = 2.0 * (rng.uniform(*address, 17) - 0.45)
    # the visible width grows with depth, so places further back may lie further out
    in_view = (
        0.97 * (distance[:, None, None] - 0.5 + 0.85 * depth) / zoom[:, None, None]
        - 1.25 * half_width[:, None]
    )
    across = (2 * rng.uniform(*address, 18) - 1.0) * in_view
    there = slot[None] < count[:, None]
    across = np.where(there[:, None], across, np.inf)
    order = np.argsort(across, axis=-1, kind="stable")
    across, depth = np.take_along_axis(across, order, -1), np.take_along_axis(depth, order, -1)
    seen = across / (7.0 + depth)  # direction of sight, roughly
    # sorting gave places to solids of other widths
    fine = ((np.abs(across) < in_view) | ~there[:, None]).all(-1)
    clearance = np.full((s, _NUM_LAYOUTS), np.inf)
    for a in range(k):
        for b in range(a + 1, k):
            both = (there[:, a] & there[:, b])[:, None]
            width = half_width[:, a] + half_width[:, b]
            with np.errstate(invalid="ignore"):
                gap = np.abs(seen[..., a] - seen[..., b]) * 7.0 / width[:, None]
            gap = np.where(both, gap, np.inf)
            clearance = np.minimum(clearance, gap)
            fine &= gap > 0.92
    # no layout is apart: the one least crowded
    chosen = np.where(fine.any(1), fine.argmax(1), clearance.argmax(1))
    rows = np.arange(s)
    return np.where(there, across[rows, chosen], 0.0), depth[rows, chosen]


def _hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Degrees, [0, 1], [0, 1] -> RGB in the last axis."""
    sector = (np.asarray(hue)[..., None] / 60.0 + np.array([5.0, 3.0, 1.0])) % 6.0
    ramp = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    return value[..., None] * (1.0 - saturation[..., None] * ramp)


def describe(scenes: Scenes, i: int) -> list[tuple[str, str, str]]:
    """(size, colour, shape) words of scene i's solids, left to right."""
    return [
        (
            SIZES[int(scenes.half_width[i, k] >= LARGE_FROM)],
            COLORS[scenes.color[i, k]],
            SHAPES[scenes.shape[i, k]],
        )
        for k in range(MAX_OBJECTS)
        if scenes.present[i, k]
    ]


def caption(scenes: Scenes, i: int) -> str:
    """One sentence naming every solid from left to right."""
    return " left of ".join("a " + " ".join(words) for words in describe(scenes, i))
