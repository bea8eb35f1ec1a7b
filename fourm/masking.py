"""Which tokens of a sample are inputs and which are targets, for a whole batch at once.

Semantics of 4M (2312.06647): a mixture component is drawn, Dirichlet draws share out the number of
input and of target tokens among modalities, grids take random positions, sequences hide spans
behind sentinels. Two differences, both options: what a modality cannot use of its share goes to
those that still have tokens (``redistribute``; the reference pads instead), and input and target of
one image never overlap. Everything is a pure function of (seed, draw number): no generator, no
order of calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np

from fourm.batch import MASK_QUERY, MaskedBatch, StreamRows
from fourm.budgets import NEVER, draw_budgets
from fourm.config import at_least, check_fields
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.ragged import ranks
from fourm.rng import CounterRNG
from fourm.spans import Spans, input_lengths, split_spans

Keep = Literal["random", "all", "binary", "none"]
_NO_ALPHA = 1e-9  # in place of 0, of which there is no Gamma draw
# a sequence too long for its budget is redrawn with this share of its keep probability
_SHRINK = 0.9
_MAX_REDRAWS = 200


@dataclass(frozen=True, kw_only=True)
class MaskingComponent:
    """One way to share out tokens.

    A modality that is not named has alpha ``input_default`` or ``target_default``.
    """

    weight: float = 1.0
    input: dict[str, float] = field(default_factory=dict)  # Dirichlet alpha of each input modality
    target: dict[str, float] = field(default_factory=dict)
    input_default: float = 0.0
    target_default: float = 0.0
    # sequences: which share of an input is kept ("none": one sentinel)
    keep: dict[str, Keep] = field(default_factory=dict)
    num_inputs: tuple[int, int] | None = None  # instead of the mixture's
    num_targets: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        at_least(self, 0, "weight", "input_default", "target_default")
        for name, alpha in (*self.input.items(), *self.target.items()):
            if not alpha >= 0:
                raise UserError(f"the alpha of {name} must be at least 0, not {alpha}")
        for name in ("num_inputs", "num_targets"):
            _check_range(name, getattr(self, name))

    def can_target(self, modality: Modality) -> bool:
        """True if tokens of the modality can be targets."""
        alpha = self.target.get(modality.name, self.target_default)
        return modality.output and alpha > NEVER


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Numbers of tokens (both ends included) and the mixture of components."""

    num_inputs: tuple[int, int]
    num_targets: tuple[int, int]
    components: tuple[MaskingComponent, ...]
    # False: exactly as 4M, where what a modality cannot use of its share is lost
    redistribute: bool = True

    def __post_init__(self) -> None:
        if not self.components:
            raise UserError("masking needs at least one component")
        for name in ("num_inputs", "num_targets"):
            _check_range(name, getattr(self, name))
        if not any(component.weight for component in self.components):
            raise UserError("all masking components have weight 0: none is ever drawn")
        for number, component in enumerate(self.components, 1):
            if not (component.num_targets or self.num_targets)[1]:
                raise UserError(
                    f"masking component {number} has num_targets [0, 0]: there is nothing to learn"
                )

    @property
    def most_rows(self) -> tuple[int, int]:
        """Most input and most target tokens of a sample, whichever component is drawn."""
        inputs = [(c.num_inputs or self.num_inputs)[1] for c in self.components]
        targets = [(c.num_targets or self.num_targets)[1] for c in self.components]
        return max(inputs), max(targets)

    def check(self, modalities: ModalitySet) -> None:
        """Raise UserError where a component names an unknown modality or one that cannot have that
        role, or can never give a target.
        """
        for number, component in enumerate(self.components, 1):
            for name in (*component.input, *component.target, *component.keep):
                modalities.index(name)
            for name, alpha in component.input.items():
                if alpha > NEVER and not modalities[name].input:
                    raise UserError(f"masking: {name} is no input modality")
            for name, alpha in component.target.items():
                if alpha > NEVER and not modalities[name].output:
                    raise UserError(f"masking: {name} is no output modality")
            if not any(component.can_target(m) for m in modalities):
                raise UserError(
                    f"masking component {number} never gives a target: no output modality has an"
                    " alpha above 0 (target, target_default)"
                )


def _check_range(name: str, limits: tuple[int, int] | None) -> None:
    if limits is not None and not 0 <= limits[0] <= limits[1]:
        raise UserError(f"{name} must be a range [low, high] of tokens, not {list(limits)}")


@dataclass(frozen=True)
class SampleTokens:
    """Tokens of B samples, before masking; a modality that a sample lacks has length 0 there."""

    samples: np.ndarray  # (B,) number of each sample in its data set
    ids: dict[str, np.ndarray]  # name -> (B, L) ids, padded
    lengths: dict[str, np.ndarray]  # name -> (B,)
    vectors: dict[str, np.ndarray]  # continuous: name -> (B, L, C)

    def __len__(self) -> int:
        return len(self.samples)


class Purpose(IntEnum):
    """What a random number is for: one of the counters that it is a function of."""

    COMPONENT = 0
    INPUT_BUDGET = 1
    TARGET_BUDGET = 2
    NUM_INPUTS = 3
    NUM_TARGETS = 4
    KEEP_SHARE = 5  # of a sequence, how much is kept
    KEEP = 6  # which chunks are kept; one more for each redraw
    ORDER = 7 + _MAX_REDRAWS  # of a grid's positions
    WINDOW = 8 + _MAX_REDRAWS  # which part of a target that is too long


class Masker:
    """Draws masks for one modality set and one config."""

    def __init__(self, modalities: ModalitySet, config: MaskingConfig, seed: int) -> None:
        config.check(modalities)
        self.modalities, self.config = modalities, config
        self._rng = CounterRNG(seed, "masking")
        parts = config.components
        self._input_alpha = np.array(
            [[_alpha(c.input, c.input_default, m.name, m.input) for m in modalities] for c in parts]
        )
        self._target_alpha = np.array(
            [
                [_alpha(c.target, c.target_default, m.name, m.output) for m in modalities]
                for c in parts
            ]
        )
        weights = np.array([c.weight for c in parts])
        self._thresholds = np.cumsum(weights / weights.sum())[:-1]
        self.causal = np.array([m.kind == "sequence" for m in modalities])

    def __call__(self, tokens: SampleTokens, draws: np.ndarray) -> MaskedBatch:
        """Mask a batch; ``draws`` (B,) are the numbers that its randomness is a function of."""
        uniform = self._rng.uniform(draws, Purpose.COMPONENT)
        component = np.searchsorted(self._thresholds, uniform, side="right")
        held = self._held(tokens)
        given, spans = self._inputs(tokens, held, component, draws)
        wanted = self._targets(held, given, spans, component, draws)
        return self._streams(tokens, spans, given, wanted, draws)

    def _held(self, tokens: SampleTokens) -> np.ndarray:
        """Tokens of each modality that the samples have (B, M)."""
        none = np.zeros(len(tokens), dtype=np.int64)
        return np.stack([tokens.lengths.get(m.name, none) for m in self.modalities], axis=1)

    def _inputs(
        self, tokens: SampleTokens, held: np.ndarray, component: np.ndarray, draws: np.ndarray
    ) -> tuple[np.ndarray, dict[str, Spans]]:
        """Input tokens of each modality (B, M), and how sequences are split."""
        ranges = [c.num_inputs or self.config.num_inputs for c in self.config.components]
        total = self._total(ranges, component, draws, Purpose.NUM_INPUTS)
        alpha = self._input_alpha[component]
        budgets = draw_budgets(self._rng, alpha, total, draws, Purpose.INPUT_BUDGET)
        given = np.minimum(budgets.tokens, held)
        if self.config.redistribute:
            given = budgets.hand_out(given, held, total)
        spans: dict[str, Spans] = {}
        for i, m in enumerate(self.modalities):
            if m.kind == "sequence":
                spans[m.name] = self._split(i, m, tokens, given[:, i], component, draws)
                given[:, i] = spans[m.name].input_mask.sum(1)
        if self.config.redistribute:  # what sentinels saved goes to the images
            given = budgets.hand_out(given, np.where(self.causal, given, held), total)
        return given, spans

    def _targets(
        self,
        held: np.ndarray,
        given: np.ndarray,
        spans: dict[str, Spans],
        component: np.ndarray,
        draws: np.ndarray,
    ) -> np.ndarray:
        """Target tokens of each modality (B, M)."""
        ranges = [c.num_targets or self.config.num_targets for c in self.config.components]
        total = self._total(ranges, component, draws, Purpose.NUM_TARGETS)
        free = held - given
        for i, m in enumerate(self.modalities):
            if m.kind == "sequence":
                free[:, i] = spans[m.name].num_predictions
        alpha = self._target_alpha[component]
        budgets = draw_budgets(self._rng, alpha, total, draws, Purpose.TARGET_BUDGET)
        wanted = np.minimum(budgets.tokens, free)
        if self.config.redistribute:
            return budgets.hand_out(wanted, free, total)
        # a budget of n target ids is n - 1 predictions
        of_sequences = np.minimum(budgets.tokens, free + 1) - 1
        return np.where(self.causal, np.maximum(of_sequences, 0), wanted)

    def _total(
        self,
        ranges: list[tuple[int, int]],
        component: np.ndarray,
        draws: np.ndarray,
        purpose: Purpose,
    ) -> np.ndarray:
        """Tokens of each sample (B,), within the range of its component."""
        low, high = np.array(ranges)[component].T
        return self._rng.integers(low, high, draws, purpose)

    def _split(
        self,
        index: int,
        m: Modality,
        tokens: SampleTokens,
        budget: np.ndarray,
        component: np.ndarray,
        draws: np.ndarray,
    ) -> Spans:
        """Draw spans of the sequences of one modality within ``budget`` (B,) input ids.

        An input that is too long is drawn again with a smaller share, as 4M does; one that never
        fits is hidden whole.
        """
        ids, lengths = tokens.ids.get(m.name), tokens.lengths.get(m.name)
        if ids is None or lengths is None:
            ids = np.zeros((len(tokens), 0), dtype=np.int64)
            lengths = np.zeros(len(tokens), dtype=np.int64)
        share = self._keep_share(index, m, component, draws)
        chunk = np.arange(ids.shape[1]) // m.chunk_size
        keep = np.zeros(ids.shape, dtype=bool)
        too_long = budget > 0
        for attempt in range(_MAX_REDRAWS):
            rows = np.flatnonzero(too_long)
            if not len(rows):
                break
            again = Purpose.KEEP + attempt
            uniform = self._rng.uniform(draws[rows, None], index, again, chunk[None])
            keep[rows] = uniform <= share[rows, None]
            too_long[rows] = input_lengths(keep[rows], lengths[rows]) > budget[rows]
            share = np.where(too_long, share * _SHRINK, share)
        keep[too_long] = False
        return split_spans(ids, lengths, keep, budget > 0)

    def _keep_share(
        self, index: int, m: Modality, component: np.ndarray, draws: np.ndarray
    ) -> np.ndarray:
        """Share of each sequence that is kept (B,), by the rule of its component."""
        rules = [c.keep.get(m.name, "random") for c in self.config.components]
        rule = np.array(rules)[component]
        uniform = self._rng.uniform(draws, index, Purpose.KEEP_SHARE)
        either = np.where(uniform < 0.5, 0.0, 1.0)
        chosen = [rule == "all", rule == "binary", rule == "none"]
        return np.select(chosen, [1.0, either, 0.0], uniform)

    # ---- rows ------------------------------------------------------------------------------------

    def _streams(
        self,
        tokens: SampleTokens,
        spans: dict[str, Spans],
        given: np.ndarray,
        wanted: np.ndarray,
        draws: np.ndarray,
    ) -> MaskedBatch:
        encoder, decoder = StreamRows(len(tokens)), StreamRows(len(tokens))
        for i, m in enumerate(self.modalities):
            if m.kind == "sequence":
                uniform = self._rng.uniform(draws, i, Purpose.WINDOW)
                start = spans[m.name].window_starts(wanted[:, i], uniform)
                _add_sequences(encoder, decoder, i, spans[m.name], start, wanted[:, i])
            else:
                self._add_grids(encoder, decoder, i, m, tokens, given[:, i], wanted[:, i], draws)
        return MaskedBatch(encoder.encoder(), decoder.decoder(self.causal), tokens.samples)

    def _add_grids(
        self,
        encoder: StreamRows,
        decoder: StreamRows,
        index: int,
        m: Modality,
        tokens: SampleTokens,
        given: np.ndarray,
        wanted: np.ndarray,
        draws: np.ndarray,
    ) -> None:
        """Rows of a grid, set or continuous modality: the first ``given`` (B,) positions of a
        random order are inputs, the next ``wanted`` (B,) are targets.
        """
        samples = np.flatnonzero((given > 0) | (wanted > 0))
        if not len(samples):
            return
        given, wanted = given[samples, None], wanted[samples, None]
        lengths = tokens.lengths[m.name][samples]
        rank = self._random_ranks(index, m.num_tokens, lengths, draws[samples])
        rows, positions = np.nonzero(rank < given)
        if m.kind == "continuous":
            values = tokens.vectors[m.name][samples[rows], positions]
            encoder.add_vectors(m.name, index, samples[rows], positions, values)
            return
        ids = tokens.ids[m.name]
        encoder.add(index, samples[rows], positions, ids[samples[rows], positions])
        rows, positions = np.nonzero((rank >= given) & (rank < given + wanted))
        query = np.full(len(rows), MASK_QUERY)
        decoder.add(index, samples[rows], positions, query, ids[samples[rows], positions])

    def _random_ranks(
        self, index: int, num: int, lengths: np.ndarray, draws: np.ndarray
    ) -> np.ndarray:
        """A random order of each sample's positions: rank of every one (B, num); those that a
        sample lacks come last.
        """
        position = np.arange(num)[None]
        key = self._rng.uniform(draws[:, None], index, Purpose.ORDER, position)
        return ranks(np.where(position < lengths[:, None], key, 2.0))


def _add_sequences(
    encoder: StreamRows,
    decoder: StreamRows,
    index: int,
    spans: Spans,
    start: np.ndarray,
    wanted: np.ndarray,
) -> None:
    """Rows of a sequence: the whole input, and ``wanted`` (B,) predictions from ``start`` (B,)."""
    samples, places = np.nonzero(spans.input_mask)
    position = np.cumsum(spans.input_mask, axis=1)[samples, places] - 1
    encoder.add(index, samples, position, spans.input_ids[samples, places])
    place = np.arange(spans.target_ids.shape[1] - 1)
    inside = (place >= start[:, None]) & (place < (start + wanted)[:, None])
    samples, places = np.nonzero(inside)
    before, after = spans.target_ids[samples, places], spans.target_ids[samples, places + 1]
    decoder.add(index, samples, places - start[samples], before, after)


def _alpha(table: dict[str, float], default: float, name: str, allowed: bool) -> float:
    """A Dirichlet parameter; one that is never drawn where the modality cannot have the role."""
    return max(table.get(name, default), _NO_ALPHA) if allowed else _NO_ALPHA
