"""A judge of generated pictures that looks at pixels alone: which coloured solids does it see, and
of what outline?

It never asks the model. Saturated pixels are sorted by hue into the six colour names; the pixels of
a colour count as a solid only if nearly all of them hang together; its outline is compared with
outlines taken, in the same way, from real renders of scenes that neither training nor evaluation
uses (kernel ridge regression on a 16 x 16 outline and its proportions).
"""

from __future__ import annotations

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
_RIDGE, _WIDTH = 1e-2, 5.0


@dataclass(frozen=True)
class Seen:
    """One solid that the judge sees."""

    color: str
    shape: str
    area: int  # pixels


class PixelJudge:
    """Sees solids in pictures of one size; made from real renders at that size."""

    def __init__(self, size: int) -> None:
        scenes = make_scenes(_SEED, np.arange(_NUM_REFERENCE))
        pictures = render(scenes, size).rgb
        features, kinds = [], []
        for i, picture in enumerate(pictures):
            shape_of = {color: shape for _, color, shape in describe(scenes, i)}
            for color, piece in _pieces(picture):
                if color in shape_of:
                    features.append(_outline(piece))
                    kinds.append(SHAPES.index(shape_of[color]))
        self._reference = np.stack(features)
        target = np.eye(len(SHAPES))[kinds] - 1.0 / len(SHAPES)
        kernel = self._kernel(self._reference)
        self._weights = np.linalg.solve(kernel + _RIDGE * np.eye(len(kernel)), target)

    def _kernel(self, features: np.ndarray) -> np.ndarray:
        distance = (
            (features**2).sum(1)[:, None]
            + (self._reference**2).sum(1)
            - 2 * features @ self._reference.T
        )
        return np.exp(-distance / (2 * _WIDTH**2))

    def look(self, picture: np.ndarray) -> list[Seen]:
        """Solids in a picture (H, W, 3) uint8."""
        pieces = _pieces(picture)
        if not pieces:
            return []
        scores = self._kernel(np.stack([_outline(piece) for _, piece in pieces])) @ self._weights
        return [
            Seen(color, SHAPES[int(score.argmax())], int(piece.sum()))
            for (color, piece), score in zip(pieces, scores, strict=True)
        ]

    def attribute_accuracy(
        self, pictures: np.ndarray, wanted: list[list[tuple[str, str]]]
    ) -> float:
        """Share of the wanted (colour, shape) solids, over all pictures, that are seen with the
        right colour and outline.
        """
        found = total = 0
        for picture, solids in zip(pictures, wanted, strict=True):
            seen = {(s.color, s.shape) for s in self.look(picture)}
            found += sum(solid in seen for solid in solids)
            total += len(solids)
        return found / max(total, 1)


def _pieces(picture: np.ndarray) -> list[tuple[str, np.ndarray]]:
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


def _outline(mask: np.ndarray) -> np.ndarray:
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
