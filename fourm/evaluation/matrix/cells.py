"""Makes one cell of the matrix: tokens scored in one pass, targets generated and decoded, both
between their bounds.

A cell is a pure function of (model, samples, seed, number of generations, condition, target): no
other cell and no rank has a say in it. Lower bounds: ``constant``, the best answer that knows only
the other samples; ``shuffled``, what the next sample's condition gives. The upper bound is the
tokenizer's reconstruction.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fourm.evaluation.efficientnet import pooled_features
from fourm.evaluation.held_out import Samples, packed
from fourm.evaluation.matrix.conditions import Condition
from fourm.evaluation.matrix.distances import frechet_distance, kernel_distance
from fourm.evaluation.matrix.figures import (
    Calibration,
    Cell,
    Coverage,
    Figure,
    PictureDistances,
    shortfall,
)
from fourm.evaluation.matrix.judges import Judge, judge_of
from fourm.evaluation.matrix.scores import counted_cross_entropy, reordered, score_tokens
from fourm.given import Tokens
from fourm.modalities import Modality
from fourm.pipeline import AnyToAnyPipeline
from fourm.tokens import SampleTokens

_BATCH = 32  # samples that are generated at once
_FEWEST_COVERED = 3  # generations of which one can be left out of a range
_FEWEST_PICTURES = 3
Values = list[Any]  # one of each sample


@dataclass(frozen=True)
class Truth:
    """What a target's generations are held against; made once for all its cells."""

    judge: Judge
    values: Values
    reconstructed: Values
    with_pictures: bool

    @cached_property
    def bounds(self) -> dict[str, dict[str, float]]:
        """All figures of the truth itself, of its reconstruction, and of the constant answer."""
        answers = {
            "perfect": self.values,
            "upper": self.reconstructed,
            "constant": self.judge.constants(self.values),
        }
        return {name: self.judge.figures(a, self.values) for name, a in answers.items()}

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Of true pictures and of reconstructed ones."""
        return pooled_features(self.values), pooled_features(self.reconstructed)

    def judged(self, cell: Cell, generations: list[Values]) -> Cell:
        """A cell with all that G generations of all samples say."""
        return replace(
            cell,
            figures=self.figures(generations, shuffled=bool(cell.given)),
            spread=self.spread(generations) if len(generations) > 1 else None,
            coverage=self.coverage(generations) if len(generations) >= _FEWEST_COVERED else None,
            pictures=self.distances(generations[0]) if self.with_pictures else None,
        )

    def figures(self, generations: list[Values], shuffled: bool) -> dict[str, Figure]:
        """Figures of G generations of all samples. ``shuffled``: something was given, so that
        another sample's condition is a bound: that of the next sample, whose outputs are at hand.
        """
        of_all = [self.judge.figures(values, self.values) for values in generations]
        moved = [self.judge.figures(_next(values), self.values) for values in generations]
        several = len(generations) > 1
        best = self._best(generations) if several else {}
        found = {}
        for name, perfect in self.bounds["perfect"].items():
            each = np.array([figures[name] for figures in of_all])
            lower = {"constant": self.bounds["constant"][name]}
            if shuffled:
                lower["shuffled"] = float(np.mean([figures[name] for figures in moved]))
            found[name] = Figure.between(
                float(each.mean()),
                lower,
                self.bounds["upper"][name],
                perfect,
                best.get(name, math.nan),
                float(each.std(ddof=1)) if several else math.nan,
            )
        return found

    def _best(self, generations: list[Values]) -> dict[str, float]:
        """Each figure of the samples' best generations by that figure, all samples together."""
        each = [
            [self.judge.figures([values[i]], [truth]) for values in generations]
            for i, truth in enumerate(self.values)
        ]
        found = {}
        for name, perfect in self.bounds["perfect"].items():
            short = np.array([[shortfall(perfect, f[name]) for f in row] for row in each])
            best = np.where(np.isfinite(short), short, np.inf).argmin(1)
            chosen = [generations[number][i] for i, number in enumerate(best)]
            found[name] = self.judge.figures(chosen, self.values)[name]
        return found

    def coverage(self, generations: list[Values]) -> Coverage:
        """See ``Coverage``; means over samples and over the generation that is left out."""
        shares: list[list[float]] = [[], [], []]
        for i, (truth, tokenized) in enumerate(zip(self.values, self.reconstructed, strict=True)):
            several = [values[i] for values in generations]
            for left_out, one in enumerate(several):
                others = several[:left_out] + several[left_out + 1 :]
                for share, value in zip(shares, (truth, tokenized, one), strict=True):
                    share.append(self.judge.covered(value, others))
        means = [float(np.mean(share)) for share in shares]
        return Coverage(truth=means[0], tokenized=means[1], nominal=means[2])

    def spread(self, generations: list[Values]) -> float | None:
        """Mean spread of a sample's generations; None if they cannot be compared."""
        each = [
            self.judge.spread([values[i] for values in generations])
            for i in range(len(self.values))
        ]
        known = [value for value in each if math.isfinite(value)]
        return float(np.mean(known)) if known else None

    def distances(self, values: Values) -> PictureDistances:
        """Between generated and true pictures."""
        true, reconstructed = self.features
        features = pooled_features(values)
        kernel, error = kernel_distance(features, true)
        return PictureDistances(
            frechet=frechet_distance(features, true),
            frechet_reconstructed=frechet_distance(reconstructed, true),
            kernel=kernel,
            kernel_error=error,
            kernel_reconstructed=kernel_distance(reconstructed, true)[0],
        )


class CellMaker:
    """Makes cells of one model on one set of samples.

    Args:
        with_pictures: pictures' distributions are compared too, which needs their network.
    """

    def __init__(
        self,
        pipe: AnyToAnyPipeline,
        samples: Samples,
        num_generations: int,
        seed: int,
        with_pictures: bool,
    ) -> None:
        self.pipe, self.samples = pipe, samples
        self.num_generations, self.seed = num_generations, seed
        self.with_pictures = with_pictures and len(samples) >= _FEWEST_PICTURES
        self._truths: dict[str, Truth | None] = {}

    @cached_property
    def ids(self) -> dict[str, list[np.ndarray]]:
        """Ids of each modality that has any, one array a sample."""
        known = [self.pipe.modalities[name] for name in self.samples.columns]
        return {
            m.name: self.samples.ids(m, self.pipe.codecs) for m in known if m.kind != "continuous"
        }

    @cached_property
    def tokens(self) -> SampleTokens:
        """All modalities as tokens that can be masked."""
        known = [self.pipe.modalities[name] for name in self.samples.columns]
        vectors = {m.name: self.samples.vectors(m) for m in known if m.kind == "continuous"}
        return packed(self.ids, vectors)

    def make(self, condition: Condition, target: Modality) -> Cell:
        """One cell, which must be there (``condition.given``)."""
        started = time.perf_counter()
        given = condition.given(target)
        assert given is not None
        cross_entropy, calibration = self._tokens_judged(given, target)
        cell = Cell(
            condition=condition.name,
            given=given,
            target=target.name,
            cross_entropy=cross_entropy,
            calibration=calibration,
        )
        truth = self._truth(target)
        if truth is not None:
            numbers = range(self.num_generations)
            cell = truth.judged(cell, [self.generate(given, target, n) for n in numbers])
        better = not cell.worse_figures if given else None
        return replace(cell, better=better, seconds=round(time.perf_counter() - started, 2))

    def _tokens_judged(self, given: Sequence[str], target: Modality) -> tuple[Figure, Calibration]:
        scores = score_tokens(self.pipe.model, self.tokens, given, target.name)
        lower = {"constant": counted_cross_entropy(scores, target.vocab_size)}
        if given:
            moved = reordered(self.tokens, np.roll(np.arange(len(self.samples)), -1), given)
            shuffled = score_tokens(self.pipe.model, moved, given, target.name)
            lower["shuffled"] = shuffled.cross_entropy
        figure = Figure.between(scores.cross_entropy, lower, upper=0.0, perfect=0.0)
        return figure, Calibration.of(scores)

    def generate(self, given: Sequence[str], target: Modality, number: int) -> Values:
        """Generation ``number`` of every sample, decoded, with the model's own settings."""
        num, values = len(self.samples), []
        for start in range(0, num, _BATCH):
            part = range(start, min(start + _BATCH, num))
            inputs = {name: self._inputs(name, part) for name in given}
            seeds = [self.seed + number * num + i for i in part]
            out = self.pipe(inputs, [target.name], seed=seeds, num_samples=len(part))
            values += out[target.name].values
        return values

    def _inputs(self, name: str, part: range) -> list[Any]:
        """What the pipeline is given of a modality: ids, or raw values that the model reads."""
        if self.pipe.modalities[name].kind == "continuous":
            return [self.samples.of(name)[i] for i in part]
        return [Tokens(self.ids[name][i]) for i in part]

    def _truth(self, target: Modality) -> Truth | None:
        """None where only ids are known: there is nothing to decode, or nothing to hold it to."""
        name = target.name
        if name not in self._truths:
            values, truth = self.samples.raw(name), None
            if values is not None and target.tokenizer is not None:
                judge, ids = judge_of(target.raw), self.ids[name]
                codec = self.pipe.codecs[name]
                made = [codec.decode(ids[i : i + _BATCH]) for i in range(0, len(ids), _BATCH)]
                reconstructed = [value for part in made for value in part]
                shown = self.with_pictures and judge.are_pictures
                truth = Truth(judge, values, reconstructed, shown)
            self._truths[name] = truth
        return self._truths[name]


def _next(values: Values) -> Values:
    """For each sample what the next one has."""
    return [*values[1:], *values[:1]]
