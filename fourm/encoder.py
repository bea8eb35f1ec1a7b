"""How the encoder's layers run over the input: its choices, and what every one of them returns.

``plain`` runs all layers over all input rows. ``latent`` resamples the rows to a few latents after
a stem (JAR, 2305.19924; ``latent_encoder.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from fourm.choices import Choice
from fourm.errors import UserError
from fourm.positions import Rotation


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Choice, family="encoder"):
    """Which encoder a model has."""


@dataclass(frozen=True, kw_only=True)
class Plain(EncoderConfig, name="plain"):
    """All layers see all rows."""


@dataclass(frozen=True, kw_only=True)
class Latent(EncoderConfig, name="latent"):
    """JAR's sizes. ``num_tokens`` latents of images and as many of sequences; what the choices mean
    is said in ``latent_encoder.py``.
    """

    num_tokens: int
    iterations: int = 2
    stem_layers: int = 1
    context: Literal["latents", "latents+stem"] = "latents"
    start: Literal["pooled", "learned"] = "pooled"

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.iterations < 1 or self.stem_layers < 0:
            raise UserError("num_tokens and iterations must be at least 1, stem_layers at least 0")


@dataclass(frozen=True)
class Encoded:
    """What the decoder needs of the input: one row for each input token (and register)."""

    features: Tensor  # (T, D) encoder output after its norm; of latents (B * N, D)
    context: Tensor  # (T, D) projected, embeddings added again
    lengths: np.ndarray  # (B,) rows of each sample's context
    num_features: np.ndarray  # (B,) rows of each sample's features
    turn: Rotation | None = None  # of the context's keys, with rotary positions
