"""Numpy files in memory; never unpickled."""

from __future__ import annotations

import io

import numpy as np

from fourm.errors import UserError


def read_npy(data: bytes) -> np.ndarray:
    """A numpy array from bytes. Raises UserError for anything else."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise UserError(
            "no readable numpy array (or one of Python objects, which is never read)"
        ) from None


def write_npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
