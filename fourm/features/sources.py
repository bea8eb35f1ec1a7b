"""Where features come from: a model's encoder, and what it must be better than: pixels, a random
encoder of the same shape, a network trained on ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fourm.errors import UserError
from fourm.evaluation.efficientnet import efficientnet_network, pooled_features
from fourm.evaluation.held_out import Samples
from fourm.modalities import Modality, ModalitySet
from fourm.model.model import FourM
from fourm.pipeline.feature_rows import NO_ONE, check_choice
from fourm.pipeline.given import Tokens
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.raw.image import Image

_SIDE = 16  # of pictures whose pixels are features
_BATCH = 32


@dataclass(frozen=True)
class Rows:
    """Rows of N samples, one sample after another."""

    vectors: np.ndarray  # (R, D) float32
    lengths: np.ndarray  # (N,)
    places: np.ndarray  # (R, 2) int32: modality, position (``fourm.pipeline.feature_rows``)

    @staticmethod
    def one_each(vectors: np.ndarray) -> Rows:
        """A vector a sample."""
        places = np.full((len(vectors), 2), NO_ONE, np.int32)
        return Rows(np.asarray(vectors, np.float32), np.ones(len(vectors), np.int64), places)


class FeatureSource(Protocol):
    """Samples in, rows out; samples do not change each other's rows."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """What it must be given."""
        ...

    @property
    def made_by(self) -> dict[str, Any]:
        """All that its rows depend on, beside the samples."""
        ...

    def rows(self, samples: Samples) -> Rows:
        """Features of samples."""
        ...


@dataclass(frozen=True)
class EncoderSource:
    """A model's encoder, given some modalities."""

    pipe: AnyToAnyPipeline
    digest: str
    inputs: tuple[Modality, ...]
    layers: tuple[int, ...] = (-1,)
    pool: str = "mean"
    name: str = "model"
    made_by: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        check_choice(self.pipe.model, self.layers, self.pool)  # before anything is written
        made_by = {
            "encoder": self.name,
            "digest": self.digest,
            "inputs": [m.name for m in self.inputs],
            "layers": list(self.layers),
            "pool": self.pool,
        }
        object.__setattr__(self, "made_by", made_by)

    def rows(self, samples: Samples) -> Rows:
        given = {m.name: given_values(samples, m) for m in self.inputs}
        parts = []
        for start in range(0, len(samples), _BATCH):
            part = {name: values[start : start + _BATCH] for name, values in given.items()}
            parts.append(self.pipe.encode_features(part, self.layers, self.pool))
        places = [np.stack([part.modality, part.position], 1) for part in parts]
        return Rows(
            torch.cat([part.vectors for part in parts]).numpy(),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate(places).astype(np.int32),
        )


@dataclass(frozen=True)
class PixelSource:
    """A picture's own pixels, 16 x 16 of them."""

    inputs: tuple[Modality, ...]
    name: str = "pixels"

    @property
    def made_by(self) -> dict[str, Any]:
        return {"encoder": self.name, "inputs": [m.name for m in self.inputs], "side": _SIDE}

    def rows(self, samples: Samples) -> Rows:
        pictures = np.stack(samples.of(self.inputs[0].name))
        small = F.adaptive_avg_pool2d(
            torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, _SIDE
        )
        return Rows.one_each(small.flatten(1).numpy())


@dataclass(frozen=True)
class NetworkSource:
    """EfficientNet-Lite0, trained on ImageNet's labels, which ships inside a package."""

    inputs: tuple[Modality, ...]
    name: str = "efficientnet-lite0"

    @property
    def made_by(self) -> dict[str, Any]:
        return {"encoder": self.name, "inputs": [m.name for m in self.inputs]}

    def rows(self, samples: Samples) -> Rows:
        return Rows.one_each(pooled_features(samples.of(self.inputs[0].name)))


def given_values(samples: Samples, m: Modality) -> list[Any]:
    """Values as a pipeline takes them: raw, or ids where only these are known."""
    raw = samples.raw(m.name)
    return raw if raw is not None else [Tokens(ids) for ids in samples.of(m.name)]


def random_encoder(source: EncoderSource, seed: int = 0) -> EncoderSource:
    """The same shape with random weights. A fresh encoder would be the identity, as its blocks add
    nothing at first: here they do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FourM(source.pipe.model.config, source.pipe.modalities)
        for block in model.encoder_blocks:
            for layer in (block.self_attention.proj, block.mlp.fc_out):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    pipe = AnyToAnyPipeline(model.to(source.pipe.model.device), source.pipe.tokenizers_folder)
    digest = f"seed {seed}"
    return EncoderSource(pipe, digest, source.inputs, source.layers, source.pool, "random encoder")


def baselines(source: EncoderSource) -> list[FeatureSource]:
    """What an encoder is held against, as far as its inputs allow it."""
    found: list[FeatureSource] = [random_encoder(source)]
    pictures = tuple(m for m in source.inputs if isinstance(m.raw, Image))[:1]
    if not pictures:
        return found
    found.append(PixelSource(pictures))
    try:
        efficientnet_network()
    except UserError as error:
        print(f"left out: {error}")
        return found
    return [*found, NetworkSource(pictures)]


def chosen_inputs(modalities: ModalitySet, names: str) -> tuple[Modality, ...]:
    """Modalities of ``rgb,caption``, in the order of the set. Raises UserError for an unknown one,
    or one that is no input.
    """
    found = [modalities[name.strip()] for name in names.split(",") if name.strip()]
    for m in found:
        if not m.input:
            inputs = ", ".join(other.name for other in modalities.inputs)
            raise UserError(f"{m.name} is no input of this model; inputs are {inputs}")
    if not found:
        raise UserError("no inputs: name at least one modality, e.g. --inputs rgb,caption")
    return tuple(m for m in modalities if m in found)
