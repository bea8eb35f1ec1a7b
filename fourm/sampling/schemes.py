"""Schemes: in what order the tokens of a grid or set are found.

A scheme answers two questions at every step: which positions are asked, and which of the answers
stay. Those whose order is known in advance (``InOrder``: random, Halton, raster) ask only the
positions whose turn it is and keep all answers; MaskGIT and the entropy bound ask all open
positions and choose by what comes back. A scheme holds settings alone: all that changes is on the
``Canvas``.

An order of your own is a class with one method, named in options as ``package.module:Class``:

    @dataclass(frozen=True, kw_only=True)
    class Columns(InOrder):
        def order(self, canvas):
            height, width = canvas.modality.grid
            column_by_column = np.arange(height * width) % width
            return np.broadcast_to(column_by_column, canvas.known.shape)

MaskGIT: 2202.04200; ROAR as in 4M: 2312.06647; Halton: 2503.17076; entropy bound: 2505.24857.
Shapes: B samples, n positions, a answers of one step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fourm.choices import Choice
from fourm.config import check_fields
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.numbers.low_discrepancy import halton_ranks
from fourm.numbers.ragged import ranks, ranks_in_groups
from fourm.numbers.rng import CounterRNG
from fourm.sampling.draws import Purpose, Roll
from fourm.sampling.schedules import TokenSchedule, tokens_done


@dataclass(frozen=True)
class Canvas:
    """What a scheme sees: one modality of B samples while its tokens are found."""

    modality: Modality
    schedule: TokenSchedule
    steps: int
    rng: CounterRNG  # numbers of this target
    seeds: np.ndarray  # (B,) what makes a sample's numbers its own
    given: np.ndarray  # (B, n) True = known before the first step
    known: np.ndarray  # (B, n) True = given or committed; changes in place
    greedy: bool = False  # True = the likeliest ids are taken: nothing is drawn

    def due(self, step: int) -> np.ndarray:
        """Tokens (B,) that the schedule commits at a step."""
        done = tokens_done(self.schedule, self.steps, (~self.given).sum(1))
        return done[step + 1] - done[step]

    def is_last(self, step: int) -> bool:
        """True for the step after which nothing may be open."""
        return step == self.steps - 1


@dataclass(frozen=True)
class Answers:
    """What the network drew at the positions asked in one step, a answers in all."""

    sample: np.ndarray  # (a,)
    position: np.ndarray  # (a,)
    ids: np.ndarray  # (a,)
    log_p: np.ndarray  # (a,) of each id under the distribution that it was drawn from
    entropy: np.ndarray  # (a,) of that distribution, in nats
    probability: np.ndarray | None = None  # (a, V) that distribution, where it is wanted

    def __len__(self) -> int:
        return len(self.sample)


@dataclass(frozen=True, kw_only=True)
class Scheme(Choice, ABC, family="sampling scheme"):
    """Which positions are asked at a step, and which of the answers stay."""

    def ask(self, canvas: Canvas, step: int) -> np.ndarray:
        """Positions (B, n) to ask; those that are known are never asked."""
        return ~canvas.known

    @abstractmethod
    def keep(self, canvas: Canvas, step: int, answers: Answers) -> np.ndarray:
        """Answers (a,) that are committed. After the last step nothing may be open."""


@dataclass(frozen=True, kw_only=True)
class InOrder(Scheme):
    """Base of schemes whose order is known in advance: only what is due is asked, and all stays."""

    @abstractmethod
    def order(self, canvas: Canvas) -> np.ndarray:
        """Keys (B, n): the position with the smallest comes first, equal ones as they lie.

        The same at every step: random keys come from ``canvas.rng`` and ``canvas.seeds``.
        """

    def ask(self, canvas: Canvas, step: int) -> np.ndarray:
        open_first = np.where(canvas.known, np.inf, self.order(canvas))
        return ranks(open_first) < canvas.due(step)[:, None]

    def keep(self, canvas: Canvas, step: int, answers: Answers) -> np.ndarray:
        return np.ones(len(answers), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class ROAR(InOrder, name="roar"):
    """Random order, another one for each sample."""

    def order(self, canvas: Canvas) -> np.ndarray:
        position = np.arange(canvas.known.shape[1])
        return canvas.rng.uniform(canvas.seeds[:, None], position[None])


@dataclass(frozen=True, kw_only=True)
class Raster(InOrder, name="raster"):
    """Row after row, from the left."""

    def order(self, canvas: Canvas) -> np.ndarray:
        return np.broadcast_to(np.arange(canvas.known.shape[1]), canvas.known.shape)


@dataclass(frozen=True, kw_only=True)
class Halton(InOrder, name="halton"):
    """Low-discrepancy order: each step's positions are spread over the picture.

    Every sample has the same order, rolled around the picture's edges by random amounts.
    """

    def order(self, canvas: Canvas) -> np.ndarray:
        if canvas.modality.grid is None:
            raise UserError(f"the halton order needs a grid; {canvas.modality.name} has none")
        height, width = canvas.modality.grid
        base = halton_ranks(height, width)
        down = canvas.rng.integers(0, height - 1, canvas.seeds, Roll.DOWN)
        across = canvas.rng.integers(0, width - 1, canvas.seeds, Roll.ACROSS)
        rolled = [
            np.roll(base, shift, axis=(0, 1)).reshape(-1)
            for shift in zip(down, across, strict=True)
        ]
        return np.stack(rolled)


@dataclass(frozen=True, kw_only=True)
class MaskGIT(Scheme, name="maskgit"):
    """The likeliest answers stay; confidence is shaken by Gumbel noise that falls to 0, and that
    is off at temperature 0.
    """

    noise: float = 1.0  # of the confidence, at the beginning

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.noise < math.inf:
            raise UserError(f"noise must be a finite number from 0 on, not {self.noise}")

    def keep(self, canvas: Canvas, step: int, answers: Answers) -> np.ndarray:
        sample, position, score = answers.sample, answers.position, answers.log_p
        if not canvas.greedy:
            uniform = canvas.rng.uniform(canvas.seeds[sample], Purpose.NOISE, step, position)
            left = 1.0 - (step + 1) / canvas.steps
            score = score - self.noise * left * np.log(-np.log(uniform))
        return ranks_in_groups(-score, sample, len(canvas.seeds)) < canvas.due(step)[sample]


@dataclass(frozen=True, kw_only=True)
class Entropy(Scheme, name="entropy"):
    """As many tokens at a step as share little: the number of steps follows the content.

    The most certain answers of a sample stay, as long as their entropies, the largest apart, sum
    to at most ``bound``: at least one. Where that would take more steps than allowed, the last one
    keeps all.
    """

    bound: float = 0.5  # nats

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.bound >= 0:  # not a number is refused as well
            raise UserError(f"bound must be at least 0, not {self.bound}")

    def keep(self, canvas: Canvas, step: int, answers: Answers) -> np.ndarray:
        if canvas.is_last(step):
            return np.ones(len(answers), dtype=bool)
        sample = answers.sample
        rank = ranks_in_groups(answers.entropy, sample, len(canvas.seeds))
        # a row for each sample, so that no sum depends on the samples before
        ordered = np.zeros((len(canvas.seeds), rank.max() + 1))
        ordered[sample, rank] = answers.entropy
        sum_of_smaller = np.cumsum(ordered, axis=1) - ordered
        return sum_of_smaller[sample, rank] <= self.bound + 1e-9  # sums are rounded
