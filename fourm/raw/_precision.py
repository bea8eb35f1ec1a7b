"""Precision that numbers are stored with: whole floats, or halves for dense and token features,
which take most of a data set's room and were made by networks in half precision anyway.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from fourm.errors import UserError

Precision = Literal["float32", "float16"]


def stored(values: np.ndarray, precision: Precision) -> np.ndarray:
    """Finite values as they are stored. Raises UserError for those beyond what halves can hold."""
    with np.errstate(over="ignore"):
        result = values.astype(precision, copy=False)
    if result.dtype == np.float16 and not np.isfinite(result).all():
        raise UserError(
            f"numbers up to {np.abs(values).max():g} do not fit dtype float16 (65,504 at most)"
        )
    return result
