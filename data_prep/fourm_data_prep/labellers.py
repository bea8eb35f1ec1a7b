"""Pseudo-labellers: a batch of samples in, another modality out.

A modality names its labeller in YAML: an exact algorithm (``exact.py``), a pretrained network that
a package ships (``packaged.py``), sound (``audio.py``), a kind and a network of ``transformers`` or
``diffusers`` (``adapters.py``, e.g. ``depth:depth-anything/Depth-Anything-V2-Small-hf``), or
``package.module:function`` for your own. A labeller is a function of (samples, the modality's raw
spec) that returns one value a sample (``samples.py``).
"""

from __future__ import annotations

import importlib
from functools import partial

from fourm.errors import UserError
from fourm_data_prep.samples import Labeller, NetworkLabeller

# files of labellers; each has tables of them by name, LABELLERS or NETWORKS or both
_FILES = ("exact", "packaged", "audio", "adapters", "sam")


def open_labeller(name: str) -> Labeller:
    """The labeller of a name. Raises UserError that lists the known ones."""
    known: dict[str, Labeller] = {}
    networks: dict[str, NetworkLabeller] = {}
    for file in _FILES:
        module = importlib.import_module(f"fourm_data_prep.{file}")
        known |= getattr(module, "LABELLERS", {})
        networks |= getattr(module, "NETWORKS", {})
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
