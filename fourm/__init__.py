"""fourm: one encoder-decoder transformer, trained by masked modelling on any set of modalities,
generates any of them from any others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm.modalities import Modality, ModalitySet
    from fourm.model.model import FourM, ModelConfig
    from fourm.pipeline.pipeline import AnyToAnyPipeline, Partial, Tokens
    from fourm.sampling.options import SamplingOptions

__version__ = "0.11.0"
__all__ = [
    "AnyToAnyPipeline",
    "FourM",
    "Modality",
    "ModalitySet",
    "ModelConfig",
    "Partial",
    "SamplingOptions",
    "Tokens",
]

_WHERE = {
    "AnyToAnyPipeline": "fourm.pipeline.pipeline",
    "FourM": "fourm.model.model",
    "Modality": "fourm.modalities",
    "ModalitySet": "fourm.modalities",
    "ModelConfig": "fourm.model.model",
    "Partial": "fourm.pipeline.pipeline",
    "SamplingOptions": "fourm.sampling.options",
    "Tokens": "fourm.pipeline.pipeline",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: ``import fourm`` costs nothing."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'fourm' has no attribute {name!r}")
