"""Labellers that are exact algorithms: edges, Canny, palette, statistics, and the mask of a
cut-out's transparency.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from fourm.errors import UserError
from fourm.raw import Raw
from fourm.raw.labels import Labels
from fourm_data_prep.samples import Labeller, Samples

_PALETTE_COLORS = 5
_EDGE_SIGMA = 0.8  # pixels
_CANNY = (100, 200)  # thresholds of hysteresis, of 255
_OPAQUE = 128


def grey(picture: np.ndarray) -> np.ndarray:
    """Brightness in [0, 255], float64 (H, W)."""
    return picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def edges(samples: Samples, spec: Raw) -> list[Any]:
    """Strength of the brightness gradient in [0, 1]: float32 (H, W, 1)."""
    result = []
    for picture in samples.pictures:
        strength = ndimage.gaussian_gradient_magnitude(grey(picture) / 255.0, _EDGE_SIGMA)
        result.append(np.clip(3.0 * strength, 0.0, 1.0)[..., None].astype(np.float32))
    return result


def canny(samples: Samples, spec: Raw) -> list[Any]:
    """Canny's edges (OpenCV): 0 or 1, float32 (H, W, 1)."""
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("labeller canny needs OpenCV: pip install opencv-python-headless") from None
    marks = [cv2.Canny(grey(p).round().astype(np.uint8), *_CANNY) for p in samples.pictures]
    return [(m[..., None] > 0).astype(np.float32) for m in marks]


def palette(samples: Samples, spec: Raw) -> list[Any]:
    """The main colours of each picture, the most frequent first: lists of [r, g, b]."""
    result = []
    for picture in samples.pictures:
        few = Image.fromarray(picture).quantize(_PALETTE_COLORS, Image.Quantize.MEDIANCUT)
        table = few.getpalette() or []
        counts = sorted(
            ((n, int(i)) for n, i in few.getcolors() or [] if isinstance(i, int)), reverse=True
        )
        result.append([table[3 * i : 3 * i + 3] for _, i in counts])
    return result


def statistics(samples: Samples, spec: Raw) -> list[Any]:
    """Metadata of 4M-21 that follows from the pixels: colourfulness (Hasler and Suesstrunk, 2003),
    brightness, contrast, saturation, entropy.
    """
    result = []
    for picture in samples.pictures:
        r, g, b = (picture[..., i].astype(np.float64) for i in range(3))
        one, two = r - g, 0.5 * (r + g) - b
        light = grey(picture)
        share = np.bincount(light.astype(np.int64).reshape(-1), minlength=256) / light.size
        share = share[share > 0]
        high, low = picture.max(-1).astype(np.float64), picture.min(-1).astype(np.float64)
        result.append(
            {
                "colorfulness": float(
                    np.hypot(one.std(), two.std()) + 0.3 * np.hypot(one.mean(), two.mean())
                ),
                "brightness": float(light.mean()),
                "contrast": float(light.std()),
                "saturation": float((255 * (high - low) / np.maximum(high, 1)).mean()),
                "entropy": float(-(share * np.log2(share)).sum()),
            }
        )
    return result


def alpha(samples: Samples, spec: Raw) -> list[Any]:
    """Class 1 where a cut-out is opaque, class 0 elsewhere; class 1 everywhere for a picture
    without transparency. Labels (H, W).
    """
    if not isinstance(spec, Labels) or len(spec.classes) < 2:
        raise UserError("labeller alpha needs two classes, e.g. classes: [background, object]")
    alphas = samples.alphas or [None] * len(samples.pictures)
    return [
        np.ones(p.shape[:2], np.uint8) if a is None else (a >= _OPAQUE).astype(np.uint8)
        for p, a in zip(samples.pictures, alphas, strict=True)
    ]


LABELLERS: dict[str, Labeller] = {
    "edges": edges,
    "canny": canny,
    "palette": palette,
    "statistics": statistics,
    "alpha": alpha,
}
