"""Which tokens of a sample are inputs and which are targets: the rules, a sample at a time.

Compiled; ``fourm.masking`` prepares what it needs and reads the ids of the rows that it chose.
Nothing of a sample but the lengths of its modalities is looked at. Shapes: B samples, M modalities,
K components of all mixtures, T rows of all samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fourm.budgets import draw_budgets, hand_out
from fourm.compiled import compiled
from fourm.compiled_rng import along, integer, uniform
from fourm.mask_rules import KeepRule, Purpose, Rows, Rules
from fourm.spans import draw_spans, target_of, window_start, write_input

_MAX_GUESSES = 16


class Sample(NamedTuple):
    """Where a sample is worked on: arrays that the next one uses again."""

    states: np.ndarray  # (M,) of the randomness of each modality
    of_purpose: np.ndarray  # (M,) of one purpose
    log_share: np.ndarray  # (M,) of a Dirichlet draw
    most: np.ndarray  # (M,) tokens that a modality can use
    hidden: np.ndarray  # (M, L) which ids of a sequence are hidden
    keys: np.ndarray  # (L,) that say the order of a grid's positions
    content: np.ndarray  # (2 L + 2,) of a sequence's target
    opens: np.ndarray  # (2 L + 2,) where it has a sentinel


@compiled
def mask_samples(
    rules: Rules,
    root: np.uint64,
    source: np.ndarray,
    draws: np.ndarray,
    lengths: np.ndarray,
    starts: np.ndarray,
    encoder: Rows,
    decoder: Rows,
) -> None:
    """Mask B samples: fills the ``Rows`` of the encoder and of the decoder.

    Args:
        rules: of the data sets' maskings; root: state of the randomness.
        source: (B,) number of the data set that each sample is of.
        draws: (B,) numbers that the randomness of each sample is a function of.
        lengths: (B, M) tokens that a sample has; starts: (B, M) number of the first of them.
    """
    num = lengths.shape[1]
    longest = lengths.max() if lengths.size else 0
    sample = Sample(
        np.empty(num, np.uint64),
        np.empty(num, np.uint64),
        np.empty(num),
        np.empty(num, np.int64),
        np.empty((num, longest), np.bool_),
        np.empty(longest),
        np.empty(2 * longest + 2, np.int64),
        np.empty(2 * longest + 2, np.bool_),
    )
    num_given = num_asked = 0
    for b in range(len(draws)):
        draw = along(root, draws[b])
        for i in range(num):
            sample.states[i] = along(draw, i)
        component = _draw_component(rules, source[b], draw)
        given, wanted = encoder.counts[b], decoder.counts[b]
        _choose_inputs(rules, component, draw, lengths[b], sample, given)
        _choose_targets(rules, component, draw, sample, wanted)
        for i in range(num):
            length, start = lengths[b, i], starts[b, i]
            if rules.is_sequence[i]:
                hidden = sample.hidden[i, :length]
                if given[i]:
                    write_input(hidden, start, encoder.position, encoder.given, num_given)
                if wanted[i]:
                    drawn = uniform(along(sample.states[i], Purpose.WINDOW))
                    _write_target(sample, hidden, start, wanted[i], drawn, decoder, num_asked)
            elif given[i] or wanted[i]:
                order = along(sample.states[i], Purpose.ORDER)
                keys = sample.keys[:length]
                split = _split_positions(keys, order, given[i], wanted[i])
                _write_grid(keys, split, start, encoder, num_given, decoder, num_asked)
            encoder.modality[num_given : num_given + given[i]] = i
            decoder.modality[num_asked : num_asked + wanted[i]] = i
            num_given += given[i]
            num_asked += wanted[i]


# ---- how many ------------------------------------------------------------------------------------


@compiled
def _draw_component(rules: Rules, source: int, draw: np.uint64) -> int:
    """One of the components of a data set's mixture."""
    first, last = rules.first[source], rules.first[source + 1] - 1
    drawn = uniform(along(draw, Purpose.COMPONENT))
    return first + int(np.searchsorted(rules.thresholds[first:last], drawn, side="right"))


@compiled
def _choose_inputs(
    rules: Rules,
    component: int,
    draw: np.uint64,
    lengths: np.ndarray,
    sample: Sample,
    given: np.ndarray,
) -> None:
    """Input tokens of each modality: fills ``given`` (M,), draws the spans of sequences, and leaves
    in ``sample.most`` what can be asked for.
    """
    low, high = rules.num_inputs[component]
    total = integer(low, high, along(draw, Purpose.NUM_INPUTS))
    alpha, most = rules.input_alpha[component], sample.most
    _for_purpose(sample, Purpose.INPUT_BUDGET)
    draw_budgets(alpha, total, sample.of_purpose, sample.log_share, given)
    most[:] = lengths
    given[:] = np.minimum(given, most)
    if rules.redistribute[component]:
        hand_out(alpha, sample.log_share, total, most, given)
    for i in range(len(given)):
        if rules.is_sequence[i]:
            share = _keep_share(rules.keep[component, i], sample.states[i])
            hidden = sample.hidden[i, : lengths[i]]
            given[i], most[i] = draw_spans(
                share, given[i], rules.chunk_size[i], sample.states[i], Purpose.KEEP, hidden
            )
    if rules.redistribute[component]:  # what sentinels saved goes to the images
        hand_out(alpha * ~rules.is_sequence, sample.log_share, total, most, given)
    for i in range(len(given)):
        if not rules.is_sequence[i]:
            most[i] -= given[i]


@compiled
def _choose_targets(
    rules: Rules, component: int, draw: np.uint64, sample: Sample, wanted: np.ndarray
) -> None:
    """Target tokens of each modality: fills ``wanted`` (M,)."""
    low, high = rules.num_targets[component]
    total = integer(low, high, along(draw, Purpose.NUM_TARGETS))
    alpha, most = rules.target_alpha[component], sample.most
    _for_purpose(sample, Purpose.TARGET_BUDGET)
    draw_budgets(alpha, total, sample.of_purpose, sample.log_share, wanted)
    if rules.redistribute[component]:
        wanted[:] = np.minimum(wanted, most)
        hand_out(alpha, sample.log_share, total, most, wanted)
        return
    for i in range(len(wanted)):
        # a budget of n target ids of a sequence is n - 1 predictions
        budget = wanted[i] - 1 if rules.is_sequence[i] else wanted[i]
        wanted[i] = min(max(budget, 0), most[i])


@compiled
def _for_purpose(sample: Sample, purpose: int) -> None:
    for i in range(len(sample.states)):
        sample.of_purpose[i] = along(sample.states[i], purpose)


@compiled
def _keep_share(rule: int, state: np.uint64) -> float:
    """Share of a sequence that is kept."""
    drawn = uniform(along(state, Purpose.KEEP_SHARE))
    if rule == KeepRule.random:
        return drawn
    if rule == KeepRule.binary:
        return 0.0 if drawn < 0.5 else 1.0
    return 1.0 if rule == KeepRule.all else 0.0


# ---- which ones ----------------------------------------------------------------------------------


@compiled
def _write_target(
    sample: Sample,
    hidden: np.ndarray,
    start: int,
    wanted: int,
    drawn: float,
    decoder: Rows,
    row: int,
) -> None:
    """Write ``wanted`` predictions of a sequence: each from the content before it."""
    content, opens = sample.content[: 2 * len(hidden) + 2], sample.opens
    last = target_of(hidden, start, content, opens)
    place = window_start(last, opens, wanted, drawn)
    for i in range(wanted):
        decoder.position[row + i] = i
        decoder.given[row + i] = content[place + i]
        decoder.target[row + i] = content[place + i + 1]


@compiled
def _split_positions(
    keys: np.ndarray, order: np.uint64, given: int, wanted: int
) -> tuple[tuple[float, int], tuple[float, int]]:
    """Random ``keys`` (n,) of positions, whose order is that of (key, position): the first
    ``given`` are inputs, the next ``wanted`` targets. Returns where each of the two parts ends.
    """
    for position in range(len(keys)):
        keys[position] = uniform(along(order, position))
    return _end_of(keys, given), _end_of(keys, given + wanted)


@compiled
def _end_of(keys: np.ndarray, num: int) -> tuple[float, int]:
    """A (key, position) with just ``num`` of ``keys`` (n,) before it.

    Found by guessing and counting, which needs no branch: keys are uniform, so guesses are good.
    """
    low, high, below_low, below_high = 0.0, 1.0, 0, len(keys)
    if num >= len(keys):
        return high, len(keys)
    for _ in range(_MAX_GUESSES):
        share = (num - below_low + 0.5) / (below_high - below_low + 1)
        guess = low + share * (high - low)
        below = _num_below(keys, guess)
        if below == num:
            return guess, 0
        if below < num:
            low, below_low = guess, below
        else:
            high, below_high = guess, below
    # equal keys, or nearly so
    order = np.argsort(keys, kind="mergesort")
    return float(keys[order[num]]), int(order[num])


@compiled
def _num_below(keys: np.ndarray, bound: float) -> int:
    num = 0
    for i in range(len(keys)):
        num += 1 if keys[i] < bound else 0
    return num


@compiled
def _is_before(key: float, position: int, end: tuple[float, int]) -> bool:
    return key < end[0] or (key == end[0] and position < end[1])


@compiled
def _write_grid(
    keys: np.ndarray,
    split: tuple[tuple[float, int], tuple[float, int]],
    start: int,
    encoder: Rows,
    row_in: int,
    decoder: Rows,
    row_out: int,
) -> None:
    """Write the input and the target positions of a grid, set or continuous modality, ascending."""
    for position in range(len(keys)):
        is_input = _is_before(keys[position], position, split[0])
        is_target = _is_before(keys[position], position, split[1]) and not is_input
        # written whether it stays or not: a branch on random numbers costs more than a write
        encoder.position[row_in] = position
        encoder.given[row_in] = start + position
        decoder.position[row_out] = position
        decoder.target[row_out] = start + position
        row_in += is_input
        row_out += is_target
