"""Size and options of the transformer, as a model's folder and a pretraining config name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fourm.config import at_least, at_most
from fourm.errors import UserError
from fourm.model.blocks import BlockShape
from fourm.model.encoder import EncoderConfig, Latent, Plain
from fourm.model.positions import Positions


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Size and options of the transformer. 4M-B is dim 768, depth 12 + 12, 12 heads."""

    dim: int = 128
    encoder_depth: int = 3
    decoder_depth: int = 3
    num_heads: int = 4
    mlp_ratio: float = 4.0
    gated_mlp: bool = True
    activation: Literal["silu", "gelu"] = "silu"
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False
    # bias of the projection of pixel patches (projections of other vectors always have one)
    patch_bias: bool = True
    num_registers: int = 0
    positions: Positions = "added"  # vectors added to rows, rotary angles, or both
    share_modality_embeddings: bool = False  # one vector for a modality's input and target rows
    share_token_embeddings: bool = True  # the decoder reads sequences with the encoder's table
    share_learned_positions: bool = True  # a set's positions are the same for input and target rows
    tie_heads: bool = False  # output heads are the decoder's token table
    attention: str = "auto"
    # under autocast, layers hand on rows of its type: half the bytes, norms still add in float32
    half_residual: bool = False
    encoder: EncoderConfig = field(default_factory=Plain)

    def __post_init__(self) -> None:
        at_least(self, 1, "dim", "num_heads")
        at_least(self, 0, "encoder_depth", "decoder_depth", "num_registers")
        at_most(self, 1000, "encoder_depth", "decoder_depth")  # a damaged file names any number
        at_most(self, 2**20, "dim", "num_registers", "mlp_ratio")
        if int(self.dim * self.mlp_ratio) < 1:
            raise UserError(f"mlp_ratio {self.mlp_ratio} leaves layers of dim {self.dim} no width")
        if self.dim % 4 or self.dim % self.num_heads:
            raise UserError(
                f"dim {self.dim} must be a multiple of 4 and of num_heads {self.num_heads}"
            )
        if self.positions != "added" and self.dim // self.num_heads % 4:
            raise UserError(
                f"rotary positions need heads whose width is a multiple of 4, not"
                f" {self.dim // self.num_heads}"
            )
        if isinstance(self.encoder, Latent) and self.num_registers:
            raise UserError(
                "a latent encoder and num_registers do not go together: the latents are registers"
                " already"
            )
        if isinstance(self.encoder, Latent) and self.positions != "added":
            raise UserError("a latent encoder's latents have no place: positions must be added")

    @staticmethod
    def upgrade(given: dict[str, Any]) -> dict[str, Any]:
        """The keys of earlier releases as those of this one: up to 0.4.0 a latent encoder was
        ``fusion: {...}``.
        """
        if "fusion" not in given:
            return given
        if given["fusion"] and "encoder" in given:
            raise UserError("'fusion' is the old name of 'encoder': give one of them")
        kept = {key: value for key, value in given.items() if key != "fusion"}
        if given["fusion"]:
            kept["encoder"] = {"type": "latent", **given["fusion"]}
        return kept

    @property
    def block(self) -> BlockShape:
        """What the blocks share."""
        return BlockShape(
            dim=self.dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            gated=self.gated_mlp,
            activation=self.activation,
            qkv_bias=self.qkv_bias,
            proj_bias=self.proj_bias,
            mlp_bias=self.mlp_bias,
            norm_bias=self.norm_bias,
            qk_norm=self.qk_norm,
        )
