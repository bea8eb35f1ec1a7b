"""What a modality's ``tokenizer`` entry may say, and the network that follows from it and the
modality.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fourm.config import at_least, from_mapping, to_mapping
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.raw.image import Image
from fourm.training.loop_config import LoopConfig
from fourm_tokenizers.autoencoder import AutoencoderConfig
from fourm_tokenizers.diffusion import DiffusionConfig
from fourm_tokenizers.quantizers import QuantizerConfig
from fourm_tokenizers.quantizers.fsq import FSQConfig


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """A patch discriminator beside the reconstruction loss, for colour pictures."""

    weight: float = 0.1
    channels: int = 64
    layers: int = 3
    # first step with adversarial gradient; the discriminator learns from the beginning
    start: int = 0


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Settings of a learned tokenizer. ``levels`` is short for a quantizer of type fsq."""

    type: str = "autoencoder"
    levels: tuple[int, ...] = ()
    quantizer: QuantizerConfig | None = None
    patch_size: int = 1
    encoder: Literal["vit", "conv"] = "vit"
    decoder: Literal["vit", "conv", "diffusion"] = "vit"
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    num_tokens: int = 0  # > 0: an ordered list of tokens instead of a grid; needed for vectors
    dim: int = 128
    num_heads: int = 4
    encoder_depth: int = 2
    decoder_depth: int = 2
    refine_channels: int = 0
    detail_weight: float = 0.0
    quantize: bool = True
    # "lpips", "timm:<model>" or "hf:<folder>": a pretrained network compares pictures too
    perceptual: str = ""
    perceptual_weight: float = 0.1
    adversarial: AdversarialConfig | None = None
    init: str = ""  # tokenizer folder to start from: a second stage at a higher resolution, say
    freeze_encoder: bool = False  # train the decoder alone: encoder and codebook stay as they are
    train: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2000, batch_size=16))

    def __post_init__(self) -> None:
        at_least(self, 2, "levels")
        at_least(self, 1, "patch_size", "dim", "num_heads")
        at_least(self, 0, "num_tokens", "encoder_depth", "decoder_depth", "refine_channels")
        at_least(self, 0, "detail_weight", "perceptual_weight")
        if (self.quantizer is None) == (not self.levels):
            raise UserError("a tokenizer needs either levels or a quantizer")
        if self.freeze_encoder and not self.init:
            raise UserError("freeze_encoder needs init: the folder of a trained tokenizer")

    @property
    def codebook(self) -> QuantizerConfig:
        """Settings of the quantizer; FSQ with ``levels`` unless said otherwise."""
        return self.quantizer or FSQConfig(levels=self.levels)

    def model(self, modality: Modality) -> AutoencoderConfig:
        """The network for a modality. Raises UserError where they do not fit."""
        raw = modality.raw
        shared = {
            name: to_mapping(getattr(self, name))
            for name in (
                "patch_size",
                "encoder",
                "decoder",
                "diffusion",
                "num_tokens",
                "dim",
                "num_heads",
                "encoder_depth",
                "decoder_depth",
                "refine_channels",
                "detail_weight",
                "quantize",
            )
        }
        values: dict[str, Any] = {
            **shared,
            **asdict(raw.network_form(self.patch_size)),
            "quantizer": to_mapping(self.codebook),
        }
        config = from_mapping(AutoencoderConfig, values, f"tokenizer of {modality.name}")
        if config.codebook_size != modality.vocab_size:
            raise UserError(
                f"the tokenizer of {modality.name} has {config.codebook_size} codes, it declares"
                f" {modality.vocab_size}"
            )
        num = (config.num_tokens or config.grid**2) * config.quantizer.codes_per_place
        if num != modality.num_tokens:
            each = config.quantizer.codes_per_place
            hint = ""
            if each > 1 and modality.kind == "grid":
                hint = (
                    f": its quantizer gives {each} ids for each place, a grid has one; say kind:"
                    f" set and max_tokens: {num}"
                )
            raise UserError(
                f"the tokenizer of {modality.name} makes {num} tokens, it declares"
                f" {modality.num_tokens}{hint}"
            )
        if self.adversarial is not None and not isinstance(raw, Image):
            raise UserError(
                f"adversarial training is for colour pictures; {modality.name} is {raw.type_name}"
            )
        return config
