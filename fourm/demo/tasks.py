"""The demo's examination: any-to-any tasks on held-out scenes, judged against exact ground truth.

Every figure stands beside a baseline (the training set's mean map for dense targets, shuffled
conditions for generated pictures) and a bound (the same judge on the tokenizer's own reconstruction
of the truth). Dense figures are also given on object pixels alone: background flatters. Scenes come
from the renderer with a seed of their own; nothing is read from the training data but the mean
maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.columns import open_column
from fourm.data.shards import DamageReport, shard_paths
from fourm.demo.judge import PixelJudge
from fourm.demo.render import render
from fourm.demo.scenes_to_shards import VALIDATION_SEED, annotate
from fourm.demo.world import COLORS, SHAPES, describe, make_scenes
from fourm.evaluation.metrics import absrel, box_f1, delta1, mean_angle, mean_iou, psnr
from fourm.pipeline import AnyToAnyPipeline
from fourm.progress import progress_bar
from fourm.raw.labels import Labels
from fourm.sampling.options import SamplingOptions
from fourm.sampling.schemes import ROAR

_MEAN_SCENES = 1024
_BATCH = 64

# dense targets from pixels: one step, the likeliest code
PARALLEL = SamplingOptions(scheme=ROAR(), steps=1, temperature=0.0)
GREEDY = SamplingOptions(temperature=0.0)


@dataclass(frozen=True)
class HeldOut:
    """Scenes of one seed with their ground truth."""

    seed: int
    raw: dict[str, list[Any]]
    on_object: np.ndarray  # (S, R, R) bool
    solids: list[list[tuple[str, str]]]  # (colour, shape) of each scene

    def __len__(self) -> int:
        return len(self.solids)


def held_out_scenes(seed: int, num: int, size: int) -> HeldOut:
    """Fresh scenes of a seed that is never a training seed."""
    scenes = make_scenes(VALIDATION_SEED + seed, np.arange(num))
    renders = render(scenes, size)
    solids = [[(color, shape) for _, color, shape in describe(scenes, i)] for i in range(num)]
    return HeldOut(seed, annotate(scenes, renders), renders.object >= 0, solids)


def attribute_f1(captions: list[str], solids: list[list[tuple[str, str]]]) -> float:
    """F1 of the (colour, shape) pairs that captions name: a colour word directly before a shape
    word.
    """
    matched = named = true = 0
    for text, wanted in zip(captions, solids, strict=True):
        words = text.split()
        said = {(a, b) for a, b in pairwise(words) if a in COLORS and b in SHAPES}
        matched, named, true = (
            matched + len(said & set(wanted)),
            named + len(said),
            true + len(wanted),
        )
    return 2 * matched / max(named + true, 1)


class Examination:
    """Runs the tasks and collects figures and examples."""

    def __init__(self, pipe: AnyToAnyPipeline, scenes: HeldOut, raw: Path, cache: Path) -> None:
        self.pipe, self.scenes, self.raw, self.cache = pipe, scenes, raw, cache
        self.judge = PixelJudge(pipe.modalities["rgb"].raw.pixels)
        self.metrics: dict[str, dict[str, Any]] = {}
        self.outputs: dict[str, dict[str, list[Any]]] = {}  # task -> target -> values
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, dict[str, Any]]:
        """All tasks; ``metrics`` in the form of ``metrics.json``."""
        tasks = [
            ("rgb tokenizer", self._tokenizer),
            ("rgb->depth", self._depth),
            ("rgb->normal", self._normal),
            ("rgb->semseg", self._semseg),
            ("rgb->caption", self._caption),
            ("rgb->boxes", self._boxes),
            ("caption->rgb", lambda: self._picture(["caption"], ["rgb"])),
            ("caption->depth->rgb", lambda: self._picture(["caption"], ["depth", "rgb"])),
            ("boxes->rgb", lambda: self._picture(["boxes"], ["rgb"])),
        ]
        with progress_bar(iterable=tasks, desc="evaluate", unit="task") as bar:
            for name, task in bar:
                bar.set_postfix_str(name)
                started = time.perf_counter()
                task()
                self.seconds[name] = round(time.perf_counter() - started, 2)
        return self.metrics

    def _add(
        self,
        task: str,
        metric: str,
        value: float,
        baseline: float | None = None,
        bound: float | None = None,
    ) -> None:
        figure = {
            "value": value,
            "baseline": baseline,
            "bound": bound,
            "n": len(self.scenes),
            "seed": self.scenes.seed,
        }
        self.metrics.setdefault(task, {})[metric] = figure

    def _generate(
        self,
        task: str,
        inputs: list[str],
        targets: list[str],
        options: dict[str, SamplingOptions] | None = None,
    ) -> dict[str, list[Any]]:
        values: dict[str, list[Any]] = {name: [] for name in targets}
        for start in range(0, len(self.scenes), _BATCH):
            part = slice(start, start + _BATCH)
            given = {name: self.scenes.raw[name][part] for name in inputs}
            out = self.pipe(
                given, targets, seed=self.scenes.seed * 100_003 + start, options=options
            )
            for name in targets:
                values[name] += out[name].values
        self.outputs[task] = values
        return values

    def _reconstructed(self, name: str) -> np.ndarray:
        codec = self.pipe.codecs[name]
        return np.stack(codec.decode(codec.encode(self.scenes.raw[name])))

    def _mean_map(self, name: str, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        spec = self.pipe.modalities[name].raw
        column = open_column(
            shard_paths(self.raw, "train", name),
            lambda d, e: spec.read(d, e)[None],
            spec.extensions,
            f"raw {spec}",
            self.cache,
            DamageReport(),
        )
        values = column.ragged(np.arange(min(_MEAN_SCENES, len(column)))).padded()[:, 0]
        return np.broadcast_to(reduce(values), (len(self.scenes), *values.shape[1:]))

    def _tokenizer(self) -> None:
        truth = np.stack(self.scenes.raw["rgb"])
        self._add(
            "rgb",
            "psnr",
            psnr(self._reconstructed("rgb"), truth),
            psnr(self._mean_map("rgb", lambda v: v.mean(0)), truth),
        )

    def _depth(self) -> None:
        truth, on = np.stack(self.scenes.raw["depth"]), self.scenes.on_object
        got = np.stack(
            self._generate("rgb->depth", ["rgb"], ["depth"], {"depth": PARALLEL})["depth"]
        )
        mean, best = self._mean_map("depth", lambda v: v.mean(0)), self._reconstructed("depth")
        for metric, figure in (
            ("absrel_object", lambda p: absrel(p, truth, on)),
            ("absrel", lambda p: absrel(p, truth)),
            ("delta1", lambda p: delta1(p, truth)),
            ("delta1_object", lambda p: delta1(p, truth, on)),
        ):
            self._add("rgb->depth", metric, figure(got), figure(mean), figure(best))

    def _normal(self) -> None:
        truth, on = np.stack(self.scenes.raw["normal"]), self.scenes.on_object
        got = np.stack(
            self._generate("rgb->normal", ["rgb"], ["normal"], {"normal": PARALLEL})["normal"]
        )
        mean, best = self._mean_map("normal", lambda v: v.mean(0)), self._reconstructed("normal")
        for metric, mask in (("angle_object", on), ("angle", None)):
            self._add(
                "rgb->normal",
                metric,
                mean_angle(got, truth, mask),
                mean_angle(mean, truth, mask),
                mean_angle(best, truth, mask),
            )

    def _semseg(self) -> None:
        truth = np.stack(self.scenes.raw["semseg"])
        labels = self.pipe.modalities["semseg"].raw
        assert isinstance(labels, Labels)
        num = len(labels.classes)
        got = np.stack(
            self._generate("rgb->semseg", ["rgb"], ["semseg"], {"semseg": PARALLEL})["semseg"]
        )
        common = self._mean_map(
            "semseg", lambda v: np.stack([(v == c).sum(0) for c in range(num)]).argmax(0)
        )
        self._add(
            "rgb->semseg",
            "miou",
            mean_iou(got, truth, num),
            mean_iou(common, truth, num),
            mean_iou(self._reconstructed("semseg"), truth, num),
        )

    def _caption(self) -> None:
        got = self._generate("rgb->caption", ["rgb"], ["caption"], {"caption": GREEDY})["caption"]
        shuffled = attribute_f1(got, self.scenes.solids[1:] + self.scenes.solids[:1])
        self._add(
            "rgb->caption",
            "attribute_f1",
            attribute_f1(got, self.scenes.solids),
            shuffled,
            attribute_f1(self.scenes.raw["caption"], self.scenes.solids),
        )

    def _boxes(self) -> None:
        truth = self.scenes.raw["boxes"]
        got = self._generate("rgb->boxes", ["rgb"], ["boxes"], {"boxes": GREEDY})["boxes"]
        codec = self.pipe.codecs["boxes"]
        self._add(
            "rgb->boxes",
            "f1_50",
            box_f1(got, truth),
            box_f1(got, truth[1:] + truth[:1]),
            box_f1(codec.decode(codec.encode(truth)), truth),
        )

    def _picture(self, inputs: list[str], targets: list[str]) -> None:
        task = "->".join([*inputs, *targets])
        got = np.stack(self._generate(task, inputs, targets)["rgb"])
        solids = self.scenes.solids
        bound = self.judge.attribute_accuracy(self._reconstructed("rgb"), solids)
        shuffled = self.judge.attribute_accuracy(got, solids[1:] + solids[:1])
        self._add(
            task, "attribute_accuracy", self.judge.attribute_accuracy(got, solids), shuffled, bound
        )
