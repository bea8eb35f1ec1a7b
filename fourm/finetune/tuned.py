"""A model's encoder with a head on it, as the loop trains it.

The decoder takes no part: nothing of it learns, and a checkpoint holds what learns alone. What of
the encoder learns is all of it, adapters, or nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fourm.batches.batch import EncoderStream
from fourm.errors import UserError
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.goals import Goal
from fourm.finetune.heads import Head
from fourm.finetune.samples import LabelledBatch
from fourm.modalities import Modality
from fourm.model.model import FourM
from fourm.pipeline.feature_rows import FeatureRows, check_choice, stream_rows
from fourm.training.lora import LoraConfig, add_adapters, keep_trained

# what features are made of, by the beginnings of its names in a FourM
ENCODER = (
    "tokens.",
    "positions.",
    "modality",
    "vector_in.",
    "registers",
    "encoder.",
    "encoder_norm.",
    "latents.",
)


class OnRows(nn.Module):
    """A head on rows that are brought to mean 0 and deviation 1 in each of D numbers, by what the
    encoder gives of some training samples before anything learns.
    """

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        self.network = network
        self.mean, self.deviation = nn.Buffer(torch.zeros(dim)), nn.Buffer(torch.ones(dim))

    def fit(self, rows: FeatureRows) -> None:
        """Take these rows' mean and deviation."""
        self.mean.copy_(rows.vectors.mean(0))
        self.deviation.copy_(rows.vectors.std(0).clamp_min(1e-6))

    def forward(self, rows: FeatureRows) -> Tensor:
        """The network's outputs."""
        return self.network(replace(rows, vectors=(rows.vectors - self.mean) / self.deviation))


class Tuned(nn.Module):
    """Batch -> the head's outputs (B, C[, H, W])."""

    def __init__(self, backbone: FourM, head: OnRows, layers: list[int]) -> None:
        super().__init__()
        self.backbone, self.head, self._layers = backbone, head, layers

    @property
    def frozen(self) -> bool:
        """Nothing of the encoder learns."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def forward(self, batch: LabelledBatch) -> Tensor:
        """Outputs in float32, whatever the encoder computes in."""
        return self.head(self.rows(batch.encoder)).float()

    def rows(self, stream: EncoderStream) -> FeatureRows:
        """What the head sees."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return stream_rows(self.backbone, stream, self._layers)


def starting_model(model: FourM, config: FinetuneConfig) -> FourM:
    """The trained model, or one like it of random weights, a function of the config's seed."""
    if config.weights == "trained":
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        return FourM(model.config, model.modalities)


def build_head(
    model: FourM, head: Head, goal: Goal, inputs: tuple[Modality, ...], seed: int = 0
) -> tuple[OnRows, list[int]]:
    """A fresh head, a function of the seed, and the layers that it sees."""
    layers = check_choice(model, head.layers, "none")
    dim = model.config.dim * len(layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OnRows(head.build(dim, goal, inputs), dim), layers


def build_tuned(
    model: FourM, goal: Goal, inputs: tuple[Modality, ...], config: FinetuneConfig
) -> Tuned:
    """A model with a fresh head; ``model`` is changed, as to what of it learns."""
    assert config.head is not None
    network, layers = build_head(model, config.head, goal, inputs, config.loop.seed)
    if config.lora is not None:
        adapt_encoder(model, config.lora, config.init, config.loop.seed, layers)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(config.learns == "all" and name.startswith(ENCODER))
        model.register_state_dict_post_hook(keep_trained)
        # of blocks behind the last one that the head sees nothing is asked: ranks would wait for
        # their gradients
        for block in model.encoder_blocks[max(layers) + 1 :]:
            block.requires_grad_(False)
    return Tuned(model, network, layers)


def adapt_encoder(model: FourM, config: LoraConfig, base: str, seed: int, seen: list[int]) -> None:
    """Adapters of the encoder up to the last block that is ``seen``, in place; ``base`` is the
    model folder.
    """
    blocks = tuple(f"encoder.{number}." for number in range(max(seen) + 1))
    layers = tuple(name for name in config.layers(model) if name.startswith(blocks))
    if not layers:
        raise UserError(f"lora: targets {config.targets} are no layers of the encoder")
    add_adapters(model, replace(config, targets=layers), base, None, seed)


def num_learning(tuned: Tuned) -> tuple[int, int]:
    """Numbers of the encoder that learn, and all of the encoder's without adapters."""
    parameters = list(tuned.backbone.named_parameters())
    learn = sum(p.numel() for _, p in parameters if p.requires_grad)
    whole = sum(p.numel() for n, p in parameters if n.startswith(ENCODER) and ".lora_" not in n)
    return learn, whole
