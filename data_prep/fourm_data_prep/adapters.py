"""Pretrained networks as labellers: ``labeller: <kind>:<folder or hub id>`` in a modality's YAML.
Through ``transformers``.

* ``depth`` (Depth Anything, DPT ...) -> raw type depth; relative predictions fill the modality's
  range, nearest to farthest
* ``normals`` -> raw type normal, from the geometry of that depth (a camera of 60 degrees is
  assumed)
* ``semseg`` (Mask2Former, SegFormer ...) -> raw type labels, matched to the modality's class names
* ``boxes`` (DETR, RT-DETR ...) -> raw type boxes, score 0.5 and more, nearest to the upper left
  first
* ``caption`` (BLIP ...) -> raw type text
* ``features`` (CLIP, SigLIP, DINOv2 ...) -> raw type array (dense: one vector a patch) or vectors
  (global)
* ``marigold`` (through ``diffusers``) -> raw type normal
* ``sam`` -> raw type boxes (one for each thing) or array (edges of all things)
* ``fourm`` -> raw type vectors: FourM's own encoder, a pipeline's folder
* ``sentence`` (MiniLM ...) -> raw type vectors: the caption as one unit vector; ``tokens`` (T5 ...)
  -> one vector for each of its tokens

Each network is opened once in a worker, only safetensors weights are read, on the GPU where there
is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fourm.errors import UserError
from fourm.raw import Raw
from fourm.raw.array import Array
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image as RawImage
from fourm.raw.labels import Labels
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm_data_prep.labellers import Samples

_MIN_SCORE = 0.5
_FIELD_OF_VIEW = math.radians(60.0)
_BATCH = 8
_STRIDE = 32  # of the coarsest maps of networks for pictures of any size
# of the grid's side; IoU that SAM foretells; IoU
_SAM_POINTS, _SAM_AT_ONCE, _SAM_SURE, _SAM_OVERLAP = 32, 64, 0.88, 0.7
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def _network(auto: str, name: str) -> Any:
    """A pretrained model. Raises UserError that says what is missing."""
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"labeller {name!r} needs transformers: pip install 'fourm[labels]'"
        ) from None
    try:
        model = getattr(transformers, auto).from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"labeller network {name!r} cannot be opened: {str(error).splitlines()[0]}"
        ) from None
    return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


@cache
def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels that a network expects, from its preprocessor's settings."""
    from transformers import AutoImageProcessor  # pyright: ignore[reportMissingImports]

    try:
        settings = AutoImageProcessor.from_pretrained(name).to_dict()
    except (OSError, ValueError, ImportError):
        return _MEAN, _STD
    return tuple(settings.get("image_mean") or _MEAN), tuple(settings.get("image_std") or _STD)


def _pixels(pictures: Sequence[np.ndarray], name: str, side: int, device: Any) -> Tensor:
    """Pictures -> (B, 3, side, side), resized and standardised."""
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in _statistics(name))
    stacked = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255.0
    stacked = F.interpolate(
        stacked, (side, side), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    return (stacked - mean) / std


def _side(model: Any, pictures: Sequence[np.ndarray]) -> int:
    """The side that a network was made for, or that of the pictures, rounded up to what every
    stride divides.
    """
    config = getattr(model.config, "vision_config", model.config)
    backbone = getattr(config, "backbone_config", None)
    size = getattr(config, "image_size", None) or getattr(backbone, "image_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    return int(size or -(-max(pictures[0].shape[:2]) // _STRIDE) * _STRIDE)


def _batched(
    pictures: Sequence[np.ndarray], run: Callable[[Sequence[np.ndarray]], list[Any]]
) -> list[Any]:
    with torch.inference_mode():
        return [
            value
            for start in range(0, len(pictures), _BATCH)
            for value in run(pictures[start : start + _BATCH])
        ]


def depth(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> float32 (size, size) within the modality's range."""
    model = _network("AutoModelForDepthEstimation", name)
    metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"
    if not isinstance(spec, (Depth, Array)):
        raise UserError(f"labeller depth makes depth maps, not {spec.type_name}")
    low, high = spec.range

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        predicted = model(
            pixel_values=_pixels(part, name, _side(model, part), model.device)
        ).predicted_depth
        predicted = F.interpolate(
            predicted[:, None].float(),
            (spec.pixels, spec.pixels),
            mode="bilinear",
            align_corners=False,
        )[:, 0]
        if metric:
            return list(predicted.clamp(low, high).cpu().numpy())
        # it predicts nearness
        nearest, farthest = (
            predicted.amax((1, 2), keepdim=True),
            predicted.amin((1, 2), keepdim=True),
        )
        share = (nearest - predicted) / (nearest - farthest).clamp_min(1e-12)
        return list((low + (high - low) * share).cpu().numpy())

    return _batched(samples.pictures, run)


def normals(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> unit vectors float32 (size, size, 3): x to the right, y down, z towards the camera."""
    flat = Depth(size=spec.pixels, range=(1.0, 5.0))
    return [normals_of_depth(d) for d in depth(name, samples, flat)]


def normals_of_depth(distance: np.ndarray, field_of_view: float = _FIELD_OF_VIEW) -> np.ndarray:
    """Normals of the surface that a depth map (H, W) describes, seen by a pinhole camera: (H, W,
    3).
    """
    height, width = distance.shape
    focal = 0.5 * width / math.tan(0.5 * field_of_view)
    rows, columns = np.mgrid[0:height, 0:width]
    point = np.stack(
        [
            (columns - width / 2 + 0.5) * distance / focal,
            (rows - height / 2 + 0.5) * distance / focal,
            distance,
        ],
        -1,
    )
    along_x, along_y = np.gradient(point, axis=1), np.gradient(point, axis=0)
    normal = np.cross(along_y, along_x)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    normal *= np.where(normal[..., 2:] > 0, -1.0, 1.0)  # towards the camera
    return (normal * np.array([1.0, 1.0, -1.0])).astype(np.float32)


def semseg(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> class ids (size, size).

    Raises UserError if the network knows none of the modality's class names.
    """
    if not isinstance(spec, Labels):
        raise UserError(f"labeller semseg makes labels, not {spec.type_name}")
    try:
        model, masks = _network("AutoModelForSemanticSegmentation", name), False
    except ValueError:
        model, masks = _network("AutoModelForUniversalSegmentation", name), True
    lookup = np.zeros(len(model.config.id2label) + 1, np.int64)
    known = {label.lower(): i for i, label in enumerate(spec.classes)}
    for i, label in model.config.id2label.items():
        lookup[int(i)] = known.get(str(label).lower(), 0)
    if not any(str(label).lower() in known for label in model.config.id2label.values()):
        raise UserError(
            f"{name} knows none of the classes {', '.join(spec.classes[:5])} ...; it has"
            f" {list(model.config.id2label.values())[:5]} ..."
        )

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        output = model(pixel_values=_pixels(part, name, _side(model, part), model.device))
        if masks:  # a score of each class at each place: over all queries
            classes = output.class_queries_logits.softmax(-1)[..., :-1]
            logits = torch.einsum("bqc,bqhw->bchw", classes, output.masks_queries_logits.sigmoid())
        else:
            logits = output.logits
        logits = F.interpolate(
            logits.float(), (spec.pixels, spec.pixels), mode="bilinear", align_corners=False
        )
        return list(lookup[logits.argmax(1).cpu().numpy()])

    return _batched(samples.pictures, run)


def boxes(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> lists of ``{"box": [x0, y0, x1, y1], "label": ...}``, corners in [0, 1]."""
    model = _network("AutoModelForObjectDetection", name)
    labels = {int(i): str(label) for i, label in model.config.id2label.items()}

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        output = model(pixel_values=_pixels(part, name, _side(model, part), model.device))
        # DETR: softmax with "no object"; RT-DETR: one score a class
        has_none = output.logits.shape[-1] == len(labels) + 1
        scores = output.logits.softmax(-1)[..., :-1] if has_none else output.logits.sigmoid()
        best, which = scores.max(-1)
        center, size = output.pred_boxes[..., :2], output.pred_boxes[..., 2:]
        corners = torch.cat([center - size / 2, center + size / 2], -1).clamp(0, 1)
        found = []
        for b in range(len(part)):
            rows = torch.nonzero(best[b] >= _MIN_SCORE)[:, 0]
            kept = [
                {
                    "box": [round(float(c), 4) for c in corners[b, r]],
                    "label": labels[int(which[b, r])],
                }
                for r in rows.tolist()
            ]
            found.append(sorted(kept, key=lambda item: item["box"][0] ** 2 + item["box"][1] ** 2))
        return found

    return _batched(samples.pictures, run)


def caption(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> strings."""
    from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]

    model = _network("AutoModelForImageTextToText", name)
    tokenizer = AutoTokenizer.from_pretrained(name)

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        ids = model.generate(
            pixel_values=_pixels(part, name, _side(model, part), model.device),
            max_new_tokens=40,
            do_sample=False,
        )
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    return _batched(samples.pictures, run)


def features(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> float32 (size, size, C) for raw type array, (1, C) for vectors: of CLIP and SigLIP the
    vector that is compared with texts.
    """
    both = _network("AutoModel", name)
    model = getattr(both, "vision_model", both)

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        if isinstance(spec, Vectors) and hasattr(both, "get_image_features"):
            pixels = _pixels(part, name, _side(both, part), both.device)
            return list(
                both.get_image_features(pixel_values=pixels)
                .pooler_output[:, None]
                .float()
                .cpu()
                .numpy()
            )
        config = model.config
        side = spec.pixels * config.patch_size or _side(model, part)
        extra = {"interpolate_pos_encoding": True} if side != _side(model, part) else {}
        rows = model(
            pixel_values=_pixels(part, name, side, model.device), **extra
        ).last_hidden_state.float()
        grid = (side // config.patch_size) ** 2
        if isinstance(spec, Vectors):
            return list(
                (rows[:, :1] if rows.shape[1] > grid else rows.mean(1, keepdim=True)).cpu().numpy()
            )
        return list(rows[:, -grid:].unflatten(1, (spec.pixels, spec.pixels)).cpu().numpy())

    return _batched(samples.pictures, run)


@cache
def _marigold(name: str) -> Any:
    try:
        from diffusers import MarigoldNormalsPipeline  # pyright: ignore[reportPrivateImportUsage]

        pipe = MarigoldNormalsPipeline.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"labeller network {name!r} cannot be opened: {str(error).splitlines()[0]}"
        ) from None
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def marigold(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> unit vectors float32 (size, size, 3): x to the right, y down, z towards the camera. One
    denoising for each picture, seeded.
    """
    pipe, result = _marigold(name), []
    for picture in samples.pictures:
        made = pipe(
            Image.fromarray(picture), generator=torch.Generator().manual_seed(0), output_type="np"
        ).prediction[0]
        made = F.interpolate(
            torch.from_numpy(made).permute(2, 0, 1)[None],
            (spec.pixels, spec.pixels),
            mode="bilinear",
        )
        normal = F.normalize(made[0], dim=0).permute(1, 2, 0).numpy()
        result.append((normal * np.array([1.0, -1.0, 1.0])).astype(np.float32))  # its y points up
    return result


def sam(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """Segment Anything, asked at a grid of points -> boxes ``{"box", "label": "thing"}`` by area,
    or their edges (size, size, 1).
    """
    model = _network("SamModel", name)
    side = model.config.vision_config.image_size
    at = (np.arange(_SAM_POINTS) + 0.5) / _SAM_POINTS * side
    grid = torch.tensor(
        np.stack(np.meshgrid(at, at), -1).reshape(-1, 1, 2),
        dtype=torch.float32,
        device=model.device,
    )
    result: list[Any] = []
    with torch.inference_mode():
        for picture in samples.pictures:
            seen = model.get_image_embeddings(_pixels([picture], name, side, model.device))
            found, sure = [], []
            for points in grid.split(_SAM_AT_ONCE):
                output = model(image_embeddings=seen, input_points=points[None])
                scores, which = output.iou_scores[0].max(-1)
                masks = output.pred_masks[0][torch.arange(len(which)), which] > 0
                kept = (scores > _SAM_SURE) & masks.any(-1).any(-1)
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
        if all(float(share) < _SAM_OVERLAP for share in shares):
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


@cache
def _text_network(name: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoConfig, AutoTokenizer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"labeller network {name!r} needs transformers: pip install 'fourm[labels]'"
        ) from None
    try:
        encoder = (
            "T5EncoderModel" if AutoConfig.from_pretrained(name).model_type == "t5" else "AutoModel"
        )
        return _network(encoder, name), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"labeller network {name!r} cannot be opened: {str(error).splitlines()[0]}"
        ) from None


def _text_rows(name: str, captions: Sequence[str]) -> list[np.ndarray]:
    """A vector for each token of each caption (n, C)."""
    model, tokenizer = _text_network(name)
    rows: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(captions), 4 * _BATCH):
            part = tokenizer(
                list(captions[start : start + 4 * _BATCH]),
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            mask = part["attention_mask"].bool()
            hidden = model(
                input_ids=part["input_ids"].to(model.device), attention_mask=mask.to(model.device)
            ).last_hidden_state
            rows += [h[m].numpy() for h, m in zip(hidden.float().cpu(), mask, strict=True)]
    return rows


def sentence(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """Mean of a caption's token vectors, of length 1: (1, C)."""
    means = [rows.mean(0, keepdims=True) for rows in _text_rows(name, samples.captions)]
    return [(m / max(float(np.linalg.norm(m)), 1e-9)).astype(np.float32) for m in means]


def tokens(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """One vector for each token of a caption (n, C)."""
    return [rows.astype(np.float32) for rows in _text_rows(name, samples.captions)]


@cache
def _pipeline(name: str) -> Any:
    from fourm.pipeline import AnyToAnyPipeline

    return AnyToAnyPipeline.from_pretrained(
        name, device="cuda" if torch.cuda.is_available() else "cpu"
    )


def fourm(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """FourM's own encoder: of pictures, or of captions where there are no pictures. One vector for
    each of its rows (n, C).
    """
    pipe = _pipeline(name)
    wanted, values = (
        (RawImage, samples.pictures) if len(samples.pictures) else (Text, samples.captions)
    )
    reads = [m for m in pipe.modalities if m.input and isinstance(m.raw, wanted)]
    if not reads:
        raise UserError(f"the model {name} reads no {wanted.type_name}")
    m = next((m for m in reads if m.kind == "continuous"), reads[0])
    given = [m.raw.fit(np.asarray(v)) if wanted is RawImage else v for v in values]
    found = [
        rows.numpy()
        for start in range(0, len(given), _BATCH)
        for rows in pipe.features({m.name: given[start : start + _BATCH]})
    ]
    return (
        found
        if isinstance(spec, Vectors) and spec.channels == 1
        else [rows.mean(0, keepdims=True) for rows in found]
    )


ADAPTERS: dict[str, Callable[[str, Samples, Raw], list[Any]]] = {
    "depth": depth,
    "normals": normals,
    "marigold": marigold,
    "semseg": semseg,
    "boxes": boxes,
    "caption": caption,
    "features": features,
    "sam": sam,
    "sentence": sentence,
    "tokens": tokens,
    "fourm": fourm,
}
