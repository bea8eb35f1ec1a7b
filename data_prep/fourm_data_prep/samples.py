"""What every labeller sees, and what a labeller is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fourm.raw import Raw


@dataclass(frozen=True)
class Samples:
    """What a labeller sees of some samples: all lists are of equal length."""

    pictures: Sequence[np.ndarray]  # uint8 (H, W, 3), squares of one size
    captions: Sequence[str] = ()
    # uint8 (H, W) of cut-outs, None where the picture has no transparency
    alphas: Sequence[np.ndarray | None] = ()
    keys: Sequence[str] = ()
    # rate -> waveforms float32 (n,), where there are any
    sounds: Callable[[int], Sequence[np.ndarray]] | None = None


class Labeller(Protocol):
    """Samples and the raw form that is asked for -> one value for each sample."""

    def __call__(self, samples: Samples, spec: Raw, /) -> list[Any]: ...


class NetworkLabeller(Protocol):
    """The same through a network of this name: a folder or a hub id."""

    def __call__(self, name: str, samples: Samples, spec: Raw, /) -> list[Any]: ...
