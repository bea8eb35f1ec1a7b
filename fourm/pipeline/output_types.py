"""Forms in which a pipeline gives what it has made, and tensors as inputs.

``raw`` is all of it (``Generated``). ``np`` and ``pt`` stack what can be stacked: in ``pt`` values
with channels lie channels first and pictures are floats in [0, 1], as torchvision has them;
everything else keeps its own units. Tensors that are given are read the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.errors import UserError, nearest
from fourm.modalities import Modality
from fourm.pipeline.generated import Generated
from fourm.raw._dense import Dense
from fourm.raw.image import Image


def as_arrays(made: Generated) -> Any:
    """Raw values (B, ...), or a list of them where they have no common shape."""
    if isinstance(made.modality.raw, Dense):
        return np.stack(made.values)
    return made.values


def as_tensors(made: Generated) -> Any:
    """``as_arrays`` as tensors."""
    values = as_arrays(made)
    if not isinstance(values, np.ndarray):
        return values
    tensor = torch.from_numpy(values)
    if tensor.ndim == 4:
        tensor = tensor.movedim(-1, 1)
    return tensor / 255 if isinstance(made.modality.raw, Image) else tensor


OUTPUT_TYPES: dict[str, Callable[[Generated], Any]] = {
    "raw": lambda made: made,
    "np": as_arrays,
    "pt": as_tensors,
    "pil": lambda made: made.images,
    "tokens": lambda made: made.ids,
}


def output_type(name: str) -> Callable[[Generated], Any]:
    """What brings a result into the form ``name``. Raises UserError."""
    if name not in OUTPUT_TYPES:
        raise UserError(
            f"output_type {name!r} is not one of {', '.join(OUTPUT_TYPES)}"
            f"{nearest(str(name), OUTPUT_TYPES)}"
        )
    return OUTPUT_TYPES[name]


def without_tensors(value: Any, m: Modality) -> Any:
    """What a user gives, with tensors, also those in a list, as the arrays that they stand for."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return [without_tensors(item, m) for item in value]
    if not isinstance(value, Tensor):
        return value
    array = value.detach().cpu().float().numpy() if value.is_floating_point() else value.cpu()
    array = np.asarray(array)
    if isinstance(m.raw, Dense) and len(m.raw.shape) == 3 and array.ndim in (3, 4):
        array = np.moveaxis(array, -3, -1)
    if isinstance(m.raw, Image) and array.dtype.kind == "f":
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(array)
