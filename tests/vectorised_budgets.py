"""Budgets of tokens of a whole batch at once, as ``vectorised_masking`` shares them out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm.batches.mask_rules import NEVER
from fourm.numbers.ragged import ranks
from fourm.numbers.rng import CounterRNG


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
