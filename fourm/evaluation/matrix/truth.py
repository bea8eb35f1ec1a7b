"""What a target's generations are held against: the truth, its reconstruction, the constant answer,
and rivals.

Two kinds of outputs are judged. Generations are drawn; one may be further from the truth than a
mean is, rightly so where the condition leaves much open. The answer is the one that the model would
give if it could give but one: what is fairly compared with predictors that do the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fourm.evaluation.efficientnet import pooled_features
from fourm.evaluation.matrix.distances import frechet_distance, kernel_distance
from fourm.evaluation.matrix.figures import (
    Cell,
    Coverage,
    Figure,
    PictureDistances,
    SpatialDeviation,
    shortfall,
)
from fourm.evaluation.matrix.judges import Judge
from fourm.evaluation.metrics import spatial_deviation

_FEWEST_COVERED = 3  # generations of which one can be left out of a range
Values = list[Any]  # one of each sample
Rivals = Mapping[str, Values]  # what predictors that cost nothing say, by their name


@dataclass(frozen=True)
class Truth:
    """What a target's generations are held against; made once for all its cells."""

    judge: Judge
    values: Values
    reconstructed: Values
    with_pictures: bool  # their distributions are compared by the features of a network

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

    def judged(self, cell: Cell, generations: list[Values], answer: Values, rivals: Rivals) -> Cell:
        """A cell with all that the one answer and G generations of all samples say."""
        shuffled = bool(cell.given)
        cell = replace(cell, answer=self.figures([answer], shuffled, rivals))
        if not generations:
            return cell
        return replace(
            cell,
            figures=self.figures(generations, shuffled, rivals),
            spread=self.spread(generations) if len(generations) > 1 else None,
            coverage=self.coverage(generations) if len(generations) >= _FEWEST_COVERED else None,
            pictures=self.distances(generations) if self.with_pictures else None,
            deviation=self.deviation(generations) if self.judge.are_pictures else None,
        )

    def figures(
        self, generations: list[Values], shuffled: bool, rivals: Rivals
    ) -> dict[str, Figure]:
        """Figures of G generations of all samples. ``shuffled``: something was given, so that
        another sample's condition is a bound: that of the next sample, whose outputs are at hand.
        """
        rival_figures = {n: self.judge.figures(v, self.values) for n, v in rivals.items()}
        of_all = [self.judge.figures(values, self.values) for values in generations]
        moved = [self.judge.figures(_next(values), self.values) for values in generations]
        several = len(generations) > 1
        best = self._best(generations) if several else {}
        found = {}
        for name, perfect in self.bounds["perfect"].items():
            each = np.array([figures[name] for figures in of_all])
            lower = {"constant": self.bounds["constant"][name]}
            lower |= {rival: figures[name] for rival, figures in rival_figures.items()}
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

    def distances(self, generations: list[Values]) -> PictureDistances:
        """Between generated and true pictures: of each generation of all samples, then the mean."""
        true, reconstructed = self.features
        each = [pooled_features(values) for values in generations]
        frechet = [frechet_distance(features, true) for features in each]
        kernel, error = np.mean([kernel_distance(features, true) for features in each], axis=0)
        return PictureDistances(
            frechet=float(np.mean(frechet)),
            frechet_deviation=float(np.std(frechet, ddof=1)) if len(each) > 1 else None,
            frechet_reconstructed=frechet_distance(reconstructed, true),
            kernel=float(kernel),
            kernel_error=float(error),
            kernel_reconstructed=kernel_distance(reconstructed, true)[0],
        )

    def deviation(self, generations: list[Values]) -> SpatialDeviation:
        """Of all generations together, beside those of the truth and its reconstruction."""
        of = [
            spatial_deviation(np.stack(values))
            for values in (self.reconstructed, self.values, *generations)
        ]
        return SpatialDeviation(generated=float(np.mean(of[2:])), reconstructed=of[0], true=of[1])


def _next(values: Values) -> Values:
    """For each sample what the next one has."""
    return [*values[1:], *values[:1]]
