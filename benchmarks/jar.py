"""JAR against the plain encoder on the demo world: held-out loss against encoder operations and time, at equal steps and data.

    make demo                                      (once; its tokens are used)
    python benchmarks/jar.py [--project runs/demo] [--steps 300] [--seeds 1] [--only plain,jar-16]

Pictures to caption, depth and classes, and captions to pictures: inputs of 144 tokens (36 of each of four modalities, most visible), where an
encoder's cost matters. ``shrunk`` is the real rival: a plain encoder with as few operations. The lookup stress test asks for one of many
input tokens by its place, which latents that do not know the question must lose as they get fewer. Writes ``jar.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourm.config import from_mapping, read_yaml
from fourm.flops import encoder_flops, flops
from fourm.modalities import ModalitySet
from fourm.model import ModelConfig, load_model
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import GridState, SampleState
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.optimizers import OptimizerConfig, build_optimizers
from fourm.training.pretrain import PretrainConfig, pretrain

BASE = {"dim": 128, "encoder_depth": 6, "decoder_depth": 2, "num_heads": 4}
NUM_VISIBLE, NUM_TARGETS = 128, 36


def jar(num_tokens: int, iterations: int = 2, stem: int = 1, context: str = "latents") -> dict[str, Any]:
    return {**BASE, "fusion": {"num_tokens": num_tokens, "iterations": iterations, "stem_layers": stem, "context": context}}


MODELS: dict[str, dict[str, Any]] = {
    "plain": BASE, "shrunk": {**BASE, "encoder_depth": 3}, "jar-64": jar(64), "jar-32": jar(32), "jar-16": jar(16),
    "jar-32 1 iteration": jar(32, 1), "jar-32 4 iterations": jar(32, 4), "jar-32 stem in context": jar(32, 2, 1, "latents+stem"),
    "jar-32 2 stem layers": jar(32, 2, 2),
}  # fmt: skip


def settings(project: Path, model: dict[str, Any], out: Path, steps: int, seed: int) -> dict[str, Any]:
    described = read_yaml(project / "pretrain.yaml")
    grids = {"rgb": 1.0, "depth": 1.0, "normal": 1.0, "semseg": 1.0}
    return {
        "out": str(out), "modalities": str(project / "modalities.yaml"), "tokenizers": str(project / "tokenizers"), "model": model,
        "data": {**described["data"], "sources": [{"tokens": str(project / "tokens"), "raw": str(project / "raw")}], "cache": str(project / "cache")},
        "masking": {
            "num_inputs": [NUM_VISIBLE, NUM_VISIBLE], "num_targets": [NUM_TARGETS, NUM_TARGETS],
            "components": [{"weight": 1.0, "input": {**grids, "caption": 3.0}, "target": grids, "keep": {"caption": "all"}}],
        },
        "loop": {
            "steps": steps, "batch_size": 16, "seed": seed, "optimizer": described["loop"]["optimizer"],
            "schedule": {"name": "wsd", "warmup": 30, "decay": 0.5}, "num_workers": 0, "threads": 1, "checkpoint_every": steps, "log_every": 20,
        },
        "eval_samples": 256,
    }  # fmt: skip


def generation_seconds(folder: Path, num: int = 8) -> float:
    """Seconds to draw semseg from rgb, depth and normal with 12 steps; the encoder reruns at each."""
    model = load_model(folder).eval()
    rng = np.random.default_rng(0)
    grids = {}
    for name in ("rgb", "depth", "normal"):
        m = model.modalities[name]
        grids[name] = GridState(rng.integers(0, m.vocab_size, (num, m.num_tokens)), np.ones((num, m.num_tokens), bool))
    sampler, state = Sampler(model), SampleState(num, grids, {})
    best = 1e9
    for _ in range(3):
        started = time.perf_counter()
        sampler.generate(state, "semseg", SamplingOptions(steps=12), np.arange(num), [])
        best = min(best, time.perf_counter() - started)
    return best


def train_all(project: Path, names: list[str], steps: int, seeds: int, scratch: Path) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name in names:
        losses, seconds, curve, folder = [], [], [], scratch
        for seed in range(seeds):
            folder = scratch / f"{name}-{seed}"
            config = from_mapping(PretrainConfig, settings(project, MODELS[name], folder, steps, seed), "benchmark")
            started = time.perf_counter()
            losses.append(pretrain(config)["loss"])
            seconds.append(time.perf_counter() - started)
            logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            means = np.array([r["loss"] for r in logged if "loss" in r])
            curve.append([round(float(part.mean()), 3) for part in np.array_split(means, 10)])
        c = from_mapping(ModelConfig, MODELS[name], "benchmark")
        newest = newest_checkpoint(folder / "checkpoints")
        assert newest is not None
        rows[name] = {
            "loss": f"{np.mean(losses):.4f} ± {np.std(losses):.4f}", "encoder MFLOP": round(encoder_flops(c, NUM_VISIBLE - 16, 16) / 1e6, 1),
            "all MFLOP": round(flops(c, NUM_VISIBLE - 16, 16, (NUM_TARGETS,)).total / 1e6, 1), "training seconds": round(float(np.mean(seconds)), 1),
            "generation seconds": round(generation_seconds(newest), 3), "training loss by tenths": np.mean(curve, 0).round(3).tolist(), "_loss": float(np.mean(losses)),
        }  # fmt: skip
        print(name, {k: v for k, v in rows[name].items() if k != "training loss by tenths"}, flush=True)
    return rows


# ---- lookup --------------------------------------------------------------------------------------------------------------

CELLS, VALUES = 64, 16
_CELL = {
    "kind": "grid",
    "raw": {"type": "image", "size": 64},
    "vocab_size": VALUES,
    "grid": [8, 8],
}  # the same places on both sides
LOOKUP = {"cells": _CELL, "answer": _CELL}


def lookup(steps: int) -> dict[str, float]:
    """Accuracy of naming the value of one of 64 random cells by its number, after equal training."""
    from fourm.batch import MASK_QUERY, MaskedBatch, StreamRows
    from fourm.model import FourM

    modalities = ModalitySet.from_mapping({"modalities": LOOKUP})

    def batch(rng: np.random.Generator, num: int) -> MaskedBatch:
        cells, asked = rng.integers(0, VALUES, (num, CELLS)), np.stack([rng.permutation(CELLS)[:8] for _ in range(num)])
        given, wanted = StreamRows(num), StreamRows(num)
        sample, place = np.divmod(np.arange(num * CELLS), CELLS)
        given.add(0, sample, place, cells.reshape(-1))
        who = np.repeat(np.arange(num), 8)
        at = np.sort(asked, 1).reshape(-1)
        wanted.add(1, who, at, np.full(num * 8, MASK_QUERY), cells[who, at])
        return MaskedBatch(given.encoder(), wanted.decoder(np.array([False, False])), np.arange(num))

    found = {}
    for name in ("plain", "jar-64", "jar-32", "jar-16", "jar-8"):
        torch.manual_seed(0)
        config = {**(MODELS["plain"] if name == "plain" else jar(int(name[4:]))), "dim": 64, "encoder_depth": 3}
        model = FourM(from_mapping(ModelConfig, config, "lookup"), modalities)
        optimizers = build_optimizers(model, OptimizerConfig(name="muon", lr=3e-3, muon_lr=0.01, weight_decay=0.01))
        peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        rng = np.random.default_rng(0)
        for step in range(steps):
            for optimizer, rates in zip(optimizers, peaks, strict=True):
                for group, peak in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = peak * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))
            losses = model(batch(rng, 32))
            (losses.sums.sum() / losses.counts.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        held = batch(np.random.default_rng(1), 128)
        with torch.inference_mode():
            rows = model.decode(model.encode(held.encoder), held.decoder)
            found[name] = round(float((model.logits(rows, "answer").argmax(1) == held.decoder.target).float().mean()), 3)
        print("lookup", name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--project", type=Path, default=Path("runs/demo"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default=",".join(MODELS), help="these models alone; none = the lookup test alone")
    parser.add_argument("--lookup-steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp())
    try:
        rows = train_all(
            o.project, [name.strip() for name in o.only.split(",") if name.strip() in MODELS], o.steps, o.seeds, scratch
        )
    finally:
        shutil.rmtree(scratch)
    result: dict[str, Any] = {"steps": o.steps, "seeds": o.seeds, "rows": rows}
    if "plain" in rows:
        plain = rows["plain"]
        met = [
            name for name, row in rows.items()
            if row["encoder MFLOP"] <= 0.67 * plain["encoder MFLOP"] and row["_loss"] <= 1.01 * plain["_loss"] and name.startswith("jar")
        ]  # fmt: skip
        result["a third fewer encoder operations within 1 % of the loss"] = met
    if o.lookup_steps:
        result["lookup accuracy"] = lookup(o.lookup_steps)
    for row in rows.values():
        row.pop("_loss")
    o.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))
    fewer = [
        n
        for n, r in rows.items()
        if n.startswith("jar-") and "stem" not in n and r["encoder MFLOP"] <= 0.67 * rows.get("plain", r)["encoder MFLOP"]
    ]
    sys.exit(0 if fewer or "plain" not in rows else 1)


if __name__ == "__main__":
    main()
