"""Masking of a whole batch at once in numpy: what the compiled masker is compared with.

The same rules and the same random numbers as ``fourm.batches.masking``, written in the other way:
arrays of (B, M) and (B, L) where that goes through one sample after another. Shapes: B samples, M
modalities, L ids of the longest sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fourm.batches.batch import MASK_QUERY, MaskedBatch, StreamRows
from fourm.batches.mask_config import _NO_ALPHA, MaskingConfig
from fourm.batches.mask_rules import NEVER
from fourm.modalities import Modality, ModalitySet
from fourm.numbers.ragged import ranks
from fourm.numbers.rng import CounterRNG
from tests.vectorised_budgets import draw_budgets
from tests.vectorised_spans import Spans, input_lengths, split_spans

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
    OTHER_COMPONENT = 9 + _MAX_REDRAWS  # where the first does not suit what a sample has


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
        component = self._suited(component, held, draws)
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
        share = total / np.maximum(total + self._num_targets(component, draws), 1)
        if self.config.redistribute:
            total = self._limited(total, share, component, held)
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
            self._leave_targets(given, spans, held, share, component, tokens)
        return given, spans

    def _suited(self, component: np.ndarray, held: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Components (B,), drawn again where there is nothing to give or nothing to ask for."""
        gives, asks = (
            ((alpha[None] > NEVER) & (held[:, None] > 0)).any(2)
            for alpha in (self._input_alpha, self._target_alpha)
        )
        most = np.array(
            [(c.num_inputs or self.config.num_inputs)[1] for c in self.config.components]
        )
        suits, component = (gives | (most == 0)) & asks, component.copy()
        weights = np.diff(self._thresholds, prepend=0.0, append=1.0)
        for b in np.flatnonzero(~suits[np.arange(len(held)), component]):
            for fits in (suits[b], asks[b]):
                among = np.where(fits, weights, 0.0)
                if among.sum() > 0:
                    drawn = self._rng.uniform(draws[b : b + 1], Purpose.OTHER_COMPONENT)[0]
                    component[b] = np.searchsorted(np.cumsum(among), drawn * among.sum())
                    break
        return component

    def _limited(
        self, total: np.ndarray, share: np.ndarray, component: np.ndarray, held: np.ndarray
    ) -> np.ndarray:
        """Inputs (B,), or their share of what there is where a sample lacks something."""
        used = (self._input_alpha[component] > NEVER) | (self._target_alpha[component] > NEVER)
        lacks = (used & (held == 0)).any(1) & (total > 0)
        part = np.maximum((share * (held * used).sum(1)).astype(np.int64), 1)
        return np.where(lacks, np.minimum(total, part), total)

    def _leave_targets(
        self,
        given: np.ndarray,
        spans: dict[str, Spans],
        held: np.ndarray,
        share: np.ndarray,
        component: np.ndarray,
        tokens: PaddedTokens,
    ) -> None:
        """Take inputs (B, M) back where all that may be asked for is given."""
        wanted = self._target_alpha[component] > NEVER
        none_left = ((self._free(given, spans, held) * wanted).sum(1) == 0)[:, None] & wanted
        none_left &= held > 0
        for i, m in enumerate(self.modalities):
            at = none_left[:, i]
            if m.kind != "sequence":
                given[at, i] = (share * given[:, i]).astype(np.int64)[at]
            elif at.any():
                keep = spans[m.name].keep & ~at[:, None]
                spans[m.name] = split_spans(
                    tokens.ids[m.name], tokens.lengths[m.name], keep, given[:, i] > 0
                )
                given[:, i] = spans[m.name].input_mask.sum(1)

    def _free(self, given: np.ndarray, spans: dict[str, Spans], held: np.ndarray) -> np.ndarray:
        """Tokens (B, M) that are left to be asked for."""
        free = held - given
        for i, m in enumerate(self.modalities):
            if m.kind == "sequence":
                free[:, i] = spans[m.name].num_predictions
        return free

    def _num_targets(self, component: np.ndarray, draws: np.ndarray) -> np.ndarray:
        ranges = [c.num_targets or self.config.num_targets for c in self.config.components]
        return self._total(ranges, component, draws, Purpose.NUM_TARGETS)

    def _targets(
        self,
        held: np.ndarray,
        given: np.ndarray,
        spans: dict[str, Spans],
        component: np.ndarray,
        draws: np.ndarray,
    ) -> np.ndarray:
        """Target tokens of each modality (B, M)."""
        total = self._num_targets(component, draws)
        free = self._free(given, spans, held)
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
