"""Pseudo-labellers: a batch of pictures in, another modality out.

A modality names its labeller in YAML: one of the built-in names, or ``package.module:function`` for your own. The built-in ones need no
pretrained network.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from fourm.modalities import RawSpec

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


BUILT_IN: dict[str, Labeller] = {"edges": edges, "palette": palette}


def open_labeller(name: str) -> Labeller:
    """The labeller of a name. Raises ValueError that lists the built-in ones."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"labeller {name!r} is not one of {', '.join(BUILT_IN)} and not of the form package.module:function")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"labeller {name!r} cannot be loaded: {error}") from None
