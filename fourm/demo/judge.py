"""Judges of generated pictures that look at pixels alone: which coloured solids do they see?

They never ask the model. Saturated pixels are sorted by hue into the six colour names; the pixels
of a colour count as a solid only if nearly all of them hang together. ``PixelJudge`` compares its
outline with outlines taken, in the same way, from real renders of scenes that neither training nor
evaluation uses (kernel ridge regression on a 16 x 16 outline and its proportions). A deformed cube
still looks more like a cube than like a cone, so ``SolidJudge`` (``solid_judge.py``) sees shading
too, and knows what is no solid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from fourm.demo.render import render
from fourm.demo.world import COLORS, HUES, SHAPES, describe, make_scenes

_SEED = 77_000_077  # world of the judge's own reference scenes
_NUM_REFERENCE = 800
_OUTLINE = 16
_MIN_SATURATION = 0.38
_MIN_AREA = 0.006  # of the picture
_MIN_WHOLE = 0.85  # share of a colour's pixels in one piece
_RIDGE = 1e-2


@dataclass(frozen=True)
class Seen:
    """One solid that the judge sees."""

    color: str
    shape: str
    area: int  # pixels


class Judge:
    """Sees solids in pictures of one size; subclasses say what a coloured piece is."""

    def name_pieces(self, picture: np.ndarray, masks: list[np.ndarray]) -> list[str]:
        """What each piece (H, W) bool of a picture is: a name of ``SHAPES``, or another word."""
        raise NotImplementedError

    def look(self, picture: np.ndarray) -> list[Seen]:
        """Solids in a picture (H, W, 3) uint8."""
        pieces = colored_pieces(picture)
        if not pieces:
            return []
        names = self.name_pieces(picture, [mask for _, mask in pieces])
        return [
            Seen(color, name, int(mask.sum()))
            for (color, mask), name in zip(pieces, names, strict=True)
            if name in SHAPES
        ]

    def attribute_accuracy(
        self, pictures: Iterable[np.ndarray], wanted: Sequence[list[tuple[str, str]]]
    ) -> float:
        """Share of the wanted (colour, shape) solids, over all pictures, that are seen with the
        right colour and shape.
        """
        found = total = 0
        for picture, solids in zip(pictures, wanted, strict=True):
            seen = {(s.color, s.shape) for s in self.look(picture)}
            found += sum(solid in seen for solid in solids)
            total += len(solids)
        return found / max(total, 1)


class PixelJudge(Judge):
    """Knows the outlines of real renders."""

    def __init__(self, size: int) -> None:
        pieces = [
            (outline(mask), SHAPES.index(shape))
            for _, mask, shape in real_pieces(size, _NUM_REFERENCE)
        ]
        features, kinds = zip(*pieces, strict=True)
        self._nearest = KernelRidge(np.stack(features), np.array(kinds), len(SHAPES), width=5.0)

    def name_pieces(self, picture: np.ndarray, masks: list[np.ndarray]) -> list[str]:
        scores = self._nearest(np.stack([outline(mask) for mask in masks]))
        return [SHAPES[i] for i in scores.argmax(1)]


class KernelRidge:
    """Kernel ridge regression onto classes, with a Gaussian kernel."""

    def __init__(
        self, features: np.ndarray, classes: np.ndarray, num_classes: int, width: float
    ) -> None:
        self._reference, self._width = features, width
        target = np.eye(num_classes)[classes] - 1.0 / num_classes
        kernel = self._kernel(features)
        self._weights = np.linalg.solve(kernel + _RIDGE * np.eye(len(kernel)), target)

    def _kernel(self, features: np.ndarray) -> np.ndarray:
        distance = (
            (features**2).sum(1)[:, None]
            + (self._reference**2).sum(1)
            - 2 * features @ self._reference.T
        )
        return np.exp(-distance / (2 * self._width**2))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (n, F) -> scores (n, classes)."""
        return self._kernel(features) @ self._weights


def real_pieces(size: int, num: int) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """(picture, mask, shape) of the solids in renders of the judges' own scenes."""
    scenes = make_scenes(_SEED, np.arange(num))
    for i, picture in enumerate(render(scenes, size).rgb):
        shape_of = {color: shape for _, color, shape in describe(scenes, i)}
        for color, mask in colored_pieces(picture):
            if color in shape_of:
                yield picture, mask, shape_of[color]


def colored_pieces(picture: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(colour, mask) of each colour whose pixels form one piece that is large enough."""
    rgb = picture.astype(np.float32) / 255.0
    high, low = rgb.max(-1), rgb.min(-1)
    spread = high - low
    saturated = (spread > _MIN_SATURATION * np.maximum(high, 0.15)) & (high > 0.12)
    r, g, b = np.moveaxis(rgb, -1, 0)
    safe = np.maximum(spread, 1e-6)
    hue = (
        np.where(
            high == r,
            (g - b) / safe % 6,
            np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4),
        )
        * 60
    )
    apart = np.abs((hue[..., None] - HUES + 180) % 360 - 180)
    name = np.where(saturated, apart.argmin(-1), -1)
    pieces = []
    for c, color in enumerate(COLORS):
        mask = name == c
        area = mask.sum()
        if area < _MIN_AREA * mask.size:
            continue
        labels = np.asarray(ndimage.label(mask)[0])  # type: ignore[index]
        sizes = np.bincount(labels.reshape(-1))[1:]
        if sizes.max() >= _MIN_WHOLE * area:
            pieces.append((color, ndimage.binary_fill_holes(labels == 1 + sizes.argmax())))
    return pieces


def outline(mask: np.ndarray) -> np.ndarray:
    """A mask's bounding box at 16 x 16, its proportions and how full it is: one vector."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = Image.fromarray((crop * 255).astype(np.uint8)).resize(
        (_OUTLINE, _OUTLINE), Image.Resampling.BOX
    )
    proportion = np.log(crop.shape[0] / crop.shape[1])
    return np.concatenate(
        [np.asarray(small, np.float64).reshape(-1) / 255.0, [4.0 * proportion, 4.0 * crop.mean()]]
    )
