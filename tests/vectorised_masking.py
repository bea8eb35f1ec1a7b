"""Masking of a whole batch at once in numpy: what the compiled masker is compared with.

The same rules and the same random numbers as ``fourm.masking``, written in the other way: arrays of
(B, M) and (B, L) where that goes through one sample after another. Shapes: B samples, M modalities,
L ids of the longest sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fourm.batch import MASK_QUERY, MaskedBatch, StreamRows
from fourm.mask_config import _NO_ALPHA, MaskingConfig
from fourm.mask_rules import NEVER
from fourm.modalities import FIRST_SENTINEL, Modality, ModalitySet
from fourm.ragged import ranks
from fourm.rng import CounterRNG

_SHRINK = 0.9
_MAX_REDRAWS = 200


@dataclass(frozen=True)
class PaddedTokens:
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


class VectorisedMasker:
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

    def __call__(self, tokens: PaddedTokens, draws: np.ndarray) -> MaskedBatch:
        """Mask a batch; ``draws`` (B,) are the numbers that its randomness is a function of."""
        uniform = self._rng.uniform(draws, Purpose.COMPONENT)
        component = np.searchsorted(self._thresholds, uniform, side="right")
        held = self._held(tokens)
        given, spans = self._inputs(tokens, held, component, draws)
        wanted = self._targets(held, given, spans, component, draws)
        return self._streams(tokens, spans, given, wanted, draws)

    def _held(self, tokens: PaddedTokens) -> np.ndarray:
        """Tokens of each modality that the samples have (B, M)."""
        none = np.zeros(len(tokens), dtype=np.int64)
        return np.stack([tokens.lengths.get(m.name, none) for m in self.modalities], axis=1)

    def _inputs(
        self, tokens: PaddedTokens, held: np.ndarray, component: np.ndarray, draws: np.ndarray
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
        tokens: PaddedTokens,
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
        tokens: PaddedTokens,
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
        tokens: PaddedTokens,
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


# ---- budgets ---


@dataclass(frozen=True)
class Budgets:
    """Tokens of each modality and the draw behind them."""

    tokens: np.ndarray  # (B, M)
    log_share: np.ndarray  # (B, M) logarithms of the Dirichlet draw
    allowed: np.ndarray  # (B, M) True = may get tokens at all

    def hand_out(self, taken: np.ndarray, most: np.ndarray, total: np.ndarray) -> np.ndarray:
        """``taken`` (B, M), and what is left of ``total`` (B,) shared among modalities that are
        below ``most`` (B, M), in proportion to their Dirichlet shares: (B, M).
        """
        taken = taken.copy()
        for _ in range(taken.shape[1] + 1):  # each round fills a modality or ends
            left = np.maximum(total - taken.sum(1), 0)
            room = np.where(self.allowed, most - taken, 0)
            rows = np.flatnonzero((left > 0) & (room.sum(1) > 0))
            if not len(rows):
                break
            left, room = left[rows], room[rows]
            ideal = _shares(self.log_share[rows], room > 0) * left[:, None]
            part = np.floor(ideal).astype(np.int64)
            # tokens that the floors leave over go to the largest fractions
            over = left - part.sum(1)
            part += (ranks(part - ideal) < over[:, None]) & (room > 0)
            taken[rows] += np.minimum(part, room)
        return taken


def _shares(log_share: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Shares (B, M) of those modalities alone that ``among`` marks."""
    weight = np.where(among, log_share, -np.inf)
    weight = np.exp(weight - weight.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)


def draw_budgets(
    rng: CounterRNG, alpha: np.ndarray, total: np.ndarray, draws: np.ndarray, purpose: int
) -> Budgets:
    """Share out ``total`` (B,) tokens with Dirichlet parameters ``alpha`` (B, M).

    Floors of share x total; each token that the floors leave over goes to the largest share of a
    fresh Dirichlet draw. ``draws`` (B,) and ``purpose`` are the counters of the randomness.
    """
    num = alpha.shape[1]
    which = np.arange(num)
    log_gamma = rng.log_gamma_variate(alpha, draws[:, None], which, purpose, 0)
    log_share = log_gamma - np.logaddexp.reduce(log_gamma, axis=1, keepdims=True)
    tokens = np.floor(np.exp(log_share) * total[:, None]).astype(np.int64)
    left = total - tokens.sum(1)
    # (B, tokens left over, M): one draw for each; there are fewer of them than modalities
    fresh = rng.log_gamma_variate(
        alpha[:, None], draws[:, None, None], which, purpose, 1 + which[:, None]
    )
    winner = fresh.argmax(-1)
    sample, token = np.nonzero(which[None] < left[:, None])
    np.add.at(tokens, (sample, winner[sample, token]), 1)
    allowed = alpha > NEVER
    return Budgets(np.where(allowed, tokens, 0), log_share, allowed)


# ---- spans ---


@dataclass(frozen=True)
class Spans:
    """Sequences split into an input with sentinels and the target that fills them in."""

    input_ids: np.ndarray  # (B, L) ids, sentinels in place of hidden spans
    input_mask: np.ndarray  # (B, L) True = part of the input
    target_ids: np.ndarray  # (B, 2 L + 2)
    target_lengths: np.ndarray  # (B,)
    # (B, 2 L + 2) True where a sentinel opens a span or closes the target
    target_starts: np.ndarray

    @property
    def num_predictions(self) -> np.ndarray:
        """(B,): the first sentinel is given, so a target of T ids is T - 1 predictions."""
        return np.maximum(self.target_lengths - 1, 0)

    def window_starts(self, wanted: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Where ``wanted`` (B,) predictions of each target begin (B,).

        0 if the whole target fits, else a random one of the spans after whose start so many remain.
        ``uniform`` (B,) are in (0, 1).
        """
        last = self.target_lengths - 1
        place = np.arange(self.target_starts.shape[1])[None]
        starts = self.target_starts & (place <= (last - wanted)[:, None])
        pick = (uniform * starts.sum(1)).astype(np.int64)
        nth = np.cumsum(starts, axis=1) - 1  # which start a place is, where it is one
        start = (starts & (nth == pick[:, None])).argmax(1)
        return np.where((last <= wanted) | (wanted == 0), 0, start)


def input_lengths(keep: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Ids of the input (B,), sentinels included, if ``keep`` (B, L) of ``lengths`` (B,) is kept."""
    inside = np.arange(keep.shape[1])[None] < lengths[:, None]
    return (keep & inside).sum(1) + _opens_a_run(inside & ~keep).sum(1)


def split_spans(ids: np.ndarray, lengths: np.ndarray, keep: np.ndarray, given: np.ndarray) -> Spans:
    """Hide what ``keep`` leaves out behind sentinels.

    Args:
        ids: (B, L), padded; lengths: (B,).
        keep: (B, L) True = visible.
        given: (B,) False: the input is empty and the target is [S_1], the whole sequence, [S_2].
    """
    b, most = ids.shape
    ids = ids.astype(np.int64)
    inside = np.arange(most)[None] < lengths[:, None]
    hidden = inside & (~keep | ~given[:, None])
    opens = _opens_a_run(hidden)
    number = np.cumsum(opens, axis=1)  # spans opened so far
    input_mask = inside & (~hidden | opens) & given[:, None]
    input_ids = np.where(opens, FIRST_SENTINEL + number - 1, ids)

    target = np.zeros((b, 2 * most + 2), dtype=np.int64)
    starts = np.zeros(target.shape, dtype=bool)
    # a hidden id comes after all hidden ids before it and the sentinels up to its own
    place = np.cumsum(hidden, axis=1) - 1 + number
    rows, columns = np.nonzero(hidden)
    target[rows, place[rows, columns]] = ids[rows, columns]
    rows, columns = np.nonzero(opens)
    sentinel = place[rows, columns] - 1
    target[rows, sentinel] = FIRST_SENTINEL + number[rows, columns] - 1
    starts[rows, sentinel] = True
    num_spans = opens.sum(1)
    end = hidden.sum(1) + num_spans
    target[np.arange(b), end] = FIRST_SENTINEL + num_spans
    starts[np.arange(b), end] = True
    return Spans(input_ids, input_mask, target, np.where(lengths > 0, end + 1, 0), starts)


def _opens_a_run(mask: np.ndarray) -> np.ndarray:
    """True where ``mask`` (B, L) is and was not one place before."""
    before = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    return mask & ~before
