"""What a model of the Earth is asked on held-out blocks, beside what costs nothing.

Each task has inputs, one target, the raw type's own figures, and predictors to beat: the nearest
training tiles (coordinates alone), the commonest class or mean map, and from colour a table of
training pixels. The bound is the tokenizer's reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fourm.evaluation.metrics import mean_iou, psnr
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.sampling.options import SamplingOptions
from fourm.sampling.schemes import ROAR
from fourm_data_prep.earth.rivals import cheap_answers
from fourm_data_prep.earth.tiles import Tiles

_BATCH = 50
ONE_PASS = SamplingOptions(scheme=ROAR(), steps=1, temperature=0.0, decode="mean")

Figures = Callable[[np.ndarray, np.ndarray], dict[str, float]]


@dataclass(frozen=True)
class Task:
    """One target from some inputs."""

    inputs: tuple[str, ...]
    target: str

    @property
    def name(self) -> str:
        """As it is called in ``metrics.json``."""
        return f"{'+'.join(self.inputs)}->{self.target}"


TASKS = (
    Task(("rgb",), "land_cover"),
    Task(("rgb",), "climate"),
    Task(("rgb",), "height"),
    Task(("rgb",), "relief"),
    Task(("rgb", "direction"), "land_cover"),
    Task(("rgb", "direction"), "climate"),
    Task(("land_cover", "height"), "rgb"),
    Task(("land_cover", "climate", "height"), "rgb"),
    Task(("height", "climate"), "land_cover"),
    Task(("caption",), "climate"),
)

EXAMINED = {"rgb", "caption", *(n for task in TASKS for n in (*task.inputs, task.target))}


def figures_of(raw: Any) -> Figures:
    """The figures of a raw type that stand in the table; (predicted, truth), (B, ...) each."""
    if isinstance(raw, Labels):
        num = len(raw.classes)
        return lambda p, t: {"accuracy": float((p == t).mean()), "miou": mean_iou(p, t, num)}
    if isinstance(raw, Image):
        return lambda p, t: {"psnr": psnr(p, t)}
    return lambda p, t: {"mae": float(np.abs(p - t).mean())}


@dataclass
class Examination:
    """A model, training tiles for baselines, held-out tiles for questions."""

    pipe: AnyToAnyPipeline
    train: Tiles
    held_out: Tiles
    seed: int = 0
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)  # by task

    def run(self, tasks: tuple[Task, ...] = TASKS) -> dict[str, dict[str, Any]]:
        """All tasks whose modalities the model has; ``metrics`` in the form of
        ``metrics.json``.
        """
        for task in tasks:
            names = {m.name for m in self.pipe.modalities}
            if {*task.inputs, task.target} <= names:
                self._examine(task)
        return self.metrics

    def _examine(self, task: Task) -> None:
        raw = self.pipe.modalities[task.target].raw
        figures, truth = figures_of(raw), self.held_out.stacked(task.target)
        got = self.outputs[task.name] = self.answer(task.inputs, task.target)
        codec = self.pipe.codecs[task.target]
        bound = figures(np.stack(codec.decode(codec.encode(list(truth)))), truth)
        cheap = {
            name: figures(predicted.astype(truth.dtype), truth)
            for name, predicted in self._cheap(task, raw).items()
        }
        spread = _jackknife(figures, got, truth, self.held_out.regions())
        for metric, value in figures(got, truth).items():
            best = min if metric == "mae" else max
            self.metrics.setdefault(task.name, {})[metric] = {
                "value": value,
                "deviation": spread.get(metric),
                "baseline": best(of[metric] for of in cheap.values()),
                "baselines": {name: of[metric] for name, of in cheap.items()},
                "bound": bound[metric],
                "n": len(truth),
                "seed": self.seed,
            }

    def answer(self, inputs: tuple[str, ...], target: str) -> np.ndarray:
        """The model's one answer for each held-out tile, (B, ...)."""
        values: list[Any] = []
        for start in range(0, len(self.held_out), _BATCH):
            given = {n: self.held_out.values[n][start : start + _BATCH] for n in inputs}
            seed = self.seed * 100_003 + start
            out = self.pipe(given, [target], seed=seed, options={target: ONE_PASS})
            values += out[target].values
        return np.stack(values)

    def _cheap(self, task: Task, raw: Any) -> dict[str, np.ndarray]:
        """Predictors by name that need no network."""
        known = self.train.stacked(task.target)
        with_colors = "rgb" in task.inputs
        found = cheap_answers(self.train, self.held_out, task.target, raw, with_colors)
        if isinstance(raw, Labels):
            common = np.bincount(known.ravel(), minlength=len(raw.classes)).argmax()
            constant = {"majority": np.full(known.shape[1:], common)}
        else:
            constant = {"mean": known.astype(np.float32).mean(0)}
        shape = (len(self.held_out), *known.shape[1:])
        same = {name: np.broadcast_to(value, shape) for name, value in constant.items()}
        return {**same, **{name: np.stack(values) for name, values in found.items()}}


def _jackknife(
    figures: Figures, got: np.ndarray, truth: np.ndarray, regions: list[np.ndarray]
) -> dict[str, float]:
    """Standard deviation of each figure by the choice of regions: each is left out once. Nothing
    where there is one region.
    """
    if len(regions) < 2:
        return {}
    parts = []
    for left_out in regions:
        kept = np.delete(np.arange(len(truth)), left_out)
        parts.append(figures(got[kept], truth[kept]))
    shrink = (len(parts) - 1) ** 0.5
    return {name: shrink * float(np.std([part[name] for part in parts])) for name in parts[0]}
