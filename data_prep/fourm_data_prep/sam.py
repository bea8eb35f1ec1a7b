"""Segment Anything (2304.02643) as a labeller: ``sam:<network>`` -> raw type boxes (one for each
thing) or array (edges of all things).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourm.raw import Raw
from fourm.raw.boxes import Boxes
from fourm_data_prep.networks import open_network, pixels_of
from fourm_data_prep.samples import NetworkLabeller, Samples

_POINTS = 32  # along a side of the grid that is asked at
_AT_ONCE = 64  # points
_SURE = 0.88  # masks below this IoU, as SAM foretells it, are left out
_OVERLAP = 0.7  # IoU above which two masks are of one thing


def sam(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """Segment Anything, asked at a grid of points -> boxes ``{"box", "label": "thing"}`` by area,
    or their edges (size, size, 1).
    """
    model = open_network("SamModel", name)
    side = model.config.vision_config.image_size
    at = (np.arange(_POINTS) + 0.5) / _POINTS * side
    grid = torch.tensor(
        np.stack(np.meshgrid(at, at), -1).reshape(-1, 1, 2),
        dtype=torch.float32,
        device=model.device,
    )
    result: list[Any] = []
    with torch.inference_mode():
        for picture in samples.pictures:
            seen = model.get_image_embeddings(pixels_of([picture], name, side, model.device))
            found, sure = [], []
            for points in grid.split(_AT_ONCE):
                output = model(image_embeddings=seen, input_points=points[None])
                scores, which = output.iou_scores[0].max(-1)
                masks = output.pred_masks[0][torch.arange(len(which)), which] > 0
                kept = (scores > _SURE) & masks.any(-1).any(-1)
                found.append(masks[kept].cpu())
                sure.append(scores[kept].cpu())
            masks = _distinct(torch.cat(found), torch.cat(sure))
            result.append(
                _mask_boxes(masks) if isinstance(spec, Boxes) else mask_edges(masks, spec.pixels)
            )
    return result


def _distinct(masks: Tensor, scores: Tensor) -> list[np.ndarray]:
    """Masks (n, H, W) that overlap a surer one left out, the largest first."""
    kept: list[Tensor] = []
    for i in scores.argsort(descending=True).tolist():
        shares = [(masks[i] & k).sum() / (masks[i] | k).sum() for k in kept]
        if all(float(share) < _OVERLAP for share in shares):
            kept.append(masks[i])
    return [m.numpy() for m in sorted(kept, key=lambda m: -int(m.sum()))]


def _mask_boxes(masks: list[np.ndarray]) -> list[dict[str, Any]]:
    found = []
    for mask in masks:
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        height, width = mask.shape
        corners = [
            columns[0] / width,
            rows[0] / height,
            (columns[-1] + 1) / width,
            (rows[-1] + 1) / height,
        ]
        found.append({"box": [round(float(c), 4) for c in corners], "label": "thing"})
    return found


def mask_edges(masks: list[np.ndarray], size: int) -> np.ndarray:
    """Where any of the masks (H, W) ends: share of the masks' edges at each place, float32 (size,
    size, 1) in [0, 1].
    """
    total = np.zeros((size, size), np.float32)
    for mask in masks:
        small = F.interpolate(
            torch.from_numpy(mask)[None, None].float(), (size, size), mode="area"
        )[0, 0]
        inner = -F.max_pool2d(-small[None, None], 3, 1, 1)[0, 0]
        total = np.maximum(total, (small - inner).numpy())
    return total[..., None]


NETWORKS: dict[str, NetworkLabeller] = {"sam": sam}
