"""Judge a trained tokenizer on held-out data: a JSON of figures and a picture of inputs,
reconstructions and errors.

    fourm evaluate-tokenizer configs/tokenizers/<x>.yaml [--raw DIR] [--tokenizers DIR] [--out DIR]

Figures by kind of value: PSNR, MS-SSIM, sharpness (and LPIPS, rFID where their networks are at
hand) of pictures, relative error of depth, angle of normals, overlap of classes, cosine of
features; for all, bits of a sample and use of the codebook. 1-D tokenizers are also judged by how
many of their tokens are given.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from fourm.cli import door
from fourm.config import read_yaml
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image as RawImage
from fourm_tokenizers.code_use import CodeUse
from fourm_tokenizers.picture import PictureCodec, from_values, to_values
from fourm_tokenizers.task import baseline_figures, raw_column

_SHOWN = 8
_MS_SSIM_PIXELS = 161  # smallest picture that five scales of an 11-pixel window fit into


def sharpness(pictures: np.ndarray, seam: int = 0) -> float:
    """Mean absolute Laplacian of the brightness, in grey levels: uint8 (B, H, W, 3). Needs no
    reference; blur lowers it.

    Seams between tokens of ``seam`` pixels would count as sharpness; pixels on either side of them
    are left out.
    """
    grey = pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    curved = np.stack([np.abs(ndimage.laplace(g)) for g in grey])
    if seam:
        inside = ~np.isin(np.arange(grey.shape[1]) % seam, (0, seam - 1))
        curved = curved[:, inside][:, :, inside]
    return float(curved.mean())


def ms_ssim(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Multi-scale structural similarity of uint8 (B, H, W, 3), with as many scales as fit."""
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as measure,
    )

    size = predicted.shape[1]
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    scales = 5 if size >= _MS_SSIM_PIXELS else max(1, int(math.log2(max(size, 16) / 12)) + 1)
    chosen = tuple(w / sum(weights[:scales]) for w in weights[:scales])
    a, b = (
        torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2) / 255.0
        for x in (predicted, truth)
    )
    return float(measure(a, b, data_range=1.0, betas=chosen, normalize="relu"))


def picture_figures(predicted: np.ndarray, truth: np.ndarray, seam: int) -> dict[str, float]:
    """Figures of uint8 pictures (B, H, W, 3) that need no network."""
    return {
        "ms_ssim": ms_ssim(predicted, truth),
        "sharpness": sharpness(predicted, seam),
        "sharpness_of_truth": sharpness(truth, seam),
    }


def network_figures(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """LPIPS and rFID of uint8 pictures (B, H, W, 3), where the packages ``lpips`` and
    ``torch-fidelity`` and their weights are there.
    """
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (predicted, truth))
    figures: dict[str, float] = {}
    if importlib.util.find_spec("lpips") is not None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        figures["lpips"] = float(
            LearnedPerceptualImagePatchSimilarity(normalize=True)(a.float() / 255, b.float() / 255)
        )
    if importlib.util.find_spec("torch_fidelity") is not None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        measure = FrechetInceptionDistance()
        measure.update(b, real=True)
        measure.update(a, real=False)
        figures["rfid"] = float(measure.compute())
    return figures


def judge(codec: PictureCodec, truth: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Figures and reconstructions of stacked raw values."""
    m = codec.modality
    if not codec.model.config.quantize:
        return _judge_plain(codec, truth)
    started = time.perf_counter()
    ids = codec.encode(list(truth))
    encoded = time.perf_counter()
    made = np.stack(codec.decode(ids)).reshape(truth.shape)
    decoded = time.perf_counter()
    use = CodeUse.of(torch.from_numpy(np.stack(ids)), codec.codebook_size)
    figures: dict[str, Any] = {
        "samples": len(truth),
        "tokens": len(ids[0]),
        "codebook": codec.codebook_size,
        "bits": round(len(ids[0]) * math.log2(codec.codebook_size), 1),
        **m.raw.figures(made, truth),
        **baseline_figures(m.raw, truth),
        "usage": use.usage,
        "perplexity": use.perplexity,
        "dead_codes": use.dead,
        "encode_per_second": len(truth) / (encoded - started),
        "decode_per_second": len(truth) / (decoded - encoded),
    }
    if isinstance(m.raw, RawImage):
        figures |= picture_figures(made, truth, codec.model.config.patch_size)
        figures |= network_figures(made, truth)
    config = codec.model.config
    if config.num_tokens and config.image_size:
        figures["by_prefix"] = {}
        stacked = torch.from_numpy(np.stack(ids))
        for kept in sorted({1, 2, 4, 8, 16, 32, 64, 128, 256, config.num_tokens}):
            if kept <= config.num_tokens:
                with torch.inference_mode():
                    part = from_values(codec.model.decode(stacked[:, :kept]), m)
                figures["by_prefix"][kept] = m.raw.figures(
                    np.stack(part).reshape(truth.shape), truth
                )
    return figures, made


def _judge_plain(codec: PictureCodec, truth: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The same for an autoencoder without a codebook: there are no ids, its latents go straight to
    the decoder.
    """
    m = codec.modality
    parts: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(truth), 64):
            output = codec.model(to_values(truth[start : start + 64], m)).output
            assert output is not None
            parts += from_values(output, m)
    made = np.stack(parts).reshape(truth.shape)
    figures: dict[str, Any] = {
        "samples": len(truth),
        "quantized": False,
        **m.raw.figures(made, truth),
        **baseline_figures(m.raw, truth),
    }
    if isinstance(m.raw, RawImage):
        figures |= picture_figures(made, truth, codec.model.config.patch_size)
    return figures, made


def picture_grid(modality: Modality, truth: np.ndarray, made: np.ndarray) -> Image.Image:
    """Rows of inputs, reconstructions and absolute errors (grey, three times as strong)."""
    rows = [[modality.raw.picture(v) for v in values[:_SHOWN]] for values in (truth, made)]
    size = 128
    errors = []
    for a, b in zip(*rows, strict=True):
        difference = np.abs(
            np.asarray(a.convert("RGB"), np.float32) - np.asarray(b.convert("RGB"), np.float32)
        ).mean(-1)
        errors.append(
            Image.fromarray(np.clip(3 * difference, 0, 255).astype(np.uint8)).convert("RGB")
        )
    sheet = Image.new("RGB", (size * len(rows[0]), size * 3), "white")
    for y, row in enumerate([*rows, errors]):
        for x, picture in enumerate(row):
            sheet.paste(
                picture.convert("RGB").resize((size, size), Image.Resampling.NEAREST),
                (x * size, y * size),
            )
    return sheet


def evaluate(
    modality: Modality, raw: Path, folder: Path, out: Path, split: str, num: int, cache: Path
) -> dict[str, Any]:
    """Write ``<name>.json`` and, for what can be shown, ``<name>.png`` into ``out``."""
    column = raw_column(modality, raw, split, cache)
    truth = column.ragged(np.arange(min(num, len(column)))).padded()[:, 0]
    codec = PictureCodec(folder, modality)
    figures, made = judge(codec, truth)
    write_json_atomic(out / f"{modality.name}.json", figures)
    if modality.raw.has_picture:
        picture_grid(modality, truth, made).save(out / f"{modality.name}.png")
    return figures


def evaluate_all(
    config: Path,
    raw: Path | None,
    tokenizers: Path | None,
    out: Path | None,
    split: str,
    num: int,
    only: Sequence[str],
    cache: Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and figures of all modalities of a config with a learned tokenizer, or of ``only``
    these; folders left out are the config's, ``out`` that of the tokenizers.

    Raises UserError for folders that no one names.
    """
    described = read_yaml(config)
    raw_folder = raw or described.get("raw")
    tokenizers_folder = tokenizers or described.get("out")
    if raw_folder is None or tokenizers_folder is None:
        raise UserError(f"where? {config} does not say raw and out: give --raw and --tokenizers")
    modalities = ModalitySet.load(config)
    learned = [
        m.name
        for m in modalities
        if m.tokenizer and modalities.tokenizers[m.tokenizer].get("type") == "autoencoder"
    ]
    for name in only or learned:
        m = modalities[name]
        assert m.tokenizer is not None
        folder = Path(tokenizers_folder, m.tokenizer)
        place = out or Path(tokenizers_folder)
        yield name, evaluate(m, Path(raw_folder), folder, place, split, num, cache)


# door of earlier releases: python -m fourm_tokenizers.evaluate is fourm evaluate-tokenizer
main = door("evaluate-tokenizer")

if __name__ == "__main__":
    main()
