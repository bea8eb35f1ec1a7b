"""The second judge: outline *and* shading, and a class of its own for what is no solid.

It is shown real renders and the same renders damaged as a model damages them: bent, with parts of
the picture moved by a token, and cut in two. What looks more like those than like any shape counts
as not there. Measured at 48 px on renders of another seed: it names 98 % of real solids rightly and
rejects 89 % of damaged ones (``tests/test_demo_judges.py`` holds 97 and 80).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

from fourm.demo.judge import Judge, KernelRidge, colored_pieces, outline, real_pieces
from fourm.demo.world import SHAPES

DEFORMED = "deformed"
_NUM_REFERENCE = 1200
_SHADING = 16  # pixels of a side at which shading is compared
_SHADING_WEIGHT = 0.35
_WIDTH = 3.5
_BENEFIT = 0.1  # of the doubt: by how much "deformed" has to lead
_TOKEN = 8  # pixels that a generated token covers

Damage = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


class SolidJudge(Judge):
    """Knows outlines and shading of real renders, and of damaged ones."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)  # what the judge is shown is always the same
        features, classes = [], []
        for i, (picture, mask, shape) in enumerate(real_pieces(size, _NUM_REFERENCE)):
            features.append(_features(picture, mask))
            classes.append(SHAPES.index(shape))
            for damaged, piece in damaged_pieces(rng, picture, mask, i):
                features.append(_features(damaged, piece))
                classes.append(len(SHAPES))
        kinds = len(SHAPES) + 1
        self._nearest = KernelRidge(np.stack(features), np.array(classes), kinds, _WIDTH)

    def name_pieces(self, picture: np.ndarray, masks: list[np.ndarray]) -> list[str]:
        scores = self._nearest(np.stack([_features(picture, mask) for mask in masks]))
        scores[:, -1] -= _BENEFIT
        return [(*SHAPES, DEFORMED)[i] for i in scores.argmax(1)]


def damaged_pieces(
    rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray, number: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A picture damaged in one way (they take turns by ``number``), with the piece that is then
    where the solid was; nothing if that is no piece any more.
    """
    damaged = _DAMAGES[number % len(_DAMAGES)](rng, picture, mask)
    for _, piece in colored_pieces(damaged):
        if (piece & mask).sum() > mask.sum() / 2 and (piece != mask).any():
            yield damaged, piece


def _features(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Outline and proportions, and the brightness inside at 16 x 16, of zero mean."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    value, inside = picture[box].max(-1) / 255.0, mask[box]
    seen = value[inside]
    relative = np.where(inside, (value - seen.mean()) / (seen.std() + 0.03), 0.0)
    shading = Image.fromarray(relative.astype(np.float32)).resize(
        (_SHADING, _SHADING), Image.Resampling.BOX
    )
    return np.concatenate(
        [outline(mask), _SHADING_WEIGHT * np.asarray(shading, np.float64).reshape(-1)]
    )


def _bent(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    size = len(picture)
    shifts = [
        ndimage.gaussian_filter(rng.standard_normal((size, size)), size / 12) for _ in range(2)
    ]
    y, x = np.mgrid[:size, :size]
    places = [at + size / 20 * s / (s.std() + 1e-9) for at, s in zip((y, x), shifts, strict=True)]
    channels = [
        ndimage.map_coordinates(picture[..., c].astype(float), places, order=1, mode="nearest")
        for c in range(3)
    ]
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


def _misplaced(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    damaged = picture.copy()
    places = np.argwhere(mask)
    for _ in range(3):
        to, source = places[rng.integers(len(places), size=2)] // _TOKEN * _TOKEN
        part = picture[source[0] : source[0] + _TOKEN, source[1] : source[1] + _TOKEN]
        damaged[to[0] : to[0] + len(part), to[1] : to[1] + part.shape[1]] = part
    return damaged


def _cut(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(mask.any(1))
    middle = (rows[0] + rows[-1]) // 2
    width = int(mask.any(0).sum())
    damaged = picture.copy()
    shift = max(2, width // 4) * (1 if rng.random() < 0.5 else -1)
    damaged[middle:] = np.roll(picture[middle:], shift, axis=1)
    return damaged


_DAMAGES: tuple[Damage, ...] = (_bent, _misplaced, _cut)
