"""Ranges of numbers: the values that a tokenizer resolves."""

from __future__ import annotations

import numpy as np

from fourm.errors import UserError

Range = tuple[float, float]


def check_range(given: Range) -> None:
    """Raises UserError for a range without numbers in it."""
    if given[0] >= given[1]:
        raise UserError(f"range {list(given)} is empty")


def to_unit(values: np.ndarray, over: Range) -> np.ndarray:
    """Numbers of a range -> float32 in [-1, 1]."""
    low, high = over
    return (values.astype(np.float32) - low) / (high - low) * 2.0 - 1.0


def from_unit(values: np.ndarray, over: Range) -> np.ndarray:
    """The inverse; what is outside is clipped."""
    low, high = over
    return (np.clip(values, -1, 1) + 1) / 2 * (high - low) + low
