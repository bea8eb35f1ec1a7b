"""Pretrained networks of ``transformers`` for labellers: opened once in a worker, only safetensors
weights are read, on the GPU where there is one; and pictures as such networks take them.

What the library says of a network that cannot be had or is of another kind becomes one sentence.
Nothing else is caught: an error inside a network is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourm.errors import UserError

_BATCH = 8  # pictures at once
_STRIDE = 32  # of the coarsest maps of networks for pictures of any size
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def device() -> str:
    """Where networks run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def cannot_open(name: str, error: Exception) -> UserError:
    """The library's reason in one sentence."""
    return UserError(f"labeller network {name!r} cannot be opened: {str(error).splitlines()[0]}")


@cache
def read_settings(reader: str, name: str) -> Any:
    """What a reader of small files (the library's ``AutoConfig``, ``AutoTokenizer`` ...) makes of a
    network's. Raises UserError where they are missing or not understood.
    """
    try:
        return getattr(_library(name), reader).from_pretrained(name)
    except (OSError, ValueError) as error:
        raise cannot_open(name, error) from None


def is_kind(auto: str, name: str) -> bool:
    """True if a network is of those that an ``AutoModel...`` opens; other classes take any."""
    # the library's own table, by which its from_pretrained chooses
    kinds = getattr(getattr(_library(name), auto), "_model_mapping", None)
    return kinds is None or type(read_settings("AutoConfig", name)) in kinds


@cache
def open_network(auto: str, name: str) -> Any:
    """A pretrained model, opened by a class of the library. Raises UserError for one that cannot be
    had or is of another kind.
    """
    if not is_kind(auto, name):
        kind = read_settings("AutoConfig", name).model_type
        raise UserError(f"labeller network {name!r} cannot be opened: {kind} is no {auto}")
    try:
        model = getattr(_library(name), auto).from_pretrained(name, use_safetensors=True)
    except OSError as error:
        raise cannot_open(name, error) from None
    return model.eval().requires_grad_(False).to(device())


def _library(name: str) -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"labeller {name!r} needs transformers: pip install 'fourm[labels]'"
        ) from None
    return transformers


@cache
def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels that a network expects, from its preprocessor's settings;
    ImageNet's where it has none.
    """
    try:
        settings = read_settings("AutoImageProcessor", name).to_dict()
    except UserError:
        return _MEAN, _STD
    return tuple(settings.get("image_mean") or _MEAN), tuple(settings.get("image_std") or _STD)


def pixels_of(pictures: Sequence[np.ndarray], name: str, side: int, device: Any) -> Tensor:
    """Pictures -> (B, 3, side, side), resized and standardised."""
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in _statistics(name))
    stacked = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255.0
    stacked = F.interpolate(
        stacked, (side, side), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    return (stacked - mean) / std


def side_of(model: Any, pictures: Sequence[np.ndarray]) -> int:
    """The side that a network was made for, or that of the pictures, rounded up to what every
    stride divides.
    """
    config = getattr(model.config, "vision_config", model.config)
    backbone = getattr(config, "backbone_config", None)
    size = getattr(config, "image_size", None) or getattr(backbone, "image_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    return int(size or -(-max(pictures[0].shape[:2]) // _STRIDE) * _STRIDE)


def batched(
    pictures: Sequence[np.ndarray], run: Callable[[Sequence[np.ndarray]], list[Any]]
) -> list[Any]:
    """Run over pictures in batches without gradients: one value a picture."""
    with torch.inference_mode():
        return [
            value
            for start in range(0, len(pictures), _BATCH)
            for value in run(pictures[start : start + _BATCH])
        ]
