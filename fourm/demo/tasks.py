"""The demo's examination: any-to-any tasks on held-out scenes, judged against exact ground truth.

Every figure stands beside a baseline (the training set's mean map for dense targets, the next
scene's truth for words, boxes and generated pictures), a bound (the same judge on the tokenizer's
own reconstruction of the truth), and its standard deviation by the choice of scenes. Dense figures
are also given on object pixels alone: background flatters. Scenes come from the renderer with a
seed of their own; nothing is read from the training data but the mean maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.columns import open_column
from fourm.data.shards import DamageReport, shard_paths
from fourm.demo.held_out import HeldOut
from fourm.demo.judge import PixelJudge
from fourm.demo.pairs import Pairs
from fourm.demo.solid_judge import SolidJudge
from fourm.demo.words import attribute_f1, exact_share, filled_share, label_f1, with_gap
from fourm.evaluation.metrics import absrel, box_f1, delta1, mean_angle, mean_iou, psnr
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.progress import progress_bar
from fourm.raw.labels import Labels
from fourm.sampling.options import SamplingOptions
from fourm.sampling.schemes import ROAR

_MEAN_SCENES = 1024
_BATCH = 64
_BLOCKS = 16  # of scenes, whose figures tell the deviation of a figure

# dense targets from pixels: one pass, the mean code
PARALLEL = SamplingOptions(scheme=ROAR(), steps=1, temperature=0.0, decode="mean")
GREEDY = SamplingOptions(temperature=0.0)
FILLED = SamplingOptions(temperature=0.0, candidates=32)


class Examination:
    """Runs the tasks and collects figures and examples."""

    def __init__(self, pipe: AnyToAnyPipeline, scenes: HeldOut, raw: Path, cache: Path) -> None:
        self.pipe, self.scenes, self.raw, self.cache = pipe, scenes, raw, cache
        self.judge = PixelJudge(pipe.modalities["rgb"].raw.pixels)
        self.strict = SolidJudge(pipe.modalities["rgb"].raw.pixels)
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
            ("rgb->caption", lambda: self._caption("rgb")),
            ("boxes->caption", lambda: self._caption("boxes")),
            ("rgb->boxes", lambda: self._boxes("rgb")),
            ("caption->boxes", lambda: self._boxes("caption")),
            ("rgb+gap->caption", self._infilling),
            ("caption->rgb", lambda: self._picture(["caption"], ["rgb"])),
            ("caption->depth->rgb", lambda: self._picture(["caption"], ["depth", "rgb"])),
            ("boxes->rgb", lambda: self._picture(["boxes"], ["rgb"])),
            ("all other pairs", self._pairs),
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
        figure: Callable[[Any, np.ndarray], float],
        got: Any,
        baseline: float | None = None,
        bound: float | None = None,
    ) -> None:
        """Note ``figure(got, scenes)`` of all scenes that something was made for, and how far it
        moves with the choice of them: from its values on disjoint blocks.
        """
        num = len(got)
        blocks = np.array_split(np.arange(num), min(_BLOCKS, num))
        values = [figure(got, block) for block in blocks]
        self.metrics.setdefault(task, {})[metric] = {
            "value": figure(got, np.arange(num)),
            "deviation": float(np.std(values, ddof=1) / len(values) ** 0.5) if num > 1 else None,
            "baseline": baseline,
            "bound": bound,
            "n": num,
            "seed": self.scenes.seed,
        }

    def _generate(
        self,
        task: str,
        inputs: list[str],
        targets: list[str],
        options: dict[str, SamplingOptions] | None = None,
    ) -> dict[str, list[Any]]:
        return self._ask(task, {name: self.scenes.raw[name] for name in inputs}, targets, options)

    def _ask(
        self,
        task: str,
        inputs: dict[str, list[Any]],
        targets: list[str],
        options: dict[str, SamplingOptions] | None = None,
    ) -> dict[str, list[Any]]:
        values: dict[str, list[Any]] = {name: [] for name in targets}
        for start in range(0, len(self.scenes), _BATCH):
            part = slice(start, start + _BATCH)
            given = {name: of[part] for name, of in inputs.items()}
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
        mean = self._mean_map("rgb", lambda v: v.mean(0))
        self._add(
            "rgb",
            "psnr",
            lambda p, i: psnr(p[i], truth[i]),
            self._reconstructed("rgb"),
            psnr(mean, truth),
        )
        self._add("rgb", "pixels", lambda p, i: float(p.shape[2]), truth)

    def _dense(
        self,
        name: str,
        reduce: Callable[[np.ndarray], np.ndarray],
        figures: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]],
    ) -> None:
        """A dense target from rgb; figures of (predicted, truth, scenes)."""
        task, truth = f"rgb->{name}", np.stack(self.scenes.raw[name])
        got = np.stack(self._generate(task, ["rgb"], [name], {name: PARALLEL})[name])
        mean, best, every = (
            self._mean_map(name, reduce),
            self._reconstructed(name),
            np.arange(len(truth)),
        )
        for metric, figure in figures.items():
            of = partial(_of_some, figure, truth)
            self._add(task, metric, of, got, of(mean, every), of(best, every))

    def _depth(self) -> None:
        on = self.scenes.on_object
        self._dense(
            "depth",
            lambda v: v.mean(0),
            {
                "absrel_object": lambda p, t, i: absrel(p, t, on[i]),
                "absrel": lambda p, t, i: absrel(p, t),
                "delta1": lambda p, t, i: delta1(p, t),
                "delta1_object": lambda p, t, i: delta1(p, t, on[i]),
            },
        )

    def _normal(self) -> None:
        on = self.scenes.on_object
        self._dense(
            "normal",
            lambda v: v.mean(0),
            {
                "angle_object": lambda p, t, i: mean_angle(p, t, on[i]),
                "angle": lambda p, t, i: mean_angle(p, t),
            },
        )

    def _semseg(self) -> None:
        labels = self.pipe.modalities["semseg"].raw
        assert isinstance(labels, Labels)
        num = len(labels.classes)
        self._dense(
            "semseg",
            self._commonest,
            {"miou": lambda p, t, i: mean_iou(p, t, num)},
        )

    def _caption(self, given: str) -> None:
        task = f"{given}->caption"
        got = self._generate(task, [given], ["caption"], {"caption": GREEDY})["caption"]
        truth, solids = self.scenes.raw["caption"], self.scenes.solids
        self._add(
            task,
            "attribute_f1",
            lambda p, i: attribute_f1(_some(p, i), _some(solids, i)),
            got,
            attribute_f1(got, _next(solids)),
            attribute_f1(truth, solids),
        )
        self._add(
            task,
            "exact",  # size words and order too
            lambda p, i: exact_share(_some(p, i), _some(truth, i)),
            got,
            exact_share(got, _next(truth)),
            1.0,
        )

    def _boxes(self, given: str) -> None:
        task, truth = f"{given}->boxes", self.scenes.raw["boxes"]
        got = self._generate(task, [given], ["boxes"], {"boxes": GREEDY})["boxes"]
        codec, solids = self.pipe.codecs["boxes"], self.scenes.solids
        self._add(
            task,
            "label_f1",
            lambda p, i: label_f1(_some(p, i), _some(solids, i)),
            got,
            label_f1(got, _next(solids)),
            1.0,
        )
        if given == "caption":  # which says nothing of places
            return
        self._add(
            task,
            "f1_50",
            lambda p, i: box_f1(_some(p, i), _some(truth, i)),
            got,
            box_f1(got, _next(truth)),
            box_f1(codec.decode(codec.encode(truth)), truth),
        )

    def _infilling(self) -> None:
        task, truth = "rgb+gap->caption", self.scenes.raw["caption"]
        gaps = [with_gap(text, i) for i, text in enumerate(truth)]
        given = {"rgb": self.scenes.raw["rgb"], "caption": [text for text, _ in gaps]}
        got = self._ask(task, given, ["caption"], {"caption": FILLED})["caption"]
        places = [place for _, place in gaps]
        self._add(
            task,
            "exact",
            lambda p, i: filled_share(_some(p, i), _some(truth, i), _some(places, i)),
            got,
            0.0,
            1.0,
        )

    def _pairs(self) -> None:
        means = {
            "depth": partial(np.mean, axis=0),
            "normal": partial(np.mean, axis=0),
            "semseg": self._commonest,
        }
        Pairs(
            self.pipe,
            self.scenes,
            self.judge,
            lambda name: self._mean_map(name, means[name]),
            self._add,
        ).run()

    def _commonest(self, values: np.ndarray) -> np.ndarray:
        labels = self.pipe.modalities["semseg"].raw
        assert isinstance(labels, Labels)
        return np.stack([(values == c).sum(0) for c in range(len(labels.classes))]).argmax(0)

    def _picture(self, inputs: list[str], targets: list[str]) -> None:
        task = "->".join([*inputs, *targets])
        got = self._generate(task, inputs, targets)["rgb"]
        solids, best = self.scenes.solids, list(self._reconstructed("rgb"))
        for metric, judge in (("attribute_accuracy", self.judge), ("solid_accuracy", self.strict)):
            self._add(
                task,
                metric,
                lambda p, i, judge=judge: judge.attribute_accuracy(_some(p, i), _some(solids, i)),
                got,
                judge.attribute_accuracy(got, _next(solids)),
                judge.attribute_accuracy(best, solids),
            )
        self._add(
            task,
            "empty",  # pictures in which nothing is seen
            lambda p, i: float(np.mean([not self.judge.look(x) for x in _some(p, i)])),
            got,
            None,
            float(np.mean([not self.judge.look(x) for x in best])),
        )


def _of_some(
    figure: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    truth: np.ndarray,
    predicted: np.ndarray,
    scenes: np.ndarray,
) -> float:
    return figure(predicted[scenes], truth[scenes], scenes)


def _some(values: Sequence[Any], scenes: np.ndarray) -> list[Any]:
    return [values[i] for i in scenes]


def _next(values: list[Any]) -> list[Any]:
    """The truth of the next scene, for what is right by chance."""
    return values[1:] + values[:1]
