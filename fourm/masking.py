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
from typing import Literal

import numpy as np

from fourm.batch import MASK_QUERY, MaskedBatch, StreamRows
from fourm.config import at_least
from fourm.errors import UserError
from fourm.modalities import FIRST_SENTINEL, Modality, ModalitySet
from fourm.rng import CounterRNG

Keep = Literal["random", "all", "binary", "none"]
NEVER = 1e-6  # a smaller alpha never gets a token
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


@dataclass(frozen=True)
class Spans:
    """Sequences split into an input with sentinels and the target that fills them in."""

    input_ids: np.ndarray  # (B, L) ids, sentinels in place of hidden spans
    input_mask: np.ndarray  # (B, L) True = part of the input
    target_ids: np.ndarray  # (B, 2 L + 2)
    target_lengths: np.ndarray  # (B,)
    # (B, 2 L + 2) True where a sentinel opens a span or closes the target
    target_starts: np.ndarray


class Masker:
    """Draws masks for one modality set and one config."""

    def __init__(self, modalities: ModalitySet, config: MaskingConfig, seed: int) -> None:
        config.check(modalities)
        self.modalities, self.config = modalities, config
        self._rng = CounterRNG(seed, "masking")
        self._input_alpha = np.array(
            [
                [_alpha(c.input, c.input_default, m.name, m.input) for m in modalities]
                for c in config.components
            ]
        )
        self._target_alpha = np.array(
            [
                [_alpha(c.target, c.target_default, m.name, m.output) for m in modalities]
                for c in config.components
            ]
        )
        weights = np.array([c.weight for c in config.components])
        self._thresholds = np.cumsum(weights / weights.sum())[:-1]
        self.causal = np.array([m.kind == "sequence" for m in modalities])

    def __call__(self, tokens: SampleTokens, draws: np.ndarray) -> MaskedBatch:
        """Mask a batch; ``draws`` (B,) are the numbers that its randomness is a function of."""
        config, b = self.config, len(tokens)
        component = np.searchsorted(self._thresholds, self._rng.uniform(draws, 0), side="right")
        num_inputs, num_targets = self._totals(component, draws)
        # (B, modalities)
        held = np.stack(
            [tokens.lengths.get(m.name, np.zeros(b, np.int64)) for m in self.modalities], 1
        )

        alpha = self._input_alpha[component]
        share, log_p = self._budgets(alpha, num_inputs, draws, purpose=1)
        given = np.minimum(share, held)
        if config.redistribute:
            given = _hand_out(given, held, num_inputs, log_p, alpha > NEVER)
        spans: dict[str, Spans] = {}
        fixed = np.zeros(len(self.modalities), dtype=bool)
        for i, m in enumerate(self.modalities):
            if m.kind == "sequence":
                spans[m.name] = self._spans(i, tokens, given[:, i], component, draws)
                given[:, i] = spans[m.name].input_mask.sum(1)
                fixed[i] = True
        if config.redistribute:  # what sentinels saved goes to the images
            given = _hand_out(given, np.where(fixed, given, held), num_inputs, log_p, alpha > NEVER)

        free = held - given
        for i, m in enumerate(self.modalities):
            # the first sentinel is given, so a target of T ids is T - 1 predictions
            if m.kind == "sequence":
                free[:, i] = np.where(held[:, i] > 0, spans[m.name].target_lengths - 1, 0)
        alpha = self._target_alpha[component]
        share, log_p = self._budgets(alpha, num_targets, draws, purpose=2)
        wanted = np.minimum(share, free)
        if config.redistribute:
            wanted = _hand_out(wanted, free, num_targets, log_p, alpha > NEVER)
        else:  # a budget of n target ids is n - 1 predictions
            wanted[:, fixed] = np.maximum(np.minimum(share[:, fixed], free[:, fixed] + 1) - 1, 0)
        return self._streams(tokens, spans, given, wanted, draws)

    def _totals(self, component: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = self.config.components
        inputs = np.array([c.num_inputs or self.config.num_inputs for c in parts])[component]
        targets = np.array([c.num_targets or self.config.num_targets for c in parts])[component]
        return (
            self._rng.integers(inputs[:, 0], inputs[:, 1], draws, 3),
            self._rng.integers(targets[:, 0], targets[:, 1], draws, 4),
        )

    def _budgets(
        self, alpha: np.ndarray, total: np.ndarray, draws: np.ndarray, purpose: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each modality (B, M) and the Dirichlet draw behind them (logarithms).

        Floors of share x total; each token that the floors leave over goes to the largest share of
        a fresh Dirichlet draw.
        """
        b, num = alpha.shape
        which = np.arange(num)
        log_g = self._rng.log_gamma_variate(alpha, draws[:, None], which, purpose, 0)
        log_p = log_g - np.logaddexp.reduce(log_g, axis=1, keepdims=True)
        base = np.floor(np.exp(log_p) * total[:, None]).astype(np.int64)
        left = total - base.sum(1)
        fresh = self._rng.log_gamma_variate(
            alpha[:, None],
            draws[:, None, None],
            which[None, None],
            purpose,
            1 + which[None, :, None],
        )
        winner = fresh.argmax(-1)  # (B, M): owner of the i-th token left over
        counted = which[None] < left[:, None]
        np.add.at(
            base,
            (np.broadcast_to(np.arange(b)[:, None], winner.shape)[counted], winner[counted]),
            1,
        )
        return np.where(alpha > NEVER, base, 0), log_p

    def _spans(
        self,
        index: int,
        tokens: SampleTokens,
        budget: np.ndarray,
        component: np.ndarray,
        draws: np.ndarray,
    ) -> Spans:
        """Draw spans of the sequences of one modality within ``budget`` (B,) input ids."""
        m = list(self.modalities)[index]
        ids, lengths = tokens.ids.get(m.name), tokens.lengths.get(m.name)
        if ids is None or lengths is None:
            ids, lengths = np.zeros((len(tokens), 0), np.int64), np.zeros(len(tokens), np.int64)
        keep_rule = np.array([c.keep.get(m.name, "random") for c in self.config.components])[
            component
        ]
        u = self._rng.uniform(draws, index, 5)
        q = np.select(
            [keep_rule == "all", keep_rule == "binary", keep_rule == "none"],
            [1.0, np.where(u < 0.5, 0.0, 1.0), 0.0],
            u,
        )
        chunk = np.arange(ids.shape[1]) // m.chunk_size
        keep = np.zeros(ids.shape, dtype=bool)
        open_ = budget > 0
        for attempt in range(_MAX_REDRAWS):
            rows = np.flatnonzero(open_)
            if not len(rows):
                break
            drawn = (
                self._rng.uniform(draws[rows, None], index, 6 + attempt, chunk[None])
                <= q[rows, None]
            )
            keep[rows] = drawn
            size = _input_lengths(drawn, lengths[rows])
            open_[rows] = size > budget[rows]
            q = np.where(open_, q * _SHRINK, q)
        keep[open_] = False
        return split_spans(ids, lengths, keep, budget > 0)

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
                span = spans[m.name]
                rows, columns = np.nonzero(span.input_mask)
                position = np.cumsum(span.input_mask, axis=1)[rows, columns] - 1
                encoder.add(i, rows, position, span.input_ids[rows, columns])
                start = self._target_window(i, span, wanted[:, i], draws)
                place = np.arange(span.target_ids.shape[1] - 1)
                inside = (place >= start[:, None]) & (place < (start + wanted[:, i])[:, None])
                rows, columns = np.nonzero(inside)
                decoder.add(
                    i,
                    rows,
                    columns - start[rows],
                    span.target_ids[rows, columns],
                    span.target_ids[rows, columns + 1],
                )
                continue
            active = np.flatnonzero((given[:, i] > 0) | (wanted[:, i] > 0))
            if not len(active):
                continue
            rank = self._ranks(i, m.num_tokens, tokens.lengths[m.name][active], draws[active])
            rows, columns = np.nonzero(rank < given[active, i, None])
            if m.kind == "continuous":
                encoder.add_vectors(
                    m.name, i, active[rows], columns, tokens.vectors[m.name][active[rows], columns]
                )
                continue
            ids = tokens.ids[m.name]
            encoder.add(i, active[rows], columns, ids[active[rows], columns])
            last = given[active, i] + wanted[active, i]
            rows, columns = np.nonzero((rank >= given[active, i, None]) & (rank < last[:, None]))
            query = np.full(len(rows), MASK_QUERY)
            decoder.add(i, active[rows], columns, query, ids[active[rows], columns])
        return MaskedBatch(encoder.encoder(), decoder.decoder(self.causal), tokens.samples)

    def _ranks(self, index: int, num: int, lengths: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """A random order of each sample's positions (B, num): rank of every position; absent
        positions come last.
        """
        key = self._rng.uniform(draws[:, None], index, 7 + _MAX_REDRAWS, np.arange(num)[None])
        key = np.where(np.arange(num)[None] < lengths[:, None], key, 2.0)
        rank = np.empty(key.shape, dtype=np.int64)
        np.put_along_axis(rank, np.argsort(key, axis=1), np.arange(num)[None], axis=1)
        return rank

    def _target_window(
        self, index: int, span: Spans, wanted: np.ndarray, draws: np.ndarray
    ) -> np.ndarray:
        """Where each target begins (B,): 0 if it fits, else a random span start after which
        ``wanted`` predictions remain.

        If too little remains after the start drawn, the earliest start from which the tail fits is
        taken.
        """
        last = span.target_lengths - 1  # predictions in the whole target
        starts = span.target_starts & (np.arange(span.target_starts.shape[1])[None] < last[:, None])
        count = starts.sum(1)
        pick = np.minimum(
            (self._rng.uniform(draws, index, 8 + _MAX_REDRAWS) * count).astype(np.int64), count - 1
        )
        order = np.cumsum(starts, axis=1) - 1
        drawn = (starts & (order == pick[:, None])).argmax(1)
        tail_fits = starts & ((last[:, None] - np.arange(starts.shape[1])[None]) <= wanted[:, None])
        earliest = np.where(tail_fits.any(1), tail_fits.argmax(1), 0)
        start = np.where(last - drawn >= wanted, drawn, earliest)
        return np.where((last <= wanted) | (wanted == 0), 0, start)


def _alpha(table: dict[str, float], default: float, name: str, allowed: bool) -> float:
    return max(table.get(name, default), 1e-9) if allowed else 1e-9


def _hand_out(
    taken: np.ndarray, most: np.ndarray, total: np.ndarray, log_p: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
    """Share what is left of ``total`` (B,) among modalities below ``most`` (B, M), in proportion to
    their Dirichlet shares.
    """
    taken = taken.copy()
    for _ in range(taken.shape[1] + 1):
        left = np.maximum(total - taken.sum(1), 0)
        room = np.where(allowed, most - taken, 0)
        rows = np.flatnonzero((left > 0) & (room.sum(1) > 0))
        if not len(rows):
            break
        weight = np.where(room[rows] > 0, log_p[rows], -np.inf)
        weight = np.exp(weight - weight.max(1, keepdims=True))
        ideal = weight / weight.sum(1, keepdims=True) * left[rows, None]
        part = np.floor(ideal).astype(np.int64)
        rank = np.argsort(np.argsort(-(ideal - part), axis=1, kind="stable"), axis=1)
        part += (rank < (left[rows] - part.sum(1))[:, None]) & (room[rows] > 0)
        taken[rows] += np.minimum(part, room[rows])
    return taken


def _input_lengths(keep: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    inside = np.arange(keep.shape[1])[None] < lengths[:, None]
    hidden = inside & ~keep
    first = hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    return (keep & inside).sum(1) + first.sum(1)


def split_spans(ids: np.ndarray, lengths: np.ndarray, keep: np.ndarray, given: np.ndarray) -> Spans:
    """Hide what ``keep`` (B, L) leaves out behind sentinels.

    Every run of hidden ids becomes one sentinel, numbered from [S_1]; the target is each sentinel
    followed by what it hides and one closing sentinel. Where ``given`` (B,) is False the input is
    empty and the target is [S_1], the whole sequence, [S_2].
    """
    b, most = ids.shape
    ids = ids.astype(np.int64)
    inside = np.arange(most)[None] < lengths[:, None]
    hidden = inside & (~keep | ~given[:, None])
    first = hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    number = np.cumsum(first, axis=1)  # spans opened so far
    input_mask = inside & (~hidden | first) & given[:, None]
    input_ids = np.where(first, FIRST_SENTINEL + number - 1, ids)

    target = np.zeros((b, 2 * most + 2), dtype=np.int64)
    starts = np.zeros(target.shape, dtype=bool)
    place = np.cumsum(hidden, axis=1) - 1 + number  # of a hidden id, after the sentinels up to it
    rows, columns = np.nonzero(hidden)
    target[rows, place[rows, columns]] = ids[rows, columns]
    rows, columns = np.nonzero(first)
    target[rows, place[rows, columns] - 1] = FIRST_SENTINEL + number[rows, columns] - 1
    starts[rows, place[rows, columns] - 1] = True
    count = first.sum(1)
    end = hidden.sum(1) + count
    target[np.arange(b), end] = FIRST_SENTINEL + count
    starts[np.arange(b), end] = True
    return Spans(input_ids, input_mask, target, np.where(lengths > 0, end + 1, 0), starts)
