"""How the encoder's layers run over the input: its choices, and what every one of them takes and
returns.

``plain`` runs all layers over all input rows. ``latent`` resamples the rows to a few latents after
a stem (JAR, 2305.19924; ``latent_encoder.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from fourm.batches.batch import EncoderStream
from fourm.batches.layout import Layout
from fourm.choices import Choice
from fourm.config import at_most
from fourm.errors import UserError
from fourm.modalities import MAX_TOKENS
from fourm.model.attention import Backend, PreparedLayout
from fourm.model.attention.rows import RowOrder
from fourm.model.positions import Rotation


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
        at_most(self, 1000, "iterations")
        at_most(self, MAX_TOKENS, "num_tokens")


class EncoderRows(Protocol):
    """What an encoder needs of a batch beside its tokens: it follows from lengths, modalities and
    places alone, and is made on the host.
    """

    @property
    def lengths(self) -> np.ndarray:
        """(B,) rows of each sample's context."""
        ...


class Arrangement(Protocol):
    """How an encoder lays out its rows. Equal arrangements make equal rows."""

    def rows(self, stream: EncoderStream, backend: Backend) -> EncoderRows:
        """What the encoder needs of a stream, on the host."""
        ...


@dataclass(frozen=True)
class PlainRows:
    """All rows of a sample see each other."""

    lengths: np.ndarray  # (B,)
    attention: PreparedLayout
    registers: RowOrder | None  # the registers of all samples, then all rows: by sample


@dataclass(frozen=True)
class PlainArrangement(Arrangement):
    """Registers of each sample, then its rows."""

    num_registers: int

    def rows(self, stream: EncoderStream, backend: Backend) -> PlainRows:
        num, order = self.num_registers, None
        if num:
            sample = np.arange(len(stream.lengths))
            order = RowOrder.by_owner(np.repeat(sample, num), np.repeat(sample, stream.lengths))
        lengths = stream.lengths + num
        return PlainRows(lengths, backend.prepare(Layout.per_sample(lengths)), order)


@dataclass(frozen=True)
class Encoded:
    """What the decoder needs of the input: one row for each input token (and register)."""

    features: Tensor  # (T, D) encoder output after its norm; of latents (B * N, D)
    context: Tensor  # (T, D) projected, embeddings added again
    lengths: np.ndarray  # (B,) rows of each sample's context
    num_features: np.ndarray  # (B,) rows of each sample's features
    turn: Rotation | None = None  # of the context's keys, with rotary positions
