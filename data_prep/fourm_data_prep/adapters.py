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
* ``fourm`` -> raw type vectors: FourM's own encoder, a pipeline's folder
* ``sentence`` (MiniLM ...) -> raw type vectors: the caption as one unit vector; ``tokens`` (T5 ...)
  -> one vector for each of its tokens

SAM is in ``sam.py``, networks of sound in ``audio.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fourm.errors import UserError
from fourm.raw import Raw
from fourm.raw.array import Array
from fourm.raw.depth import Depth
from fourm.raw.image import Image as RawImage
from fourm.raw.labels import Labels
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm_data_prep.networks import (
    batched,
    cannot_open,
    device,
    is_kind,
    open_network,
    pixels_of,
    read_settings,
    side_of,
)
from fourm_data_prep.samples import NetworkLabeller, Samples

_MIN_SCORE = 0.5
_FIELD_OF_VIEW = math.radians(60.0)
_BATCH = 8
_MARIGOLD_PARTS = {"unet", "vae", "scheduler", "text_encoder", "tokenizer"}


def depth(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> float32 (size, size) within the modality's range."""
    model = open_network("AutoModelForDepthEstimation", name)
    metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"
    if not isinstance(spec, (Depth, Array)):
        raise UserError(f"labeller depth makes depth maps, not {spec.type_name}")
    low, high = spec.bounds

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        predicted = model(
            pixel_values=pixels_of(part, name, side_of(model, part), model.device)
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

    return batched(samples.pictures, run)


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
    # a class at each place, or a class and a mask for each of some queries
    masks = not is_kind("AutoModelForSemanticSegmentation", name)
    kind = "AutoModelForUniversalSegmentation" if masks else "AutoModelForSemanticSegmentation"
    model = open_network(kind, name)
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
        output = model(pixel_values=pixels_of(part, name, side_of(model, part), model.device))
        if masks:  # a score of each class at each place: over all queries
            classes = output.class_queries_logits.softmax(-1)[..., :-1]
            logits = torch.einsum("bqc,bqhw->bchw", classes, output.masks_queries_logits.sigmoid())
        else:
            logits = output.logits
        logits = F.interpolate(
            logits.float(), (spec.pixels, spec.pixels), mode="bilinear", align_corners=False
        )
        return list(lookup[logits.argmax(1).cpu().numpy()])

    return batched(samples.pictures, run)


def boxes(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> lists of ``{"box": [x0, y0, x1, y1], "label": ...}``, corners in [0, 1]."""
    model = open_network("AutoModelForObjectDetection", name)
    labels = {int(i): str(label) for i, label in model.config.id2label.items()}

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        output = model(pixel_values=pixels_of(part, name, side_of(model, part), model.device))
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

    return batched(samples.pictures, run)


def caption(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> strings."""
    model = open_network("AutoModelForImageTextToText", name)
    tokenizer = read_settings("AutoTokenizer", name)

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        ids = model.generate(
            pixel_values=pixels_of(part, name, side_of(model, part), model.device),
            max_new_tokens=40,
            do_sample=False,
        )
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    return batched(samples.pictures, run)


def features(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> float32 (size, size, C) for raw type array, (1, C) for vectors: of CLIP and SigLIP the
    vector that is compared with texts.
    """
    both = open_network("AutoModel", name)
    model = getattr(both, "vision_model", both)

    def run(part: Sequence[np.ndarray]) -> list[Any]:
        if isinstance(spec, Vectors) and hasattr(both, "get_image_features"):
            pixels = pixels_of(part, name, side_of(both, part), both.device)
            return list(
                both.get_image_features(pixel_values=pixels)
                .pooler_output[:, None]
                .float()
                .cpu()
                .numpy()
            )
        config = model.config
        side = spec.pixels * config.patch_size or side_of(model, part)
        extra = {"interpolate_pos_encoding": True} if side != side_of(model, part) else {}
        rows = model(
            pixel_values=pixels_of(part, name, side, model.device), **extra
        ).last_hidden_state.float()
        grid = (side // config.patch_size) ** 2
        if isinstance(spec, Vectors):
            return list(
                (rows[:, :1] if rows.shape[1] > grid else rows.mean(1, keepdim=True)).cpu().numpy()
            )
        return list(rows[:, -grid:].unflatten(1, (spec.pixels, spec.pixels)).cpu().numpy())

    return batched(samples.pictures, run)


@cache
def _marigold(name: str) -> Any:
    from diffusers import MarigoldNormalsPipeline  # pyright: ignore[reportPrivateImportUsage]

    try:
        lacking = _MARIGOLD_PARTS - set(MarigoldNormalsPipeline.load_config(name))
        if lacking:
            raise UserError(f"labeller network {name!r} is no Marigold: no {min(lacking)}")
        pipe = MarigoldNormalsPipeline.from_pretrained(name, use_safetensors=True)
    except OSError as error:
        raise cannot_open(name, error) from None
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device())


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


def _text_rows(name: str, captions: Sequence[str]) -> list[np.ndarray]:
    """A vector for each token of each caption (n, C)."""
    # of T5 only its encoder; AutoModel would want a text to decode
    is_t5 = read_settings("AutoConfig", name).model_type == "t5"
    model = open_network("T5EncoderModel" if is_t5 else "AutoModel", name)
    tokenizer = read_settings("AutoTokenizer", name)
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
    from fourm.pipeline.pipeline import AnyToAnyPipeline

    return AnyToAnyPipeline.from_pretrained(name, device=device())


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


NETWORKS: dict[str, NetworkLabeller] = {
    "depth": depth,
    "normals": normals,
    "marigold": marigold,
    "semseg": semseg,
    "boxes": boxes,
    "caption": caption,
    "features": features,
    "sentence": sentence,
    "tokens": tokens,
    "fourm": fourm,
}
