"""How a number of tokens is shared out among modalities: Dirichlet shares, then what is left.

As in 4M (2312.06647), for one sample at a time, as a function of counters. Shares are kept as
logarithms: those of a Dirichlet with alpha 0.01 underflow. Shape: M modalities.
"""

from __future__ import annotations

import math

import numpy as np

from fourm.batches.mask_rules import NEVER
from fourm.numbers.compiled import compiled
from fourm.numbers.compiled_rng import along, log_boost, log_gamma, log_gamma_plus_one

# below any draw of a modality that gets tokens: log(2^-54) / NEVER
_LOWEST = -4e7
_LARGEST_NORMAL = 8.7  # of Box-Muller over 53 bits


@compiled
def draw_budgets(
    alpha: np.ndarray, total: int, of_purpose: np.ndarray, log_share: np.ndarray, tokens: np.ndarray
) -> None:
    """Share out ``total`` tokens with Dirichlet parameters ``alpha`` (M,).

    Floors of share x total; each token that the floors leave over goes to the largest share of a
    fresh Dirichlet draw. ``of_purpose`` (M,) are the states of the randomness. Fills ``log_share``
    (M,), the logarithms of the Dirichlet draw, and ``tokens`` (M,).
    """
    log_sum = -np.inf
    for i in range(len(alpha)):
        state = along(of_purpose[i], 0)
        log_share[i] = log_boost(alpha[i], state)
        if alpha[i] > NEVER or log_share[i] > _LOWEST:
            log_share[i] = log_gamma(alpha[i], state)
        log_sum = _log_add(log_sum, log_share[i])
    left = total
    for i in range(len(alpha)):
        log_share[i] -= log_sum
        tokens[i] = math.floor(math.exp(log_share[i]) * total)
        left -= tokens[i]
    for fresh in range(left):
        tokens[_largest_share(alpha, of_purpose, 1 + fresh)] += 1
    for i in range(len(alpha)):
        if alpha[i] <= NEVER:
            tokens[i] = 0


@compiled
def hand_out(
    alpha: np.ndarray, log_share: np.ndarray, total: int, most: np.ndarray, tokens: np.ndarray
) -> None:
    """Add to ``tokens`` (M,) what is left of ``total``, shared among modalities that are below
    ``most`` (M,), in proportion to their Dirichlet shares.
    """
    num = len(alpha)
    part, lacks = np.zeros(num, np.int64), np.zeros(num)
    for _ in range(num + 1):  # each round fills a modality or ends
        left = total - tokens.sum()
        largest = -np.inf
        for i in range(num):
            if alpha[i] > NEVER and most[i] > tokens[i]:
                largest = max(largest, log_share[i])
        if left <= 0 or largest == -np.inf:
            return
        weights = 0.0
        for i in range(num):
            has_room = alpha[i] > NEVER and most[i] > tokens[i]
            lacks[i] = math.exp(log_share[i] - largest) if has_room else 0.0
            weights += lacks[i]
        over = left
        for i in range(num):
            ideal = lacks[i] / weights * left
            part[i] = math.floor(ideal)
            lacks[i] = part[i] - ideal
            over -= part[i]
        for _ in range(over):  # what the floors leave over goes to the largest fractions
            first = np.argmin(lacks)
            part[first] += 1
            lacks[first] = np.inf
        for i in range(num):
            if alpha[i] > NEVER:
                tokens[i] += min(part[i], max(most[i] - tokens[i], 0))


@compiled
def _largest_share(alpha: np.ndarray, of_purpose: np.ndarray, fresh: int) -> int:
    """The modality with the largest share of Dirichlet draw number ``fresh``.

    The boost of a small alpha alone mostly tells that a modality is not it.
    """
    largest, winner = -np.inf, 0
    for i in range(len(alpha)):
        state = along(of_purpose[i], fresh)
        boost = log_boost(alpha[i], state)
        if boost + _most_plus_one(alpha[i]) > largest:
            drawn = log_gamma_plus_one(alpha[i], state) + boost
            if drawn > largest:
                largest, winner = drawn, i
    return winner


@compiled
def _most_plus_one(alpha: float) -> float:
    """More than any ``log_gamma_plus_one``: log(1 + x) <= x spares the logarithms."""
    d = alpha + 1.0 - 1.0 / 3.0
    return d - 1.0 + 3.0 * _LARGEST_NORMAL / math.sqrt(9.0 * d)


@compiled
def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a == b:
        return a + math.log(2.0)
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
