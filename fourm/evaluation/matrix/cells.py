"""Makes one cell of the matrix: tokens scored in one pass, targets generated and decoded, both
between their bounds.

A cell is a pure function of (model, samples, seed, number of generations, condition, target): no
other cell and no rank has a say in it. Lower bounds: ``constant``, the best answer that knows only
the other samples; ``shuffled``, what the next sample's condition gives; those of rivals. The upper
bound is the tokenizer's reconstruction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from fourm.batches.tokens import SampleTokens
from fourm.codecs import SoftCodec
from fourm.evaluation.held_out import Samples, packed
from fourm.evaluation.matrix.conditions import Condition
from fourm.evaluation.matrix.detections import scored_boxes
from fourm.evaluation.matrix.figures import Calibration, Cell, Figure
from fourm.evaluation.matrix.judges import judge_of
from fourm.evaluation.matrix.scores import counted_cross_entropy, reordered, score_tokens
from fourm.evaluation.matrix.truth import Rivals, Truth, Values
from fourm.modalities import Modality
from fourm.pipeline.automatic import ONCE
from fourm.pipeline.given import Tokens
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.sampling.options import SamplingOptions

_BATCH = 32  # samples that are generated at once
_FEWEST_PICTURES = 3


class RivalPredictors(Protocol):
    """Predictors that need no network, of one's own data: bounds that a model should pass."""

    @property
    def name(self) -> str:
        """What their answers depend on: cells with others are not mixed with theirs."""
        ...

    def answers(self, keys: Sequence[str], given: Sequence[str], target: Modality) -> Rivals:
        """What each says of a target of the samples ``keys`` (``<shard>/<key>``) where ``given``
        is known; nothing where none has an answer.
        """
        ...


class CellMaker:
    """Makes cells of one model on one set of samples.

    Args:
        with_pictures: pictures' distributions are compared too, which needs their network.
        rivals: predictors that are further lower bounds.
    """

    def __init__(
        self,
        pipe: AnyToAnyPipeline,
        samples: Samples,
        num_generations: int,
        seed: int,
        with_pictures: bool,
        rivals: RivalPredictors | None = None,
    ) -> None:
        self.pipe, self.samples = pipe, samples
        self.num_generations, self.seed = num_generations, seed
        self.with_pictures = with_pictures and len(samples) >= _FEWEST_PICTURES
        self.rivals = rivals
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
            generations = [self.generate(given, target, n) for n in numbers]
            rivals = self._rivals(given, target)
            cell = truth.judged(cell, generations, self.answer(given, target), rivals)
        if given:
            better = not cell.worse_figures, not cell.worse_answers
            cell = replace(cell, better=better[0], better_answer=better[1])
        return replace(cell, seconds=round(time.perf_counter() - started, 2))

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
        return self._outputs(given, target, number, None)

    def answer(self, given: Sequence[str], target: Modality) -> Values:
        """The one answer for every sample: of grids and sets one pass, the mean code where the
        codec decodes it, else the likeliest ids; of sequences the likeliest id after another.
        """
        mean = target.kind != "sequence" and isinstance(self.pipe.codecs[target.name], SoftCodec)
        once = replace(ONCE, decode="mean" if mean else "ids")
        return self._outputs(given, target, 0, {target.name: once})

    def _outputs(
        self,
        given: Sequence[str],
        target: Modality,
        number: int,
        options: dict[str, SamplingOptions] | None,
    ) -> Values:
        num, values = len(self.samples), []
        for start in range(0, num, _BATCH):
            part = range(start, min(start + _BATCH, num))
            inputs = {name: self._inputs(name, part) for name in given}
            seeds = [self.seed + number * num + i for i in part]
            out = self.pipe(
                inputs, [target.name], seed=seeds, num_samples=len(part), options=options
            )
            values += out[target.name].values
        if judge_of(target.raw).are_boxes:
            return scored_boxes(self.pipe, self.tokens, given, target, values)
        return values

    def _rivals(self, given: Sequence[str], target: Modality) -> Rivals:
        if self.rivals is None:
            return {}
        return self.rivals.answers(self.samples.keys, given, target)

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
