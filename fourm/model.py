"""FourM: an encoder-decoder transformer over packed token streams of any modalities.

The encoder sees the rows that masking chose as input, the decoder predicts the rows it chose as
targets: mask queries for images, teacher forcing for sequences. Decoder rows see their own segment
(one modality of one sample) and the sample's encoder output, to which the input's embeddings are
added once more. Architecture: 4M (2312.06647); shapes: T packed rows, D width, H heads, V ids.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import init_empty_weights
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import save_file
from torch import Tensor, nn

from fourm.attention import Layout, PreparedLayout, take_rows
from fourm.batch import DecoderStream, EncoderStream, MaskedBatch
from fourm.blocks import Block, layer_norm
from fourm.config import at_least, from_mapping, to_mapping
from fourm.embedding import TOKEN_STD, PositionTable, TokenTable
from fourm.errors import UserError
from fourm.formats import FORMAT, check_format, is_ours
from fourm.latent_encoder import BlockShape, FusionConfig, TokenFusion
from fourm.loss import SoftTargets, linear_cross_entropy, soft_cross_entropy
from fourm.modalities import ModalitySet
from fourm.weights import WEIGHTS_FILE, WeightFiles, fill

CONFIG_FILE = "config.json"
# tried on what is not ours: (folder, dtype) -> FourM or None
FOREIGN_FORMATS = ("fourm.interop.released:load_released",)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Size and options of the transformer.

    ``spec`` of the sizes: 4M-B is dim 768, depth 12 + 12, 12 heads.
    """

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
    share_modality_embeddings: bool = False  # one vector for a modality's encoder and decoder rows
    share_token_embeddings: bool = True  # the decoder reads sequences with the encoder's table
    # a set's positions are the same for encoder and decoder rows
    share_learned_positions: bool = True
    tie_heads: bool = False  # output heads are the decoder's token table
    attention: str = "auto"
    fusion: FusionConfig | None = None  # JAR: the encoder's later layers run on a few latents

    def __post_init__(self) -> None:
        at_least(self, 1, "dim", "num_heads")
        at_least(self, 0, "encoder_depth", "decoder_depth", "num_registers")
        if int(self.dim * self.mlp_ratio) < 1:
            raise UserError(f"mlp_ratio {self.mlp_ratio} leaves layers of dim {self.dim} no width")
        if self.dim % 4 or self.dim % self.num_heads:
            raise UserError(
                f"dim {self.dim} must be a multiple of 4 and of num_heads {self.num_heads}"
            )
        if self.fusion is not None and self.num_registers:
            raise UserError(
                "fusion and num_registers do not go together: the latents are registers already"
            )


@dataclass(frozen=True)
class Encoded:
    """What the decoder needs of the input: one row for each input token (and register)."""

    # (T, D) encoder output after its norm; with fusion (B * N, D), N latents of each sample
    features: Tensor
    context: Tensor  # (T, D) projected, embeddings added again
    lengths: Any  # (B,) rows of each sample's context, numpy


@dataclass(frozen=True)
class TokenLosses:
    """Cross-entropy of a batch by modality, in nats."""

    sums: Tensor  # (modalities,) float32
    counts: Tensor  # (modalities,) float32 number of targets


class FourM(
    nn.Module,
    ModelHubMixin,
    library_name="fourm",
    tags=["multimodal", "masked-modelling", "any-to-any"],
):
    """The model. ``FourM(config, modalities)`` has fresh weights; ``from_pretrained`` and
    ``save_pretrained`` read and write a folder (or hub repository) with ``config.json`` and
    ``model.safetensors``."""

    def __init__(self, config: ModelConfig, modalities: ModalitySet) -> None:
        super().__init__()
        self.config, self.modalities = config, modalities
        c = config
        read_by_encoder = [m for m in modalities if m.kind != "continuous" and m.input]
        read_by_decoder = [m for m in modalities.outputs if m.kind == "sequence" or c.tie_heads]
        shared = read_by_decoder if c.share_token_embeddings else []
        either = [m for m in modalities if m in read_by_encoder or m in shared]
        self.tokens = TokenTable(modalities, either, c.dim, TOKEN_STD)
        self.decoder_tokens = (
            None
            if c.share_token_embeddings
            else TokenTable(modalities, read_by_decoder, c.dim, TOKEN_STD)
        )
        self.heads = None if c.tie_heads else TokenTable(modalities, modalities.outputs, c.dim, 0.0)
        self.positions = PositionTable(modalities, list(modalities), c.dim)
        self.decoder_positions = (
            None
            if c.share_learned_positions
            else PositionTable(modalities, modalities.outputs, c.dim)
        )
        self.modality = nn.Parameter(torch.randn(len(modalities), c.dim) * TOKEN_STD)
        self.decoder_modality = (
            None
            if c.share_modality_embeddings
            else nn.Parameter(torch.randn(len(modalities), c.dim) * TOKEN_STD)
        )
        self.vector_in = nn.ModuleDict(
            {
                _module_name(m.name): nn.Linear(
                    m.width, c.dim, bias=c.patch_bias or not m.patch_size
                )
                for m in modalities
                if m.kind == "continuous"
            }
        )
        self.registers = (
            nn.Parameter(torch.randn(c.num_registers, c.dim) * TOKEN_STD)
            if c.num_registers
            else None
        )
        self.mask_token = nn.Parameter(torch.zeros(c.dim))
        self.encoder = nn.ModuleList(self._block(cross=False) for _ in range(c.encoder_depth))
        self.encoder_norm = layer_norm(c.dim, c.norm_bias)
        self.context = nn.Linear(c.dim, c.dim)
        self.decoder = nn.ModuleList(self._block(cross=True) for _ in range(c.decoder_depth))
        self.decoder_norm = layer_norm(c.dim, c.norm_bias)
        for block in (*self.encoder_blocks, *self.decoder_blocks):
            block.reset_parameters()
        self.fusion = None
        if c.fusion is not None:
            shape = BlockShape(
                c.dim, c.num_heads, c.mlp_ratio, c.gated_mlp, c.activation, c.attention
            )
            self.fusion = TokenFusion(c.fusion, shape, c.encoder_depth, modalities)

    def _block(self, cross: bool) -> Block:
        c = self.config
        return Block(
            c.dim,
            c.num_heads,
            mlp_ratio=c.mlp_ratio,
            gated=c.gated_mlp,
            activation=c.activation,
            qkv_bias=c.qkv_bias,
            proj_bias=c.proj_bias,
            mlp_bias=c.mlp_bias,
            norm_bias=c.norm_bias,
            qk_norm=c.qk_norm,
            cross=cross,
        )

    @property
    def encoder_blocks(self) -> list[Block]:
        return [block for block in self.encoder if isinstance(block, Block)]

    @property
    def decoder_blocks(self) -> list[Block]:
        return [block for block in self.decoder if isinstance(block, Block)]

    @property
    def device(self) -> torch.device:
        return self.mask_token.device

    # ---- embedding -------------------------------------------------------------------------------

    def _embed_input(self, stream: EncoderStream) -> tuple[Tensor, Tensor]:
        """Content and place (position + modality) of the encoder's rows, (T, D) each."""
        content = self.tokens(stream.modality, stream.token)
        for m in self.modalities:
            if m.kind != "continuous":
                continue
            layer = self.vector_in[_module_name(m.name)]
            given = stream.vectors.get(m.name)
            # no such rows here: an exact zero keeps the projection's gradient defined on every rank
            if given is None:
                content = content + sum(p.sum() for p in layer.parameters()) * 0.0
            else:
                content = content.index_copy(
                    0, given.rows, layer(given.values.to(content.dtype)).to(content.dtype)
                )
        place = self.positions(stream.modality, stream.position) + self.modality[stream.modality]
        return content, place

    def _embed_target(self, stream: DecoderStream) -> Tensor:
        modality = self.modality if self.decoder_modality is None else self.decoder_modality
        return self.embed_target(stream.modality, stream.position, stream.input, modality)

    def embed_target(
        self, kind: Tensor, position: Tensor, given: Tensor, modality: Tensor | None = None
    ) -> Tensor:
        """Decoder rows (T, D) from modality, position and input id (or MASK_QUERY), (T,) each."""
        if modality is None:
            modality = self.modality if self.decoder_modality is None else self.decoder_modality
        table = self.decoder_tokens or self.tokens
        query = (given < 0)[:, None]
        content = self.mask_token.expand(len(given), -1)
        if len(table.table):
            content = torch.where(query, content, table(kind, given.clamp_min(0)))
        return content + (self.decoder_positions or self.positions)(kind, position) + modality[kind]

    # ---- forward ---------------------------------------------------------------------------------

    def encode(self, stream: EncoderStream) -> Encoded:
        """Encoder output for packed inputs; ``features`` serve probes and fine-tuning, ``context``
        the decoder.
        """
        content, place = self._embed_input(stream)
        lengths = stream.lengths
        if self.registers is not None:
            content, place, lengths = self._add_registers(content, place, lengths)
        rows = content + place
        layout = Layout.per_sample(lengths).on(
            rows.device, self.config.attention, self._attention_dtype(rows)
        )
        if self.fusion is not None:
            return self._encode_fused(rows, place, stream, layout)
        for block in self.encoder:
            rows = block(rows, layout)
        features = self.encoder_norm(rows)
        return Encoded(features, self.context(features) + place, lengths)

    def _encode_fused(
        self, rows: Tensor, place: Tensor, stream: EncoderStream, layout: PreparedLayout
    ) -> Encoded:
        """The stem's layers over all rows, the others over a few latents of each sample."""
        assert self.fusion is not None
        f, blocks = self.fusion.config, self.encoder_blocks
        for block in blocks[: f.stem_layers]:
            rows = block(rows, layout)
        num, dtype = len(stream.lengths), self._attention_dtype(rows)
        latents, at = self.fusion(rows, place, stream, blocks[f.stem_layers :], dtype)
        features = self.encoder_norm(latents)
        context, lengths = self.context(features) + at, np.full(num, f.num_tokens)
        if f.context == "latents+stem":
            owner = np.concatenate(
                [np.repeat(np.arange(num), f.num_tokens), np.repeat(np.arange(num), stream.lengths)]
            )
            order = torch.from_numpy(np.argsort(owner, kind="stable")).to(rows.device)
            context = torch.cat([context, self.context(self.encoder_norm(rows)) + place])[order]
            lengths = lengths + stream.lengths
        return Encoded(features, context, lengths)

    def _add_registers(
        self, content: Tensor, place: Tensor, lengths: Any
    ) -> tuple[Tensor, Tensor, Any]:
        assert self.registers is not None
        num = self.registers.shape[0]
        counts = torch.as_tensor(lengths, device=content.device)
        sample = torch.repeat_interleave(torch.arange(len(lengths), device=content.device), counts)
        rows = torch.arange(len(content), device=content.device) + num * (sample + 1)
        full = content.new_zeros(len(content) + num * len(lengths), content.shape[1])
        is_register = torch.ones(len(full), dtype=torch.bool, device=full.device).index_fill(
            0, rows, False
        )
        first = full.masked_scatter(
            is_register[:, None], self.registers.to(full.dtype).repeat(len(lengths), 1)
        )
        return first.index_copy(0, rows, content), full.index_copy(0, rows, place), lengths + num

    def decode(self, encoded: Encoded, stream: DecoderStream) -> Tensor:
        """Decoder output (T, D) for packed targets."""
        rows = self._embed_target(stream)
        dtype = self._attention_dtype(rows)
        layout = stream.layout.on(rows.device, self.config.attention, dtype)
        cross = Layout.per_sample(stream.lengths, encoded.lengths).on(
            rows.device, self.config.attention, dtype
        )
        for block in self.decoder:
            rows = block(rows, layout, encoded.context, cross)
        return self.decoder_norm(rows)

    def _attention_dtype(self, rows: Tensor) -> torch.dtype:
        kind = rows.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype

    def head(self, name: str) -> Tensor:
        """Output weights (V, D) of a modality."""
        return self._head_table.weights(self.modalities[name])

    @property
    def _head_table(self) -> TokenTable:
        return self.heads or self.decoder_tokens or self.tokens

    def logits(self, rows: Tensor, name: str) -> Tensor:
        """Decoder output (n, D) of one modality's rows -> logits (n, V)."""
        return rows @ self.head(name).to(rows.dtype).T

    def target_rows(self, batch: MaskedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Decoder output of a batch's targets sorted by modality (T, D), and the heads (V, D) of
        the vocabularies among them.
        """
        rows = take_rows(
            self.decode(self.encode(batch.encoder), batch.decoder), batch.decoder.by_modality
        )
        present = {
            m.vocab or m.name
            for m, count in zip(self.modalities, batch.decoder.counts, strict=True)
            if count
        }
        return rows, self._head_table.all_weights(present)

    def forward(self, batch: MaskedBatch, soft: SoftTargets | None = None) -> TokenLosses:
        """Loss of a masked batch, by modality; with ``soft`` a share of it is against a teacher's
        probabilities.
        """
        rows, heads = self.target_rows(batch)
        targets = batch.decoder.target[batch.decoder.by_modality]
        sums, start = [], 0
        for m, count in zip(self.modalities, batch.decoder.counts, strict=True):
            if count:
                part = slice(start, start + count)
                vocab = m.vocab or m.name
                loss = linear_cross_entropy(rows[part], heads[vocab], targets[part])
                if soft is not None:
                    taught = soft_cross_entropy(
                        rows[part], heads[vocab], soft.rows[part], soft.heads[vocab]
                    )
                    loss = (1 - soft.share) * loss + soft.share * taught
                sums.append(loss)
            else:
                sums.append(rows.new_zeros((), dtype=torch.float32))
            start += count
        # every parameter gets a gradient on every rank, whatever this batch holds
        touched = sum(p.sum() for p in (self.mask_token, *self._tables())) * 0.0
        counts = torch.tensor(batch.decoder.counts, dtype=torch.float32, device=rows.device)
        return TokenLosses(torch.stack(sums) + touched, counts)

    def _tables(self) -> list[nn.Parameter]:
        tables = [t for t in (self.heads, self.decoder_tokens) if t is not None]
        return [p for table in tables for p in table.parameters()]

    # ---- files -----------------------------------------------------------------------------------

    def write_description(self, folder: Path) -> None:
        """``config.json`` alone, without the weights."""
        described = {
            "format": FORMAT,
            "model": to_mapping(self.config),
            **self.modalities.to_mapping(),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(described, indent=1) + "\n")

    def _save_pretrained(self, save_directory: Path) -> None:
        folder = Path(save_directory)
        self.write_description(folder)
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()},
            folder / WEIGHTS_FILE,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> FourM:  # type: ignore[override]
        """Open a folder, a hub repository or a single safetensors file whose header holds its
        config.

        ``dtype`` is that of the weights in memory (default: as stored); the other options are those
        of the hub's mixin. Raises UserError that names the file and what is wrong with it.
        """
        path = Path(pretrained_model_name_or_path)
        if path.exists():
            return load_model(path, options.get("dtype"))
        return super().from_pretrained(str(pretrained_model_name_or_path), **options)  # type: ignore[return-value]

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: Any = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: Any = None,
        dtype: torch.dtype | None = None,
        **_: Any,
    ) -> FourM:
        """``dtype`` of the weights in memory; None = as they are stored."""
        folder = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=["*.json", "*.safetensors", "*.yaml"],
        )
        return load_model(folder, dtype)


def load_model(folder: str | Path, dtype: torch.dtype | None = torch.float32) -> FourM:
    """Read a model folder: ours, or a released one of the 4M family. Raises UserError that names
    the file and what is wrong with it.

    Args:
        dtype: of the weights in memory; None = as they are stored.
    """
    folder = Path(folder)
    described = read_description(folder)
    if described is None or not is_ours(described):
        for reader in FOREIGN_FORMATS:
            module, _, name = reader.partition(":")
            model = getattr(importlib.import_module(module), name)(folder, described, dtype)
            if model is not None:
                return model
        if described is None:
            raise UserError(f"no model in {folder}: {CONFIG_FILE} is missing")
        raise UserError(f"{folder / CONFIG_FILE} does not describe a fourm model")
    where = str(folder / CONFIG_FILE)
    check_format(described, where)
    for key in ("model", "modalities"):
        if key not in described:
            raise UserError(f"{where} lacks {key!r}")
    modalities = ModalitySet.from_mapping(
        {k: described[k] for k in ("tokenizers", "modalities") if k in described}, where
    )
    config = from_mapping(ModelConfig, described["model"], where)
    files = WeightFiles.open(folder)
    with init_empty_weights(include_buffers=False):
        model = FourM(config, modalities)
    expected = model.state_dict()
    for name, tensor in expected.items():
        files.need(name, tuple(tensor.shape))
    files.refuse_others(set(expected))
    return load_into(model, files.read, dtype)


def load_into(model: FourM, value: Any, dtype: torch.dtype | None) -> FourM:
    """Give a model built without memory its weights, ``value(name)`` each, one at a time."""
    fill(model, value, dtype)
    return model.to(model.mask_token.dtype).eval()  # computed buffers too


def read_description(folder: Path) -> dict[str, Any] | None:
    """The mapping in ``config.json``, or None if there is no such file.

    Raises UserError if it is no JSON mapping.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} does not hold a mapping")
    return data


def _module_name(name: str) -> str:
    return name.replace(".", "_")  # module names may not hold dots
