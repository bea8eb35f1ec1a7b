"""A ray caster in numpy: colour, depth, normals and masks of demo scenes, exact and vectorised over
a batch of scenes.

Four solids have closed-form intersections: sphere, turned cube, upright cylinder and cone. Colour
is supersampled 2 x 2 (smooth outlines); depth, normals and object numbers come from the ray through
each pixel's centre, so they are values of a real point. Shading is Lambert with a soft sky term, a
highlight, a cast shadow and a dark contact ring where a solid meets the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm.demo.world import MAX_OBJECTS, Scenes, camera_frame

FAR = 12.0  # depth of the sky, units; everything further is sky too
NEAR = 4.0  # nothing comes closer than this
SKY, FLOOR = -2, -1  # object numbers of what is no solid
_EPS = 1e-4
_CHUNK_RAYS = 1 << 17  # rays traced at once: intermediate arrays stay in the cache


@dataclass(frozen=True)
class Renders:
    """Ground truth of S scenes at R x R pixels."""

    rgb: np.ndarray  # (S, R, R, 3) uint8
    depth: np.ndarray  # (S, R, R) float32, distance along the camera's axis, FAR where there is sky
    # (S, R, R, 3) float32 unit vectors in camera axes (right, up, towards the camera); 0 in the sky
    normal: np.ndarray
    object: np.ndarray  # (S, R, R) int8: SKY, FLOOR or the slot of the solid


def render(scenes: Scenes, size: int) -> Renders:
    """Render every scene at ``size`` x ``size`` pixels."""
    step = max(1, _CHUNK_RAYS // (4 * size * size))
    parts = [
        _render_chunk(scenes.select(slice(i, i + step)), size) for i in range(0, len(scenes), step)
    ]
    return Renders(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("rgb", "depth", "normal", "object")
        )
    )


def _render_chunk(scenes: Scenes, size: int) -> Renders:
    fine = 2 * size
    color, _, _, _ = _trace(scenes, fine, shaded=True)
    color = color.reshape(len(scenes), size, 2, size, 2, 3).mean(axis=(2, 4))
    _, depth, normal, number = _trace(scenes, size, shaded=False)
    shape = (len(scenes), size, size)
    return Renders(
        rgb=(np.clip(color, 0, 1) ** (1 / 1.6) * 255 + 0.5).astype(np.uint8),
        depth=depth.reshape(shape),
        normal=normal.reshape(*shape, 3),
        object=number.reshape(shape),
    )


def _rays(scenes: Scenes, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins (S, 1, 3), directions (S, P, 3) with unit length along the axis, and the axis' share
    of a step (S, P).
    """
    eye, right, up, forward = camera_frame(scenes)
    ticks = (np.arange(size) + 0.5) / size * 2 - 1
    across, down = np.meshgrid(ticks, ticks)
    across, down = across.reshape(1, -1, 1), down.reshape(1, -1, 1)
    direction = (
        scenes.camera_zoom[:, None, None] * forward[:, None]
        + across * right[:, None]
        - down * up[:, None]
    )
    direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    along = (direction * forward[:, None]).sum(-1)
    return eye[:, None].astype(np.float32), direction.astype(np.float32), along.astype(np.float32)


def _trace(
    scenes: Scenes, size: int, shaded: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    origin, direction, along = _rays(scenes, size)
    distance = np.full((*along.shape, MAX_OBJECTS), np.inf, np.float32)
    for slot in range(MAX_OBJECTS):
        distance[..., slot] = _hit_slot(scenes, slot, origin, direction)
    with np.errstate(divide="ignore"):
        to_floor = np.where(
            direction[..., 2] < 0, -origin[..., 2] / direction[..., 2], np.inf
        ).astype(np.float32)
    to_floor[to_floor * along > FAR] = np.inf
    nearest = distance.argmin(-1)
    to_solid = np.take_along_axis(distance, nearest[..., None], -1)[..., 0]
    t = np.minimum(to_solid, to_floor)
    hit = np.isfinite(t)
    number = np.where(to_solid < to_floor, nearest, np.where(hit, FLOOR, SKY)).astype(np.int8)
    depth = np.where(hit, t * along, FAR).astype(np.float32)
    point = origin + direction * np.where(hit, t, 0.0)[..., None]
    normal = _normals(scenes, number, point)
    if shaded:
        return _shade(scenes, number, point, normal, direction), depth, normal, number
    _, right, up, forward = camera_frame(scenes)
    axes = np.stack([right, up, -forward], 1).astype(np.float32)  # (S, 3, 3)
    return np.empty(0), depth, np.einsum("spc,sac->spa", normal, axes) * hit[..., None], number


def _hit_slot(scenes: Scenes, slot: int, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Distance (S, P) along each ray to the solid in ``slot``; inf where it misses."""
    result = np.full(direction.shape[:2], np.inf, np.float32)
    for shape, intersect in enumerate((_hit_cube, _hit_sphere, _hit_cylinder, _hit_cone)):
        rows = np.flatnonzero(scenes.present[:, slot] & (scenes.shape[:, slot] == shape))
        if not len(rows):
            continue
        foot = np.stack([scenes.x[rows, slot], scenes.y[rows, slot], 0 * rows], -1)[:, None].astype(
            np.float32
        )
        width = scenes.half_width[rows, slot, None].astype(np.float32)
        height = scenes.height[rows, slot, None].astype(np.float32)
        start = (origin[rows] if origin.shape[0] > 1 or len(scenes) == 1 else origin) - foot
        ray = direction[rows]
        if shape == 0:
            turn = scenes.yaw[rows, slot, None].astype(np.float32)
            start, ray = _turn(start, -turn), _turn(ray, -turn)
        result[rows] = intersect(start, ray, width, height)
    return result


def _turn(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            cos * vector[..., 0] - sin * vector[..., 1],
            sin * vector[..., 0] + cos * vector[..., 1],
            vector[..., 2],
        ],
        -1,
    )


def _hit_sphere(
    start: np.ndarray, ray: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    z = start[..., 2] - width
    b = start[..., 0] * ray[..., 0] + start[..., 1] * ray[..., 1] + z * ray[..., 2]
    c = start[..., 0] ** 2 + start[..., 1] ** 2 + z**2 - width**2
    inside = b * b - c
    t = -b - np.sqrt(np.maximum(inside, 0))
    return np.where((inside > 0) & (t > _EPS), t, np.inf)


def _hit_cube(
    start: np.ndarray, ray: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    enter, leave = None, None
    for axis, (low, high) in enumerate(((-width, width), (-width, width), (0 * height, height))):
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (
                (low - start[..., axis]) / ray[..., axis],
                (high - start[..., axis]) / ray[..., axis],
            )
        near, far = np.minimum(a, b), np.maximum(a, b)
        enter = near if enter is None else np.maximum(enter, near)
        leave = far if leave is None else np.minimum(leave, far)
    assert enter is not None and leave is not None
    return np.where((enter < leave) & (enter > _EPS), enter, np.inf)


def _hit_quadric(
    start: np.ndarray, ray: np.ndarray, width: np.ndarray, height: np.ndarray, taper: float
) -> np.ndarray:
    """Upright round solid whose radius falls from ``width`` at the floor to ``(1 - taper) * width``
    at the top.
    """
    slope = taper * width / height
    radius_at = width - slope * start[..., 2]
    a = ray[..., 0] ** 2 + ray[..., 1] ** 2 - (slope * ray[..., 2]) ** 2
    b = start[..., 0] * ray[..., 0] + start[..., 1] * ray[..., 1] + slope * ray[..., 2] * radius_at
    c = start[..., 0] ** 2 + start[..., 1] ** 2 - radius_at**2
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    result = np.full(inside.shape, np.inf, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for sign in (1.0, -1.0):
            t = (-b + sign * root) / a
            z = start[..., 2] + t * ray[..., 2]
            result = np.where(
                (inside > 0) & (t > _EPS) & (z >= 0) & (z <= height) & (t < result), t, result
            )
        if taper < 1:  # the flat top
            t = (height - start[..., 2]) / ray[..., 2]
            out = (start[..., 0] + t * ray[..., 0]) ** 2 + (start[..., 1] + t * ray[..., 1]) ** 2
            result = np.where(
                (t > _EPS) & (out < ((1 - taper) * width) ** 2) & (t < result), t, result
            )
    return result


def _hit_cylinder(
    start: np.ndarray, ray: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    return _hit_quadric(start, ray, width, height, taper=0.0)


def _hit_cone(
    start: np.ndarray, ray: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    return _hit_quadric(start, ray, width, height, taper=1.0)


def _normals(scenes: Scenes, number: np.ndarray, point: np.ndarray) -> np.ndarray:
    """World normals (S, P, 3) of the points that belong to ``number``; up on the floor, 0 in the
    sky.
    """
    result = np.zeros(point.shape, np.float32)
    result[number == FLOOR] = (0.0, 0.0, 1.0)
    for slot in range(MAX_OBJECTS):
        scene, pixel = np.nonzero(number == slot)
        foot = np.stack([scenes.x[scene, slot], scenes.y[scene, slot], 0.0 * scene], -1)
        local = point[scene, pixel] - foot
        width, height = scenes.half_width[scene, slot], scenes.height[scene, slot]
        kind = scenes.shape[scene, slot]
        normal = np.zeros((len(scene), 3))
        radial = local[:, :2] / np.maximum(
            np.linalg.norm(local[:, :2], axis=-1, keepdims=True), 1e-6
        )

        cube = kind == 0
        turn = scenes.yaw[scene[cube], slot]
        inner = _turn(local[cube], -turn)
        scaled = np.stack(
            [
                inner[:, 0] / width[cube],
                inner[:, 1] / width[cube],
                2 * inner[:, 2] / height[cube] - 1,
            ],
            -1,
        )
        face = np.abs(scaled).argmax(-1)
        side = np.zeros_like(scaled)
        side[np.arange(len(face)), face] = np.sign(scaled[np.arange(len(face)), face])
        normal[cube] = _turn(side, turn)

        ball = kind == 1
        normal[ball] = (local[ball] - np.array([0, 0, 1.0]) * width[ball, None]) / width[ball, None]
        tube = kind == 2
        top = np.abs(local[:, 2] - height) < 1e-3
        normal[tube] = np.where(
            top[tube, None], np.array([0, 0, 1.0]), np.c_[radial[tube], 0 * radial[tube, :1]]
        )
        cone = kind == 3
        slant = np.c_[radial[cone] * height[cone, None], width[cone, None]]
        normal[cone] = slant / np.linalg.norm(slant, axis=-1, keepdims=True)
        result[scene, pixel] = normal
    return result


def _shade(
    scenes: Scenes, number: np.ndarray, point: np.ndarray, normal: np.ndarray, view: np.ndarray
) -> np.ndarray:
    light = scenes.light.astype(np.float32)[:, None]
    s, p = number.shape
    # (S, K + 1, 3); the floor last
    surfaces = np.concatenate([scenes.albedo, scenes.floor[:, None]], 1)
    albedo = surfaces[np.arange(s)[:, None], np.where(number >= 0, number, MAX_OBJECTS)].astype(
        np.float32
    )
    facing = np.maximum((normal * light).sum(-1), 0.0)

    start = point + normal * 1e-3
    shadow = np.zeros((s, p), bool)
    for slot in range(MAX_OBJECTS):
        shadow |= np.isfinite(_hit_slot(scenes, slot, start, np.broadcast_to(light, view.shape)))
    direct = np.where(shadow, 0.0, facing)

    contact = np.ones((s, p), np.float32)  # floor near a solid sees less sky
    for slot in range(MAX_OBJECTS):
        away = np.hypot(
            point[..., 0] - scenes.x[:, slot, None], point[..., 1] - scenes.y[:, slot, None]
        )
        ring = away / scenes.half_width[:, slot, None]
        near = np.exp(-np.maximum(ring - 0.8, 0.0) * 2.2) * scenes.present[:, slot, None]
        contact *= np.where(number == FLOOR, 1.0 - 0.45 * near, 1.0)
    ambient = (0.42 + 0.13 * normal[..., 2]) * contact
    half = light - view
    half = half / np.linalg.norm(half, axis=-1, keepdims=True)
    gloss = np.where(shadow | (number < 0), 0.0, np.maximum((normal * half).sum(-1), 0.0) ** 24)
    color = albedo * (ambient + 0.62 * direct)[..., None] + 0.28 * gloss[..., None]

    horizon = np.clip((np.linalg.norm(point[..., :2], axis=-1) - 2.5) / 6.0, 0.0, 1.0)[..., None]
    sky = scenes.sky[:, None] * (1.0 - 0.25 * np.clip(view[..., 2:3] * 3 + 0.5, 0, 1))
    floor = (number == FLOOR)[..., None]
    color = np.where(floor, color * (1 - 0.5 * horizon) + 0.5 * horizon * sky, color)
    return np.where((number == SKY)[..., None], sky, color).astype(np.float32)
