"""Devices and dtypes as users name them."""

from __future__ import annotations

from typing import Any

import torch

from fourm.errors import UserError, nearest

_DTYPES = ("float32", "bfloat16", "float16")


def is_dtype(place: Any) -> bool:
    """True for a dtype or the name of one, as opposed to a device."""
    return isinstance(place, torch.dtype) or str(place).removeprefix("torch.") in _DTYPES


def dtype_of(name: Any) -> torch.dtype:
    """A dtype of weights. Raises UserError for others."""
    text = str(name).removeprefix("torch.")
    if text not in _DTYPES:
        raise UserError(
            f"dtype {text!r} is not one of {', '.join(_DTYPES)}{nearest(text, _DTYPES)}"
        )
    return getattr(torch, text)


def device_of(name: Any) -> torch.device:
    """A device that this machine has. Raises UserError."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be had here: {said}") from None
    return device
