"""A modality added to a trained model against one that is trained with the others from nothing.

    python benchmarks/warm_start.py [--scenes 3072] [--steps 1200] [--share 0.25] [--seeds 1]
                                    [--added depth] [--lora] [--free]

The demo's world at 64 px through the tokenizers that ship. ``scratch`` trains pictures, depth,
normals and classes together for ``steps``; ``base`` all but the added one, as long; ``warm`` starts
from it (``init``, ``warm_start``) and has ``share`` of the steps, with batches and numbers of
targets of its own: ``--warm-batch``, ``--asked`` of what is new, ``--rehearsed`` of the rest (twice
the samples a step are half the samples in all: both are told). Compared are the held-out loss of
the added modality under the same masks, and the loss of the others in the base's own set, before
and after (a model without a modality is the transplant of the one with it). Written to
``warm_start.json``; exit status 0 if the added modality is as good as from scratch (to 1 %) and the
others lose 1 % at most.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from fourm_data_prep.tokenize import tokenize

from fourm.config import from_mapping, read_yaml
from fourm.data.shards import shard_paths
from fourm.demo.scenes_to_shards import SHARD_SCENES, VALIDATION_SEED, write_scene_shard
from fourm.modalities import ModalitySet
from fourm.model.model import load_model
from fourm.resources import demo_model_folder
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain
from fourm.training.warm_start import start_from

NAMES: tuple[str, ...] = ("rgb", "depth", "normal", "semseg")
HELD_OUT = 512


@dataclass(frozen=True)
class World:
    """Where the shards lie, and what all runs share."""

    root: Path
    added: str
    batch: int

    @property
    def others(self) -> list[str]:
        """What the base is trained on."""
        return [name for name in NAMES if name != self.added]

    def make(self, scenes: int) -> None:
        """Render and tokenize, unless it is there."""
        described = read_yaml(demo_model_folder() / "config.json")
        table = {name: described["modalities"][name] for name in NAMES}
        for file, names in (("all.yaml", list(NAMES)), ("base.yaml", self.others)):
            chosen = {
                "tokenizers": described["tokenizers"],
                "modalities": {name: table[name] for name in names},
            }
            (self.root / file).write_text(yaml.safe_dump(chosen, sort_keys=False))
        raw, tokens = self.root / "raw", self.root / "tokens"
        if not shard_paths(tokens, "val", self.added):
            for number in range(-(-scenes // SHARD_SCENES)):
                write_scene_shard(raw, "train", 0, number, scenes, 64)
            write_scene_shard(raw, "val", VALIDATION_SEED, 0, HELD_OUT, 64)
            tokenizers = demo_model_folder() / "tokenizers"
            tokenize(self.root / "all.yaml", raw, tokenizers, tokens)

    def config(self, run: str, names: list[str], steps: int, seed: int, **more: Any) -> Any:
        """A pretraining of these modalities, each asked for and given alike."""
        chosen = dict.fromkeys(names, 1.0)
        components = [{"input": chosen, "target": chosen}]
        loop = {
            "steps": steps,
            "batch_size": self.batch,
            "seed": seed,
            "optimizer": {"name": "muon", "lr": 2e-3},
            "schedule": {"name": "wsd", "warmup": 30, "decay": 0.4},
            "num_workers": 0,
            "threads": 1,
            "checkpoint_every": steps,
            "log_every": 50,
        }
        data = {
            "sources": [{"tokens": str(self.root / "tokens")}],
            "cache": str(self.root / "cache"),
        }
        config = {
            "out": str(self.root / f"{run}-{seed}"),
            "modalities": str(self.root / ("all.yaml" if len(names) > 3 else "base.yaml")),
            "model": {"dim": 96, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 3},
            "data": data,
            "masking": {"num_inputs": [48, 48], "num_targets": [24, 24], "components": components},
            "loop": loop,
            "eval_samples": HELD_OUT,
            **more,
        }
        return from_mapping(PretrainConfig, config, "benchmark")

    def train(self, run: str, names: list[str], steps: int, seed: int, **more: Any) -> Path:
        """The checkpoint of a run, trained unless it is there."""
        config = self.config(run, names, steps, seed, **more)
        if not Path(config.out, "done.json").is_file():
            pretrain(config)
        found = newest_checkpoint(Path(config.out, "checkpoints"))
        assert found is not None
        return found

    def losses(self, checkpoint: Path, names: list[str], steps: int) -> dict[str, float]:
        """Held-out losses of a model, restricted to these modalities, under their masks."""
        config = self.config("evaluated", names, steps, 0)
        modalities = ModalitySet.load(config.modalities)
        task = PretrainTask(config, modalities)
        model = load_model(checkpoint)
        if len(model.modalities) != len(modalities):
            model = start_from(checkpoint, modalities, {}, 0).model
        with torch.no_grad():
            return task.evaluate(model.eval(), torch.device("cpu"))


def compare(world: World, seed: int, o: argparse.Namespace) -> dict[str, float]:
    """Figures of one seed."""
    scratch = world.train("scratch", list(NAMES), o.steps, seed)
    base = world.train("base", world.others, o.steps, seed)
    steps = int(o.steps * o.share)
    alone = int(steps * o.alone)
    more: dict[str, Any] = {
        "init": str(base),
        "warm_start": {"steps": alone, "warmup": o.warmup, "hold": not o.free},
    }
    if o.lora:
        more["lora"] = {"rank": 8, "targets": "all"}
    # what is known is rehearsed as it was learned; the rest asks for what is new
    mixed, known = dict.fromkeys(NAMES, 1.0), dict.fromkeys(world.others, 1.0)
    components = [
        {
            "weight": o.rehearsal,
            "input": known,
            "target": known,
            "num_targets": [o.rehearsed, o.rehearsed],
        },
        {
            "weight": 1 - o.rehearsal,
            "input": mixed,
            "target": {world.added: 1.0},
            "num_targets": [o.asked, o.asked],
        },
    ]
    masking = {"num_inputs": [48, 48], "num_targets": [24, 24], "components": components}
    name = f"warm{'-lora' if o.lora else ''}{o.tag}"
    loop = {
        **_loop(o.warm_batch, seed),
        "steps": steps,
        "optimizer": {"name": "muon", "lr": o.lr, "muon_lr": o.muon_lr},
        "checkpoint_every": steps,
        "schedule": {"name": "wsd", "warmup": 10, "decay": o.decay},
    }
    warm = world.train(name, list(NAMES), steps, seed, masking=masking, loop=loop, **more)
    key = f"loss/{world.added}"
    asked, others = list(NAMES), world.others
    before, after = world.losses(base, others, 1), world.losses(warm, others, 1)
    return {
        "scratch": world.losses(scratch, asked, 1)[key],
        "warm": world.losses(warm, asked, 1)[key],
        "others before": before["loss"],
        "others after": after["loss"],
        "others of scratch": world.losses(scratch, others, 1)["loss"],
    }


def _loop(batch: int, seed: int) -> dict[str, Any]:
    return {
        "batch_size": batch,
        "seed": seed,
        "num_workers": 0,
        "threads": 1,
        "log_every": 50,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scenes", type=int, default=3072)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--alone", type=float, default=0.03)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--rehearsal", type=float, default=0.5)
    parser.add_argument("--asked", type=int, default=64, help="tokens of what is new, a sample")
    parser.add_argument("--rehearsed", type=int, default=64, help="of what is known, a sample")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--free", action="store_true", help="kept rows of tables learn too")
    parser.add_argument("--decay", type=float, default=0.85)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warm-batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--added", choices=NAMES, default="depth")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--tag", default="")
    parser.add_argument("--root", type=Path, help="keep shards and runs here")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    root = o.root or Path(tempfile.mkdtemp())
    root.mkdir(parents=True, exist_ok=True)
    try:
        world = World(root, o.added, o.batch)
        world.make(o.scenes)
        rows = [compare(world, seed, o) for seed in range(o.seeds)]
    finally:
        if o.root is None:
            shutil.rmtree(root)
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    print(json.dumps({"seeds": rows, "mean": mean}, indent=1))
    result = json.loads(o.out.read_text()) if o.out.is_file() else {"runs": {}}
    chosen = {k: v for k, v in vars(o).items() if k not in ("root", "out", "tag")}
    rates = f"lr {o.lr:g}, muon {o.muon_lr:g}, alone {int(o.steps * o.share * o.alone)}"
    kind = f"{', lora' if o.lora else ''}, rows {'free' if o.free else 'held'}"
    sizes = f", batch {o.warm_batch}, asked {o.asked}, rehearsed {o.rehearsed} in {o.rehearsal:g}"
    result["runs"][rates + kind + sizes] = {
        "options": chosen,
        "mean": mean,
        "seeds": rows,
    }
    o.out.write_text(json.dumps(result, indent=1) + "\n")
    equal = mean["warm"] <= 1.01 * mean["scratch"]
    kept = mean["others after"] <= 1.01 * mean["others before"]
    sys.exit(0 if equal and kept else 1)


if __name__ == "__main__":
    main()
