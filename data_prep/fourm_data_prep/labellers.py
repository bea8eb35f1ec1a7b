"""Pseudo-labellers: a batch of pictures in, another modality out.

A modality names its labeller in YAML: one of the built-in names, which need no pretrained network; ``depth:``, ``normals:``, ``semseg:``,
``boxes:``, ``caption:`` or ``features:`` and a network (``adapters.py``); or ``package.module:function`` for your own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from fourm.modalities import RawSpec
from fourm_data_prep.adapters import ADAPTERS

Labeller = Callable[[Sequence[np.ndarray], RawSpec], list[Any]]
_PALETTE_COLORS = 5
_EDGE_SIGMA = 0.8  # pixels


def edges(pictures: Sequence[np.ndarray], spec: RawSpec) -> list[Any]:
    """Strength of the brightness gradient in [0, 1]: uint8 (H, W, 3) -> float32 (H, W, 1)."""
    result = []
    for picture in pictures:
        grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255.0
        strength = ndimage.gaussian_gradient_magnitude(grey, _EDGE_SIGMA)
        result.append(np.clip(3.0 * strength, 0.0, 1.0)[..., None].astype(np.float32))
    return result


def palette(pictures: Sequence[np.ndarray], spec: RawSpec) -> list[Any]:
    """The main colours of each picture, the most frequent first: lists of [r, g, b]."""
    result = []
    for picture in pictures:
        few = Image.fromarray(picture).quantize(_PALETTE_COLORS, Image.Quantize.MEDIANCUT)
        table = few.getpalette() or []
        counts = sorted(((n, int(i)) for n, i in few.getcolors() or [] if isinstance(i, int)), reverse=True)
        result.append([table[3 * i : 3 * i + 3] for _, i in counts])
    return result


def statistics(pictures: Sequence[np.ndarray], spec: RawSpec) -> list[Any]:
    """Metadata of 4M-21 that follows from the pixels: colourfulness (Hasler and Suesstrunk, 2003), brightness, contrast, saturation, entropy."""
    result = []
    for picture in pictures:
        r, g, b = (picture[..., i].astype(np.float64) for i in range(3))
        one, two = r - g, 0.5 * (r + g) - b
        grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        share = np.bincount(grey.astype(np.int64).reshape(-1), minlength=256) / grey.size
        share = share[share > 0]
        high, low = picture.max(-1).astype(np.float64), picture.min(-1).astype(np.float64)
        result.append({
            "colorfulness": float(np.hypot(one.std(), two.std()) + 0.3 * np.hypot(one.mean(), two.mean())),
            "brightness": float(grey.mean()), "contrast": float(grey.std()),
            "saturation": float((255 * (high - low) / np.maximum(high, 1)).mean()), "entropy": float(-(share * np.log2(share)).sum()),
        })  # fmt: skip
    return result


BUILT_IN: dict[str, Labeller] = {"edges": edges, "palette": palette, "statistics": statistics}


def open_labeller(name: str) -> Labeller:
    """The labeller of a name. Raises ValueError that lists the built-in ones."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"labeller {name!r} is not one of {', '.join(BUILT_IN)} and not of the form package.module:function")
    if module in ADAPTERS:
        return partial(ADAPTERS[module], attribute)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"labeller {name!r} cannot be loaded: {error}") from None
