"""Ranges of numbers: the values that a tokenizer resolves, said in YAML or found in the data.

``range: auto`` stands for those of the training data; it is measured once and written into the YAML
file (``fourm.data.ranges``). Until then nothing can be made of numbers, which is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from fourm.errors import UserError
from fourm.raw._spread import Spread

Range = tuple[float, float]
Auto = Literal["auto"]

# percent of the numbers below and above a range that is found: strays do not stretch it
AUTO_PERCENTILES = (0.1, 99.9)
_DIGITS = 3  # that the ends of a found range have, of its width
_SLACK = 1e-3  # of a range's width that numbers may lie outside: rounding


def check_range(given: Range | Auto) -> None:
    """Raises UserError for a range without numbers in it."""
    if given != "auto" and not given[0] < given[1]:
        raise UserError(f"range {list(given)} is empty")


def known(given: Range | Auto) -> Range:
    """A range that is no longer to be found. Raises UserError for ``auto``."""
    if given == "auto":
        raise UserError(
            "its range is 'auto' and not measured yet: `fourm inspect RAW --config FILE` writes it"
            " into the file (as run, train-tokenizer and tokenize do)"
        )
    return given


def found_range(spreads: Iterable[Spread]) -> Range:
    """The range that nearly all of some numbers lie in, its ends rounded outwards.

    Raises UserError where all numbers are the same.
    """
    ends = [spread.percentiles(AUTO_PERCENTILES) for spread in spreads]
    low, high = min(pair[0] for pair in ends), max(pair[1] for pair in ends)
    if not low < high:
        raise UserError(f"all its numbers are {low:g}: say its range")
    step = 10.0 ** (math.floor(math.log10(high - low)) - _DIGITS + 1)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return float(f"{low:.12g}"), float(f"{high:.12g}")


def share_outside(values: np.ndarray, over: Range) -> float:
    """Share of numbers that a tokenizer would clip to the ends of a range."""
    slack = _SLACK * (over[1] - over[0])
    return float(((values < over[0] - slack) | (values > over[1] + slack)).mean())


def to_unit(values: np.ndarray, over: Range) -> np.ndarray:
    """Numbers of a range -> float32 in [-1, 1]."""
    low, high = over
    return (values.astype(np.float32) - low) / (high - low) * 2.0 - 1.0


def from_unit(values: np.ndarray, over: Range) -> np.ndarray:
    """The inverse; what is outside is clipped."""
    low, high = over
    return (np.clip(values, -1, 1) + 1) / 2 * (high - low) + low
