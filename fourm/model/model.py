"""FourM: an encoder-decoder transformer over packed token streams of any modalities.

The encoder sees the rows that masking chose as input, the decoder predicts the rows it chose as
targets: mask queries for images, teacher forcing for sequences. Decoder rows see their own segment
(one modality of one sample) and the sample's encoder output, to which the input's embeddings are
added once more. Architecture: 4M (2312.06647); shapes: T packed rows, D width, H heads, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn

from fourm.batches.batch import DecoderStream, EncoderStream, MaskedBatch
from fourm.config import from_mapping, to_mapping
from fourm.errors import UserError
from fourm.files.formats import check_format, is_ours
from fourm.files.model_files import (
    ADAPTERS_FILE,
    CONFIG_FILE,
    foreign_readers,
    load_into,
    read_description,
    write_description,
)
from fourm.files.tensor_file import save_tensors
from fourm.files.weights import WEIGHTS_FILE, WeightFiles
from fourm.modalities import ModalitySet
from fourm.model.attention import Backend, attention_dtype
from fourm.model.attention.rows import take_rows
from fourm.model.blocks import Block, BlockShape
from fourm.model.config import ModelConfig
from fourm.model.embedding import TOKEN_STD, Head, TokenTable
from fourm.model.encoder import (
    Arrangement,
    Encoded,
    Latent,
    PlainArrangement,
    PlainRows,
)
from fourm.model.latent_encoder import LatentEncoder
from fourm.model.latent_rows import LatentArrangement, LatentRows
from fourm.model.objectives import CrossEntropy, Objective, Targets
from fourm.model.positions import Places, PositionTable
from fourm.model.prepared import Budget, Preparation
from fourm.model.roles import TABLE, state_roles
from fourm.records.hub import HubModel, fetch_model
from fourm.records.provenance import Provenance


@dataclass(frozen=True)
class TokenLosses:
    """Losses of a batch by modality; cross-entropy in nats unless another objective was given."""

    sums: Tensor  # (modalities,) float32
    counts: Tensor  # (modalities,) float32 number of targets, on the host, which knows it


class FourM(
    nn.Module,
    HubModel,
    library_name="fourm",
    pipeline_tag="any-to-any",
    tags=["multimodal", "masked-modelling", "any-to-any"],
):
    """The model. ``FourM(config, modalities)`` has fresh weights; ``from_pretrained`` and
    ``save_pretrained`` read and write a folder (or hub repository) with ``config.json`` and
    ``model.safetensors``.
    """

    renamed_weights: ClassVar = {"fusion.": "latents."}  # from those of earlier releases

    def __init__(self, config: ModelConfig, modalities: ModalitySet) -> None:
        super().__init__()
        self.config, self.modalities = config, modalities
        self._make_tables()
        c, shape = config, config.block
        self.mask_token = nn.Parameter(torch.zeros(c.dim))
        self.encoder = nn.ModuleList(Block(shape) for _ in range(c.encoder_depth))
        self.encoder_norm = shape.norm()
        self.context = nn.Linear(c.dim, c.dim)
        self.decoder = nn.ModuleList(Block(shape, cross=True) for _ in range(c.decoder_depth))
        self.decoder_norm = shape.norm()
        if c.tie_heads:  # tokens are long for a head: its logits begin with a deviation of 0.5
            nn.init.constant_(self.decoder_norm.weight, 0.5 / (TOKEN_STD * c.dim**0.5))
        for block in (*self.encoder_blocks, *self.decoder_blocks):
            block.reset_parameters()
        self.latents = None
        self._arrangement: Arrangement = PlainArrangement(c.num_registers)
        if isinstance(c.encoder, Latent):
            bare = BlockShape(
                dim=c.dim,
                num_heads=c.num_heads,
                mlp_ratio=c.mlp_ratio,
                gated=c.gated_mlp,
                activation=c.activation,
            )
            depth = c.encoder_depth
            self.latents = LatentEncoder(c.encoder, bare, depth)
            self._arrangement = LatentArrangement.of(c.encoder, modalities)

    def _make_tables(self) -> None:
        """Vectors of ids, places and modalities, projections of what comes as vectors."""
        c, modalities = self.config, self.modalities
        outputs = modalities.outputs
        to_encoder = [m for m in modalities if m.kind != "continuous" and m.input]
        to_decoder = [m for m in outputs if m.kind == "sequence" or c.tie_heads]
        shared = to_decoder if c.share_token_embeddings else []
        either = [m for m in modalities if m in to_encoder or m in shared]

        def positions(members: list) -> PositionTable:
            return PositionTable(modalities, members, c.dim, c.positions, c.dim // c.num_heads)

        def vectors(num: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(num, c.dim) * TOKEN_STD)

        self.tokens = TokenTable(modalities, either, c.dim, TOKEN_STD)
        self.decoder_tokens = None
        if not c.share_token_embeddings:
            self.decoder_tokens = TokenTable(modalities, to_decoder, c.dim, TOKEN_STD)
        self.heads = None if c.tie_heads else TokenTable(modalities, outputs, c.dim, 0.0)
        for table in (self.tokens, self.decoder_tokens):
            if table is not None and table is not self._head_table:
                table.only_look_up()
        self.positions = positions(list(modalities))
        self.decoder_positions = None if c.share_learned_positions else positions(outputs)
        self.modality = vectors(len(modalities))
        self.decoder_modality = None
        state_roles(self, modality=TABLE)
        if not c.share_modality_embeddings:
            self.decoder_modality = vectors(len(modalities))
            state_roles(self, decoder_modality=TABLE)
        self.vector_in = nn.ModuleDict(
            {
                _module_name(m.name): nn.Linear(
                    m.width, c.dim, bias=c.patch_bias or not m.patch_size
                )
                for m in modalities
                if m.kind == "continuous"
            }
        )
        self.registers = None
        if c.num_registers:
            self.registers = vectors(c.num_registers)
            state_roles(self, registers=TABLE)

    @property
    def encoder_blocks(self) -> list[Block]:
        """The encoder's layers."""
        return [block for block in self.encoder if isinstance(block, Block)]

    @property
    def decoder_blocks(self) -> list[Block]:
        """The decoder's layers."""
        return [block for block in self.decoder if isinstance(block, Block)]

    @staticmethod
    def vector_name(name: str) -> str:
        """What the projection of a continuous modality's vectors is called among the weights."""
        return f"vector_in.{_module_name(name)}"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mask_token.device

    # ---- embedding -------------------------------------------------------------------------------

    def _embed_input(self, stream: EncoderStream) -> tuple[Tensor, Places]:
        """Content (T, D) of the encoder's rows and their places (position + modality)."""
        content = self.tokens(stream.modality, stream.token)
        for m in self.modalities:
            if m.kind != "continuous":
                continue
            layer = self.vector_in[_module_name(m.name)]
            given = stream.vectors.get(m.name)
            if given is None:
                # no such rows here: an exact zero keeps the projection's gradient defined on every
                # rank
                content = content + sum(p.sum() for p in layer.parameters()) * 0.0
            else:
                vectors = layer(given.floats().to(content.dtype)).to(content.dtype)
                content = content.index_copy(0, given.rows, vectors)
        at = self.positions(stream.modality, stream.position)
        return content, Places(at.added + F.embedding(stream.modality, self.modality), at.turn)

    def embed_target(self, kind: Tensor, position: Tensor, given: Tensor) -> tuple[Tensor, Places]:
        """Decoder rows (T, D), with what their places add, from modality, position and input id (or
        MASK_QUERY), (T,) each.
        """
        modality = self.modality if self.decoder_modality is None else self.decoder_modality
        table = self.decoder_tokens or self.tokens
        content = self.mask_token.expand(given.shape[0], -1)
        if len(table.table):
            is_query = (given < 0)[:, None]
            content = torch.where(is_query, content, table(kind, given.clamp_min(0)))
        at = (self.decoder_positions or self.positions)(kind, position)
        return content + at.added + F.embedding(kind, modality), at

    # ---- forward ---------------------------------------------------------------------------------

    def preparation(self, budget: Budget | None = None) -> Preparation:
        """What batches of this model must be prepared for: where it is, under the autocast that is
        on. With a ``budget`` they all have the same shapes.
        """
        c = self.config
        backend = Backend.of(c.attention, self.mask_token, c.block.head_dim)
        return Preparation(backend, self._arrangement, budget)

    def _stream(self, rows: Tensor) -> Tensor:
        """Rows (T, D) as the layers carry them on."""
        return rows.to(attention_dtype(rows)) if self.config.half_residual else rows

    def encode(self, stream: EncoderStream) -> Encoded:
        """Encoder output for packed inputs; ``features`` serve probes and fine-tuning, ``context``
        the decoder.
        """
        content, at = self._embed_input(stream)
        prepared = self.preparation().encoder(stream)
        if self.latents is not None:
            assert isinstance(prepared, LatentRows)
            rows = self._stream(content + at.added)
            return self.latents(rows, at.added, prepared, self.encoder_blocks, self._finished)
        assert isinstance(prepared, PlainRows)
        if self.registers is not None and prepared.registers is not None:
            num = len(prepared.registers.order) - len(content)
            first = self.registers.to(content.dtype).repeat(num // len(self.registers), 1)
            content = prepared.registers(torch.cat([first, content]))
            at = at.after(num).each(prepared.registers)
        rows = self._stream(content + at.added)
        layout = prepared.attention.turning(at.turn, at.turn)
        for block in self.encoder:
            rows = block(rows, layout)
        lengths = prepared.lengths
        return Encoded(*self._finished(rows, at.added), lengths, lengths, at.turn)

    def _finished(self, rows: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Features (T, D) and the decoder's context (T, D) from the last layer's output and what
        the rows' places add.
        """
        features = self.encoder_norm(rows)
        return features, self._stream(self.context(features) + added)

    def decode(self, encoded: Encoded, stream: DecoderStream) -> Tensor:
        """Decoder output (T, D) for packed targets."""
        rows, at = self.embed_target(stream.modality, stream.position, stream.input)
        rows = self._stream(rows)
        prepared = self.preparation().decoder(stream, encoded.lengths)
        layout = prepared.attention.turning(at.turn, at.turn)
        cross = prepared.cross.turning(at.turn, encoded.turn)
        for block in self.decoder:
            rows = block(rows, layout, encoded.context, cross)
        return self.decoder_norm(rows)

    def head(self, name: str) -> Tensor:
        """Output weights (V, D) of a modality."""
        return self._head_table.weights(self.modalities[name])

    @property
    def _head_table(self) -> TokenTable:
        return self.heads or self.decoder_tokens or self.tokens

    def logits(self, rows: Tensor, name: str) -> Tensor:
        """Decoder output (n, D) of one modality's rows -> logits (n, V)."""
        return rows @ self.head(name).to(rows.dtype).T

    def target_rows(self, batch: MaskedBatch) -> tuple[Tensor, dict[str, Head]]:
        """Decoder output of a batch's targets sorted by modality (T, D), and the heads of the
        vocabularies among them.
        """
        decoded = self.decode(self.encode(batch.encoder), batch.decoder)
        counted = zip(self.modalities, batch.decoder.counts, strict=True)
        present = {m.vocab or m.name for m, count in counted if count}
        return take_rows(decoded, batch.decoder.by_modality), self._head_table.heads(present)

    def forward(self, batch: MaskedBatch, objective: Objective | None = None) -> TokenLosses:
        """Losses of a masked batch by modality, by cross-entropy unless told otherwise."""
        objective = objective or CrossEntropy()
        rows, heads = self.target_rows(batch)
        ids = batch.decoder.target.index_select(0, batch.decoder.by_modality)
        counts = batch.decoder.counts
        # one split each: a slice for each modality would cost a whole gradient each
        parts = zip(self.modalities, rows.split(counts), ids.split(counts), strict=True)
        sums, start = [], 0
        for m, part, wanted in parts:
            if not len(part):
                sums.append(rows.new_zeros((), dtype=torch.float32))
                continue
            vocab, place = m.vocab or m.name, slice(start, start + len(part))
            sums.append(objective(Targets(part, heads[vocab], wanted, vocab, place)))
            start += len(part)
        # every parameter gets a gradient on every rank, whatever this batch holds
        idle = self._head_table.unused(set(heads)) + ([] if heads else [rows])
        touched = sum(tensor.sum() * 0.0 for tensor in idle)
        return TokenLosses(torch.stack(sums) + touched, torch.tensor(counts, dtype=torch.float32))

    # ---- files -----------------------------------------------------------------------------------

    def write_description(self, folder: Path) -> None:
        """``config.json`` alone, without the weights."""
        write_description(folder, to_mapping(self.config), self.modalities.to_mapping())

    def _save_pretrained(self, save_directory: Path) -> None:
        folder = Path(save_directory)
        self.write_description(folder)
        save_tensors(folder / WEIGHTS_FILE, self.state_dict())
        if self.provenance is not None:
            self.provenance.write(folder)

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
        folder = fetch_model(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            token=token,
            local_files_only=local_files_only,
        )
        return load_model(folder, dtype)


def load_model(folder: str | Path, dtype: torch.dtype | None = torch.float32) -> FourM:
    """Read a model folder: ours, or a released one of the 4M family.

    Args:
        dtype: of the weights in memory; None = as they are stored.

    Raises:
        UserError: names the file and what is wrong with it.
    """
    folder = Path(folder)
    described = read_description(folder)
    is_adapted = (folder / ADAPTERS_FILE).is_file()
    if described is None or is_adapted or not is_ours(described):
        for read in foreign_readers():
            model = read(folder, described, dtype)
            if isinstance(model, FourM):
                return model
        if described is None:
            raise UserError(f"no model in {folder}: {CONFIG_FILE} is missing")
        raise UserError(f"{folder / CONFIG_FILE} does not describe a fourm model")
    where = str(folder / CONFIG_FILE)
    check_format(described, where)
    for key in ("model", "modalities"):
        if key not in described:
            raise UserError(f"{where} lacks {key!r}")
    declared = {k: described[k] for k in ("tokenizers", "modalities") if k in described}
    modalities = ModalitySet.from_mapping(declared, where)
    config = from_mapping(ModelConfig, described["model"], where)
    files = WeightFiles.open(folder).renamed(FourM.renamed_weights)
    with torch.device("meta"):  # sizes that are not the files' are told before memory is taken
        files.need_all(FourM(config, modalities).state_dict())
    with init_empty_weights(include_buffers=False):
        model = FourM(config, modalities)
    load_into(model, files.read, dtype)
    model.provenance = Provenance.read(folder)
    return model


def _module_name(name: str) -> str:
    return name.replace(".", "_")  # module names may not hold dots
