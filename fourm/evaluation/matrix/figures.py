"""What the matrix and its cells hold: figures between bounds, calibration, coverage.

A figure's direction is never looked up by its name: what it is for a perfect answer (truth against
truth) says it. How good a value is, is how near it is to that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm.config import from_mapping
from fourm.errors import UserError
from fourm.evaluation.matrix.scores import TokenScores
from fourm.files.formats import check_format

_NUM_BINS = 15
_LARGE = 1e6  # stands for infinity


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a cell with its bounds.

    Attributes:
        value: with several generations a sample the mean over them.
        best: of the best generation of each sample.
        deviation: standard deviation over generations.
        lower: what is reached without an answer, by name (``constant``, ``shuffled`` ...).
        upper: of the tokenizer's reconstruction of the truth.
        perfect: of the truth itself.
        position: 0 at the better of the lower bounds, 1 at the upper; None where these do not lie
            in that order.
        better: nearer to perfect than all lower bounds; None where there are none.
    """

    value: float | None
    best: float | None = None
    deviation: float | None = None
    lower: dict[str, float] = field(default_factory=dict)
    upper: float | None = None
    perfect: float | None = None
    position: float | None = None
    better: bool | None = None

    @staticmethod
    def between(
        value: float,
        lower: Mapping[str, float],
        upper: float,
        perfect: float,
        best: float = math.nan,
        deviation: float = math.nan,
    ) -> Figure:
        """A figure with its place between its bounds; what is NaN is not known (None)."""
        known = {name: bound for name, bound in lower.items() if math.isfinite(bound)}
        short = shortfall(perfect, value)
        least = min((shortfall(perfect, bound) for bound in known.values()), default=math.nan)
        room = least - shortfall(perfect, upper)
        return Figure(
            value=_known(value),
            best=_known(best),
            deviation=_known(deviation),
            lower=known,
            upper=_known(upper),
            perfect=_known(perfect),
            position=_known((least - short) / room) if room > 0 else None,
            better=bool(short < least) if known and math.isfinite(value) else None,
        )


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Predictions of like confidence."""

    tokens: int
    confidence: float | None  # mean probability of the likeliest id
    accuracy: float | None  # share of them that is right


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Expected calibration error of the likeliest ids' probabilities (Naeini et al., AAAI 2015) and
    its reliability curve, in bins of equal width.
    """

    error: float | None
    bins: tuple[Bin, ...]

    @staticmethod
    def of(scores: TokenScores, num_bins: int = _NUM_BINS) -> Calibration:
        """Of one-pass predictions; a bin holds its upper end, as torchmetrics has it."""
        edges = np.linspace(0, 1, num_bins + 1)[1:-1].astype(np.float32)
        at = np.searchsorted(edges, scores.confidence.astype(np.float32), side="right")
        bins, apart = [], 0.0
        for i in range(num_bins):
            inside = at == i
            num = int(inside.sum())
            confidence = float(scores.confidence[inside].mean()) if num else None
            accuracy = float(scores.right[inside].mean()) if num else None
            if confidence is not None and accuracy is not None:
                apart += num * abs(confidence - accuracy)
            bins.append(Bin(tokens=num, confidence=confidence, accuracy=accuracy))
        return Calibration(error=apart / len(at) if len(at) else None, bins=tuple(bins))


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """If the truth could be one more generation.

    Each generation in turn is left out and held against the range of the others (numbers), or
    against their classes: ``nominal`` is the share of places where it lies within. ``truth`` is the
    same of the truth, ``tokenized`` of the tokenizer's reconstruction of it, which is free of the
    tokenizer's own error. Of numbers without ties and n generations, nominal is (n - 2) / n.
    """

    truth: float
    tokenized: float
    nominal: float


@dataclass(frozen=True, kw_only=True)
class PictureDistances:
    """Distances between the distributions of generated and true pictures' EfficientNet-Lite0
    features; those of reconstructions beside them as the bound.
    """

    frechet: float  # mean over generations of all samples, as the kernel distance
    frechet_reconstructed: float
    kernel: float
    kernel_error: float  # standard error, of one generation
    kernel_reconstructed: float
    frechet_deviation: float | None = None  # over generations


@dataclass(frozen=True, kw_only=True)
class SpatialDeviation:
    """How much pictures vary over their own places (``metrics.spatial_deviation``): flat ones, an
    error of samplers that PSNR rewards, lie below the reconstructions.
    """

    generated: float
    reconstructed: float
    true: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One condition and one target."""

    condition: str
    given: tuple[str, ...]
    target: str
    cross_entropy: Figure  # nats a token
    calibration: Calibration
    figures: dict[str, Figure] = field(default_factory=dict)  # of what is generated, decoded
    answer: dict[str, Figure] = field(default_factory=dict)  # of the one answer
    spread: float | None = None  # of generations of one sample, see ``Judge.spread``
    coverage: Coverage | None = None
    pictures: PictureDistances | None = None
    deviation: SpatialDeviation | None = None  # of pictures
    better: bool | None = None  # than all lower bounds in all figures; None: nothing was given
    better_answer: bool | None = None  # the same of the one answer's figures
    seconds: float = 0.0

    @property
    def worse_figures(self) -> list[str]:
        """Names of the figures that are not better than their lower bounds."""
        return _worse({"cross_entropy": self.cross_entropy, **self.figures})

    @property
    def worse_answers(self) -> list[str]:
        """The same of the one answer's."""
        return _worse({"cross_entropy": self.cross_entropy, **self.answer})


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells; ``matrix.json`` is this, with ``format`` and ``not_better`` (see
    ``docs/evaluation.md``).
    """

    model: str
    data: str
    split: str
    seed: int
    num_samples: int
    damaged: tuple[str, ...]  # what could not be read and is left out
    num_generations: int
    conditions: tuple[str, ...]
    targets: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def not_better(self) -> list[dict[str, Any]]:
        """Cells of which some figure is no better than a lower bound."""
        return [
            {
                "condition": c.condition,
                "target": c.target,
                "figures": c.worse_figures,
                "answer": c.worse_answers,
            }
            for c in self.cells
            if c.better is False or c.better_answer is False
        ]

    @staticmethod
    def read(path: Path) -> Matrix:
        """A ``matrix.json``. Raises UserError for a damaged or newer one."""
        try:
            found = dict(json.loads(path.read_text()))
        except ValueError:
            raise UserError(f"{path} is not valid JSON: the file is damaged") from None
        check_format(found, path)
        fields = {k: v for k, v in found.items() if k not in ("format", "not_better")}
        return from_mapping(Matrix, fields, str(path))


def _worse(named: Mapping[str, Figure]) -> list[str]:
    return [name for name, figure in named.items() if figure.better is False]


def shortfall(perfect: float, value: float) -> float:
    """How far a value is from perfect, which may be infinite (decibels without an error)."""
    known, found = np.clip((perfect, value), -_LARGE, _LARGE)
    return float(abs(known - found))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
