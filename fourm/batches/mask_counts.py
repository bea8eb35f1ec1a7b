"""How many tokens of each modality are inputs and targets of a sample, whatever it has.

Compiled. A sample may lack any modality. Budgets go to what is there: Dirichlet shares of what is
lacking are shared out among the rest, which leaves a Dirichlet draw of the rest alone. So that no
sample is wasted,

* a component that finds nothing to give or nothing to ask for is drawn again among those that do;
* of a sample that lacks something and has fewer tokens than both budgets together, inputs take no
  more than their part of both: one with a single modality is split between input and target;
* where nothing would be left to ask for, inputs give some back.

The last two are part of ``redistribute``; without it shares are lost as in 4M. A sample that has
all modalities of its component is masked as ever. Shapes: M modalities, K components, L ids.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fourm.batches.budgets import draw_budgets, hand_out
from fourm.batches.mask_rules import NEVER, KeepRule, Purpose, Rules
from fourm.batches.spans import draw_spans
from fourm.numbers.compiled import compiled
from fourm.numbers.compiled_rng import along, integer, uniform


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
def draw_component(rules: Rules, source: int, draw: np.uint64, lengths: np.ndarray) -> int:
    """One of the components of a data set's mixture, for a sample with ``lengths`` (M,)."""
    first, last = rules.first[source], rules.first[source + 1]
    drawn = uniform(along(draw, Purpose.COMPONENT))
    component = first + int(np.searchsorted(rules.thresholds[first : last - 1], drawn, "right"))
    if _suits(rules, component, lengths, True):
        return component
    # an empty input is better than no target
    for with_input in (True, False):
        left = 0.0
        for other in range(first, last):
            if _suits(rules, other, lengths, with_input):
                left += _weight(rules, first, other)
        if left > 0.0:
            left *= uniform(along(draw, Purpose.OTHER_COMPONENT))
            for other in range(first, last):
                if _suits(rules, other, lengths, with_input):
                    left -= _weight(rules, first, other)
                    if left <= 0.0:
                        return other
    return component


@compiled
def _weight(rules: Rules, first: int, component: int) -> float:
    """Share of a component in the mixture that begins with ``first``."""
    before = rules.thresholds[component - 1] if component > first else 0.0
    return rules.thresholds[component] - before


@compiled
def _suits(rules: Rules, component: int, lengths: np.ndarray, with_input: bool) -> bool:
    """True if a component has something to ask of a sample, and something to give."""
    can_give = not with_input or rules.num_inputs[component, 1] == 0
    can_ask = False
    for i in range(len(lengths)):
        if lengths[i] > 0:
            can_give = can_give or rules.input_alpha[component, i] > NEVER
            can_ask = can_ask or rules.target_alpha[component, i] > NEVER
    return can_give and can_ask


@compiled
def choose_inputs(
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
    share = _share_of_inputs(rules, component, draw, total)
    if rules.redistribute[component]:
        total = _limited(rules, component, lengths, total, share)
    alpha, most = rules.input_alpha[component], sample.most
    _for_purpose(sample, Purpose.INPUT_BUDGET)
    draw_budgets(alpha, total, sample.of_purpose, sample.log_share, given)
    most[:] = lengths
    given[:] = np.minimum(given, most)
    if rules.redistribute[component]:
        hand_out(alpha, sample.log_share, total, most, given)
    for i in range(len(given)):
        if rules.is_sequence[i]:
            kept = _keep_share(rules.keep[component, i], sample.states[i])
            hidden = sample.hidden[i, : lengths[i]]
            given[i], most[i] = draw_spans(
                kept, given[i], rules.chunk_size[i], sample.states[i], Purpose.KEEP, hidden
            )
    if rules.redistribute[component]:  # what sentinels saved goes to the images
        hand_out(alpha * ~rules.is_sequence, sample.log_share, total, most, given)
    for i in range(len(given)):
        if not rules.is_sequence[i]:
            most[i] -= given[i]
    if rules.redistribute[component]:
        _leave_targets(rules, component, lengths, share, sample, given)


@compiled
def choose_targets(
    rules: Rules, component: int, draw: np.uint64, sample: Sample, wanted: np.ndarray
) -> None:
    """Target tokens of each modality: fills ``wanted`` (M,)."""
    total = _num_targets(rules, component, draw)
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
def _num_targets(rules: Rules, component: int, draw: np.uint64) -> int:
    low, high = rules.num_targets[component]
    return integer(low, high, along(draw, Purpose.NUM_TARGETS))


@compiled
def _share_of_inputs(rules: Rules, component: int, draw: np.uint64, num_inputs: int) -> float:
    """The part of inputs in the budgets of inputs and targets."""
    return num_inputs / max(num_inputs + _num_targets(rules, component, draw), 1)


@compiled
def _limited(
    rules: Rules, component: int, lengths: np.ndarray, num_inputs: int, share: float
) -> int:
    """Inputs of a sample: ``num_inputs``, or their ``share`` where it lacks something."""
    held, lacks = 0, False
    for i in range(len(lengths)):
        if rules.input_alpha[component, i] > NEVER or rules.target_alpha[component, i] > NEVER:
            held += lengths[i]
            lacks = lacks or lengths[i] == 0
    if not lacks or not num_inputs:
        return num_inputs
    return min(num_inputs, max(1, int(share * held)))


@compiled
def _leave_targets(
    rules: Rules,
    component: int,
    lengths: np.ndarray,
    share: float,
    sample: Sample,
    given: np.ndarray,
) -> None:
    """Take inputs (M,) back where all that may be asked for is given."""
    for i in range(len(given)):
        if rules.target_alpha[component, i] > NEVER and sample.most[i] > 0:
            return
    for i in range(len(given)):
        if rules.target_alpha[component, i] <= NEVER or not lengths[i]:
            continue
        if rules.is_sequence[i]:  # all of it was shown
            sample.hidden[i, : lengths[i]] = True
            given[i], sample.most[i] = min(given[i], 1), lengths[i] + 1
        else:
            given[i] = int(share * given[i])
            sample.most[i] = lengths[i] - given[i]


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
