"""Codebooks behind one small interface, one idea a file; the algorithms are those of
``vector-quantize-pytorch``.

A quantizer is two things side by side in one file: its settings, a ``QuantizerConfig`` that a
tokenizer's config chooses by ``type``, and the network that they build, a ``Quantizer``. A file put
beside the others is found by its name, one that lies elsewhere by ``type: package.module:Class``
(the class of the settings).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fourm.choices import Choice


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of latents; ids of one place lie together."""

    codes: Tensor  # (B, n, latent_dim), with straight-through gradient
    ids: Tensor  # (B, n * codes_per_place) int64
    loss: Tensor  # scalar; 0 outside training


class Quantizer(nn.Module, abc.ABC):
    """Latents <-> ids. Names of its parameters are kept: trained tokenizers are read by them."""

    @abc.abstractmethod
    def forward(self, latents: Tensor) -> Quantized:
        """Latents (B, n, latent_dim) -> their nearest codes."""

    @abc.abstractmethod
    def codes(self, ids: Tensor) -> Tensor:
        """Ids (B, n * codes_per_place) -> codes (B, n, latent_dim)."""

    def mean_codes(self, probability: Tensor) -> Tensor:
        """Probabilities of ids (B, n * codes_per_place, V) -> expected codes (B, n, latent_dim)."""
        every_id = torch.arange(probability.shape[-1], device=probability.device)
        return probability @ self.codes(every_id[None])[0]


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig(
    Choice, family="quantizer", package="fourm_tokenizers.quantizers", default="fsq"
):
    """Settings of a quantizer.

    A modality learns its number of ids from the setting ``codebook_size`` (or ``levels``, whose
    product it is); one with other settings needs ``vocab_size`` in the modality's YAML.
    """

    @property
    def size(self) -> int:
        """Number of codes of one codebook."""
        raise NotImplementedError

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent."""
        raise NotImplementedError

    @property
    def codes_per_place(self) -> int:
        """Ids that one latent becomes."""
        return 1

    @property
    def remedy(self) -> str:
        """What helps where few of the codes are in use, in words that follow a colon."""
        return "take fewer codes"

    def build(self) -> Quantizer:
        """The network, with fresh codes."""
        raise NotImplementedError
