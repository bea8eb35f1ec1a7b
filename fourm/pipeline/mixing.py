"""Given values that are not one whole value: variations of one, what lies between two, and what
several samples say together.

Which tokens are kept or exchanged follows one random order of positions for each seed, so that more
of them includes those of less. Shapes: n tokens, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.numbers.ragged import ranks
from fourm.numbers.rng import CounterRNG
from fourm.pipeline.generated import Generated
from fourm.pipeline.given import Tokens
from fourm.raw._dense import Dense


def varied(ids: np.ndarray, m: Modality, keep: float, seed: int) -> Tokens:
    """Some of the tokens (n,) of a value; the rest is for the model to find."""
    return Tokens(ids, _first(m, keep, seed))


def between(first: np.ndarray, second: np.ndarray, m: Modality, share: float, seed: int) -> Tokens:
    """Tokens (n,) of one value, a share of them replaced by those of another."""
    return Tokens(np.where(_first(m, share, seed), second, first))


def _first(m: Modality, share: float, seed: int) -> np.ndarray:
    if m.kind not in ("grid", "set"):
        raise UserError(f"{m.name} is a {m.kind}: tokens of grids and sets can be mixed")
    if not 0 <= share <= 1:
        raise UserError(f"a share of tokens must be from 0 to 1, not {share}")
    order = CounterRNG(0, "mixing").uniform(int(seed), np.arange(m.num_tokens))
    return ranks(order[None])[0] < round(share * m.num_tokens)


@dataclass(frozen=True)
class Ensemble:
    """One answer from several samples, and where they disagree."""

    modality: Modality
    value: Any  # raw: the mean; of classes what most samples say
    # (H, W): standard deviation in the value's own units, over channels their mean; of classes the
    # share of samples that say something else
    spread: np.ndarray


def ensemble(made: Generated) -> Ensemble:
    """Of all samples of a target with pixels. Raises UserError for others."""
    m = made.modality
    if not isinstance(m.raw, Dense):
        raise UserError(f"{m.name} has no pixels: an ensemble is of maps")
    values = np.stack(made.values)
    num_classes = m.raw.network_form(1).num_classes
    if num_classes:
        votes = np.stack([(values == c).mean(0) for c in range(num_classes)])
        return Ensemble(m, votes.argmax(0).astype(values.dtype), 1.0 - votes.max(0))
    mean, spread = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    if values.dtype.kind in "iu":
        mean = mean.round()
    return Ensemble(m, mean.astype(values.dtype), spread.reshape(*spread.shape[:2], -1).mean(-1))
