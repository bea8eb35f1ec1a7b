"""Which tokens of a sample are inputs and which are targets: the rules, a sample at a time.

Compiled; ``fourm.batches.masking`` prepares what it needs and reads the ids of the rows that it
chose. Nothing of a sample but the lengths of its modalities is looked at. Shapes: B samples, M
modalities, K components of all mixtures, T rows of all samples.
"""

from __future__ import annotations

import numpy as np

from fourm.batches.mask_counts import Sample, choose_inputs, choose_targets, draw_component
from fourm.batches.mask_rules import Purpose, Rows, Rules
from fourm.batches.spans import target_of, window_start, write_input
from fourm.numbers.compiled import compiled
from fourm.numbers.compiled_rng import along, uniform

_MAX_GUESSES = 16


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
        component = draw_component(rules, source[b], draw, lengths[b])
        given, wanted = encoder.counts[b], decoder.counts[b]
        choose_inputs(rules, component, draw, lengths[b], sample, given)
        choose_targets(rules, component, draw, sample, wanted)
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
