"""Pseudo-labellers: a batch of samples in, another modality out.

A modality names its labeller in YAML: an exact algorithm (``exact.py``), a pretrained network that
a package ships (``packaged.py``), sound (``audio.py``), a kind and a network of ``transformers`` or
``diffusers`` (``adapters.py``, e.g. ``depth:depth-anything/Depth-Anything-V2-Small-hf``), or
``package.module:function`` for your own. A labeller is a function of (samples, the modality's raw
spec) that returns one value a sample.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fourm.errors import UserError
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


Labeller = Callable[[Samples, Raw], list[Any]]


def open_labeller(name: str) -> Labeller:
    """The labeller of a name. Raises UserError that lists the known ones."""
    from fourm_data_prep.adapters import ADAPTERS
    from fourm_data_prep.audio import AUDIO, audio
    from fourm_data_prep.exact import EXACT
    from fourm_data_prep.packaged import PACKAGED

    known, networks = {**EXACT, **PACKAGED, **AUDIO}, {**ADAPTERS, "audio": audio}
    if name in known:
        return known[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UserError(
            f"labeller {name!r} is not one of {', '.join(known)}, not <kind>:<network> with a kind"
            f" of {', '.join(networks)},"
            " and not package.module:function"
        )
    if module in networks:
        return partial(networks[module], attribute)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"labeller {name!r} cannot be loaded: {error}") from None
