"""A modality that FourM was never trained on drives its generation: captions -> MiniLM -> (FuseMix)
-> ImageNet features -> tokens -> pictures.

    make demo                       (once: its scenes and its picture tokenizer are used)
    pip install -e '.[demo,labels]'
    python examples/unseen_modality.py runs/demo --out runs/unseen

A small FourM learns pictures and the features of a frozen EfficientNet. It never sees a word.
FuseMix heads then put MiniLM's caption vectors into the space of those features, whose tokenizer
FourM knows. The judge of the demo looks at what is generated for fresh captions. Exit status 0 if
the right colours and shapes are seen at least three times as often as for the captions of other
scenes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from fourm_data_prep.label import label
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.latents import cache_latents
from fourm_data_prep.samples import Samples
from fourm_data_prep.tokenize import tokenize
from fourm_tokenizers import train
from PIL import Image

from fourm.alignment.align import align, load_aligner
from fourm.alignment.aligner import AlignConfig
from fourm.config import from_mapping
from fourm.demo.held_out import held_out_scenes
from fourm.demo.judge import PixelJudge
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.raw.vectors import Vectors
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.pretrain import PretrainConfig, pretrain

CONFIG = Path(__file__).parent.parent / "configs" / "modalities" / "unseen.yaml"
SETTINGS = {"temperature": 0.5, "guidance_scale": 2.5, "steps": 12}


def link(project: Path, out: Path, num_shards: int) -> None:
    """Pictures, captions and picture tokens of the demo, as far as they are used."""
    for part in ("raw", "tokens"):
        for split in ("train", "val"):
            for name in ("rgb", "caption") if part == "raw" else ("rgb",):
                folder = out / part / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for path in sorted((project / part / split / name).glob("*"))[: num_shards + 1]:
                    if path.suffix != ".tar" or int(path.stem) < num_shards:
                        (folder / path.name).unlink(missing_ok=True)
                        os.symlink(path.resolve(), folder / path.name)
    (out / "tokenizers").mkdir(exist_ok=True)
    if not (out / "tokenizers" / "rgb").exists():
        shutil.copytree(
            project / "tokenizers" / "rgb",
            out / "tokenizers" / "rgb",
            ignore=shutil.ignore_patterns("training"),
        )


def pretrained(out: Path, steps: int) -> Path:
    """FourM on pictures and features."""
    config = {
        "out": str(out / "pretrain"),
        "modalities": str(CONFIG),
        "tokenizers": str(out / "tokenizers"),
        "data": {
            # chunks have the tokens of all shards, raw shards are some of them
            "sources": [{"tokens": str(out / "tokens"), "raw": str(out / "raw"), "require": "all"}],
            "cache": str(out / "cache"),
        },
        "model": {"dim": 128, "encoder_depth": 3, "decoder_depth": 3, "num_heads": 4},
        "masking": {
            "num_inputs": [24, 48],
            "num_targets": [36, 36],
            "components": [
                {"weight": 0.7, "input": {"features": 50, "rgb": 0.4}, "target": {"rgb": 1}},
                {"weight": 0.1, "input": {"rgb": 1}, "target": {"rgb": 1}, "num_inputs": [1, 24]},
                {
                    "weight": 0.2,
                    "input": {"rgb": 50},
                    "target": {"features": 1},
                    "num_inputs": [24, 36],
                    "num_targets": [24, 24],
                },
            ],
        },
        "loop": {
            "steps": steps,
            "batch_size": 32,
            "optimizer": {"name": "muon", "lr": 3e-3, "muon_lr": 0.01, "weight_decay": 0.01},
            "schedule": {"name": "wsd", "warmup": 60, "decay": 0.5},
            "num_workers": 0,
            "checkpoint_every": 250,
        },
    }
    pretrain(from_mapping(PretrainConfig, config, "unseen"))
    newest = newest_checkpoint(out / "pretrain" / "checkpoints")
    assert newest is not None
    return newest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("project", type=Path, help="folder of `make demo`")
    parser.add_argument("--out", type=Path, default=Path("runs/unseen"))
    parser.add_argument("--shards", type=int, default=10, help="of 512 scenes")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--num", type=int, default=128, help="fresh captions")
    o = parser.parse_args()
    out = o.out
    link(o.project, out, o.shards)
    label(out / "raw", CONFIG, ["features"])
    train.main(
        [
            "--config",
            str(CONFIG),
            "--raw",
            str(out / "raw"),
            "--out",
            str(out / "tokenizers"),
            "--only",
            "features",
        ]
    )
    tokenize(CONFIG, out / "raw", out / "tokenizers", out / "made")
    for split in ("train", "val"):
        shutil.copytree(
            out / "made" / split / "features",
            out / "tokens" / split / "features",
            dirs_exist_ok=True,
        )
    model = pretrained(out, o.steps)

    with_captions = out / "with_captions.yaml"
    with_captions.write_text(
        "modalities:\n  rgb: {kind: grid, raw: {type: image, size: 48}, vocab_size: 8, grid: [2,"
        " 2]}\n"
        "  caption: {kind: sequence, raw: {type: text}, vocab_size: 300, max_tokens: 24}\n"
    )
    latents = {}
    for name, modality, encoder in (
        ("features", "rgb", "efficientnet"),
        ("text", "caption", "minilm"),
    ):
        cache_latents(
            out / "raw", with_captions, modality, encoder, out / "latents" / name, half=False
        )
        latents[name] = str(out / "latents" / name)
    align(
        from_mapping(
            AlignConfig,
            {
                "out": str(out / "align"),
                "latents": latents,
                "split": {"num_val": 200, "num_test": 200},
                "anchor": "features",
                "connect": {"kind": "heads", "depth": 2, "expand": 4, "dropout": 0.1},
                "tasks": {"regression": 0.8},
                "augment": {"mixup": "shared", "per": "sample"},
                "loop": {
                    "steps": 1500,
                    "batch_size": 256,
                    "optimizer": {"lr": 1e-3, "weight_decay": 0.05},
                    "num_workers": 0,
                    "checkpoint_every": 500,
                },
            },
            "unseen",
        )
    )
    head = load_aligner(out / "align")

    pipe = AnyToAnyPipeline.from_pretrained(model, tokenizers=out / "tokenizers")
    scenes, judge = held_out_scenes(4, o.num, 48), PixelJudge(48)
    words = np.concatenate(
        open_labeller("minilm")(Samples([], scenes.raw["caption"]), Vectors(channels=384))
    )
    with torch.no_grad():
        mapped = head.embed("text", torch.from_numpy(words)).numpy()
    own = np.concatenate(
        open_labeller("efficientnet")(Samples(scenes.raw["rgb"]), Vectors(channels=1280))
    )
    figures, sheets = {}, [scenes.raw["rgb"][:12]]
    for name, vectors in (
        ("features of the true picture", own),
        ("caption, through FuseMix", mapped),
    ):
        made = pipe({"features": [v[None] for v in vectors]}, ["rgb"], seed=0, **SETTINGS)[
            "rgb"
        ].values
        figures[name] = round(judge.attribute_accuracy(np.stack(made), scenes.solids), 3)
        figures[f"{name}, judged by other captions"] = round(
            judge.attribute_accuracy(np.stack(made), scenes.solids[1:] + scenes.solids[:1]), 3
        )
        sheets.append(made[:12])
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in sheets])).resize(
        (48 * 24, 48 * 6), Image.Resampling.NEAREST
    ).save(out / "unseen.png")
    figures["captions"] = scenes.raw["caption"][:12]
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    name = "caption, through FuseMix"
    sys.exit(0 if figures[name] >= 3 * figures[f"{name}, judged by other captions"] else 1)


if __name__ == "__main__":
    main()
