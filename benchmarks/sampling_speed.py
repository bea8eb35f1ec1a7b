"""Seconds of sampling beside 4M's way of it (``reference_sampling.py``), in one run, equal weights.

    OMP_NUM_THREADS=1 python benchmarks/sampling_speed.py [--size small|b] [--batch 1]

Before anything is timed both take the likeliest ids in one step, and the likeliest ids of a text:
they must be equal. CPU seconds, the best of ``--repeat``, both ways in turn. Exit status 0 if
nothing is slower than the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference_sampling import ReferenceSampler

from fourm.modalities import END_ID, FIRST_SENTINEL, ModalitySet
from fourm.model.model import FourM, ModelConfig
from fourm.sampling import sequences
from fourm.sampling.gaps import forbidden_ids
from fourm.sampling.options import SamplingOptions, Sweep
from fourm.sampling.sampler import Sampler
from fourm.sampling.schedules import tokens_done
from fourm.sampling.state import GridState, SampleState

SIZES = {"tiny": (2, 64, 2), "small": (6, 384, 6), "b": (12, 768, 12)}  # depth, width, heads
SCALE, TEMPERATURE, TEXT = 2.0, 0.7, 64
PICTURE = {"raw": {"type": "image", "size": 224}, "grid": [14, 14]}
SET = {
    "tokenizers": {"text": {"type": "text", "vocab_size": 30000, "num_sentinels": 200}},
    "modalities": {
        "rgb": {**PICTURE, "kind": "grid", "vocab_size": 16384},
        "depth": {**PICTURE, "kind": "grid", "vocab_size": 8192},
        "caption": {
            "kind": "sequence",
            "raw": {"type": "text"},
            "tokenizer": "text",
            "max_tokens": TEXT,
        },
    },
}


def make_model(size: str) -> FourM:
    """Random weights whose outputs are not all alike."""
    torch.manual_seed(0)
    depth, width, heads = SIZES[size]
    config = ModelConfig(dim=width, encoder_depth=depth, decoder_depth=depth, num_heads=heads)
    model = FourM(config, ModalitySet.from_mapping(SET)).eval()
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.05)
    return model.requires_grad_(False)


class Bench:
    """Both ways of each kind of work."""

    def __init__(self, model: FourM, batch: int) -> None:
        self.model, self.batch, self.sampler = model, batch, Sampler(model)
        self.modalities = model.modalities
        rng = np.random.default_rng(0)
        self.caption = rng.integers(300, 30000, (1, 24)).repeat(batch, 0)
        self.depth = rng.integers(0, 8192, (1, 196)).repeat(batch, 0)

    def ours(self, given: str, target: str, options: SamplingOptions, chain: bool = False) -> Any:
        """The target's ids; with ``chain`` depth comes before it."""
        state = SampleState(self.batch)
        if given == "caption":
            state.sequences["caption"] = list(self.caption)
        else:
            state.grids["depth"] = GridState(self.depth, np.ones(self.depth.shape, bool))
        if target == "caption":  # all of it is one gap
            state.sequences["caption"] = [np.array([FIRST_SENTINEL])] * self.batch
        for name in ("depth", target) if chain else (target,):
            state = self.sampler.generate(state, name, options, np.arange(self.batch), [given])
        return state.sequences[target] if target == "caption" else state.grids[target].values

    def reference(
        self, given: str, target: str, steps: int, temperature: float, scale: float = SCALE
    ) -> Any:
        """The same, MaskGIT, as 4M samples it."""
        forbidden = torch.from_numpy(never_ending(30000)).to(self.model.device)
        sampler = ReferenceSampler(self.model, scale, temperature, forbidden)
        known = self.caption if given == "caption" else self.depth
        state = sampler.empty(self.batch, {given: torch.from_numpy(known)})
        if target == "caption":
            return sampler.sequence(state, "caption", steps).numpy()
        per_step = np.diff(tokens_done("cosine", steps, np.array([196]))[:, 0]).tolist()
        state = sampler.grid(state, target, per_step, is_maskgit=True)
        return state.given[self.modalities.index(target)].tokens.numpy()

    def check(self) -> None:
        """Both compute the same: the likeliest ids are equal."""
        once = SamplingOptions(steps=1, temperature=0.0, guidance_scale=SCALE)
        ours = self.ours("caption", "rgb", once)
        assert np.array_equal(ours, self.reference("caption", "rgb", 1, 0.0))
        texts = self.ours("depth", "caption", once)
        wanted = self.reference("depth", "caption", TEXT, 0.0)
        assert all(np.array_equal(t[:TEXT], w) for t, w in zip(texts, wanted, strict=True))

    def works(self) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
        """Name -> (ours, the reference's)."""

        def options(scheme: str, steps: int, scale: float = SCALE, **more: Any) -> SamplingOptions:
            return SamplingOptions(
                scheme=scheme,  # type: ignore[arg-type]
                steps=steps,
                temperature=TEMPERATURE,
                guidance_scale=scale,
                **more,
            )

        mask_git, plain = options("maskgit", 8), options("maskgit", 8, 1.0)
        swept = options("halton", 8, sweeps=1, sweep=Sweep(parts=4))
        return {
            f"text of {TEXT} tokens, guided": (
                lambda: self.ours("depth", "caption", mask_git),
                lambda: self.reference("depth", "caption", TEXT, TEMPERATURE),
            ),
            "picture, MaskGIT 8, guided": (
                lambda: self.ours("caption", "rgb", mask_git),
                lambda: self.reference("caption", "rgb", 8, TEMPERATURE),
            ),
            "picture, MaskGIT 8": (
                lambda: self.ours("caption", "rgb", plain),
                lambda: self.reference("caption", "rgb", 8, TEMPERATURE, 1.0),
            ),
            "picture, guided: Halton 8 and a sweep in 4 against MaskGIT 16": (
                lambda: self.ours("caption", "rgb", swept),
                lambda: self.reference("caption", "rgb", 16, TEMPERATURE),
            ),
        }


def never_ending(vocab_size: int) -> np.ndarray:
    """Mask (V,) of ids that no text gets here, so that all decode the same number of tokens: the
    end and sentinels beside what never is generated.
    """
    mask = forbidden_ids(vocab_size)
    mask[END_ID] = mask[FIRST_SENTINEL : FIRST_SENTINEL + 200] = True
    return mask


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    sequences.forbidden_ids = never_ending
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        bench = Bench(make_model(o.size), o.batch)
        bench.check()
        for name, ways in bench.works().items():
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(o.repeat):
                for way, taken in zip(ways, seconds, strict=True):
                    started = time.process_time()
                    way()
                    taken.append(time.process_time() - started)
            ours, theirs = min(seconds[0]), min(seconds[1])
            found[name] = {"ours": ours, "reference": theirs, "times": theirs / ours}
            print(f"{name:64s} {ours:8.2f} {theirs:8.2f} {theirs / ours:6.2f} x", flush=True)
    if o.out:
        o.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(row["times"] >= 1 for row in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
