"""4M's way of a training step, for comparison: what ``apple/ml-4m`` computes (2312.06647,
2406.09406), written anew from a description of it, with the weights of one of our models.

Every position of every modality is embedded, in the encoder and again in the decoder; the chosen
ones are sorted to the front and gathered into (B, N) and (B, M) slots; slots that a budget leaves
empty are zeroed, masked and computed all the same. Attention is a softmax written out over
(B, H, N, N) scores, the decoder's mask is dense. Each modality has tables and a head of its own,
the optimizer is torch's default AdamW. It computes the same function as ``FourM``, so that losses
can be held against each other: positions past a sequence's limit keep their own vectors, and the
decoder reads sequences with the encoder's tables, as our default does. The shuffling of modalities
at each step is left out: it changes nothing but their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from reference_inputs import DenseModality
from torch import Tensor, nn

from fourm.blocks import MLP, NORM_EPS, Attention, Block
from fourm.embedding import TokenTable
from fourm.modalities import Modality
from fourm.model import FourM
from fourm.training.optimizers import OptimizerConfig

# ---- layers --------------------------------------------------------------------------------------


class _Norm(nn.Module):
    """LayerNorm with a bias that stays zero, which its files hold as a buffer."""

    bias: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(norm, nn.LayerNorm)
        self.weight = _copy(norm.weight)
        self.register_buffer("bias", torch.zeros_like(norm.weight))

    def forward(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, NORM_EPS)


class _DenseAttention(nn.Module):
    def __init__(self, ours: Attention, cross: bool = False) -> None:
        super().__init__()
        dim = ours.proj.in_features
        self.num_heads, self.scale = ours.num_heads, (dim // ours.num_heads) ** -0.5
        weight = ours.qkv.weight
        self.parts = nn.ParameterList(
            map(_copy, weight.split([dim, 2 * dim]) if cross else [weight])
        )
        self.proj = _copy(ours.proj.weight)

    def forward(self, rows: Tensor, hidden: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); ``hidden`` (B, 1 or N, M) True = not seen."""
        if context is None:
            projected = [F.linear(rows, self.parts[0])]
        else:
            projected = [F.linear(rows, self.parts[0]), F.linear(context, self.parts[1])]
        q, k, v = (
            rearrange(part, "b n (h k) -> b h n k", h=self.num_heads)
            for whole in projected
            for part in whole.split(rows.shape[-1], dim=-1)
        )
        scores = q @ k.transpose(-2, -1) * self.scale
        scores = scores.masked_fill(hidden[:, None], torch.finfo(scores.dtype).min)
        heads = scores.softmax(dim=-1) @ v
        return F.linear(rearrange(heads, "b h n k -> b n (h k)"), self.proj)


class _DenseMLP(nn.Module):
    """SwiGLU of three matrices."""

    def __init__(self, ours: MLP) -> None:
        super().__init__()
        self.gate, self.value = map(_copy, ours.fc_in.weight.chunk(2))
        self.out = _copy(ours.fc_out.weight)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = F.silu(F.linear(rows, self.gate)) * F.linear(rows, self.value)
        return F.linear(hidden, self.out)


class _DenseBlock(nn.Module):
    def __init__(self, ours: Block) -> None:
        super().__init__()
        self.norm_self, self.norm_mlp = _Norm(ours.norm_self), _Norm(ours.norm_mlp)
        self.self_attention = _DenseAttention(ours.self_attention)
        self.mlp = _DenseMLP(ours.mlp)
        self.cross_attention = None
        if ours.cross_attention is not None:
            assert ours.norm_query is not None and ours.norm_context is not None
            self.norm_query, self.norm_context = _Norm(ours.norm_query), _Norm(ours.norm_context)
            self.cross_attention = _DenseAttention(ours.cross_attention, cross=True)

    def forward(
        self,
        rows: Tensor,
        hidden: Tensor,
        context: Tensor | None = None,
        hidden_context: Tensor | None = None,
    ) -> Tensor:
        rows = rows + self.self_attention(self.norm_self(rows), hidden)
        if self.cross_attention is not None:
            assert context is not None and hidden_context is not None
            rows = rows + self.cross_attention(
                self.norm_query(rows), hidden_context, self.norm_context(context)
            )
        return rows + self.mlp(self.norm_mlp(rows))


class _ModalityEmbedding(nn.Module):
    """The tables of one modality."""

    positions: Tensor  # (P, D)

    def __init__(self, ours: FourM, m: Modality) -> None:
        super().__init__()
        self.is_sequence = m.kind == "sequence"
        index = ours.modalities.index(m.name)
        decoder_modality = ours.modality if ours.decoder_modality is None else ours.decoder_modality
        self.modality = _copy(ours.modality[index])
        self.decoder_modality = _copy(decoder_modality[index])
        self.table = self.projection = self.head = None
        if m.kind == "continuous":
            layer = ours.get_submodule(ours.vector_name(m.name))
            assert isinstance(layer, nn.Linear)
            self.projection = nn.Linear(m.width, len(self.modality), bias=layer.bias is not None)
            self.projection.load_state_dict(layer.state_dict())
        else:
            self.table = _copy(ours.tokens.weights(m))
        if m.output:
            self.head = _copy(ours.head(m.name))
        at = torch.full((m.num_positions,), index)
        places = ours.positions(at, torch.arange(m.num_positions)).added.detach()
        if m.kind == "set":
            self.positions = nn.Parameter(places.clone())
        else:
            self.register_buffer("positions", places)

    def content(self, tokens: Tensor) -> Tensor:
        """(B, L) ids or (B, L, C) vectors -> (B, L, D)."""
        if self.projection is not None:
            return self.projection(tokens)
        assert self.table is not None
        return F.embedding(tokens, self.table)

    def places(self, kept: Tensor, modality: Tensor) -> Tensor:
        """What (B, L) slots add to their tokens: (B, L, D). Kept ids of a sequence are counted."""
        if not self.is_sequence:
            return (self.positions + modality).expand(len(kept), -1, -1)
        position = (kept.long().cumsum(1) - 1).clamp_min(0).masked_fill(~kept, 0)
        return F.embedding(position, self.positions) + modality


# ---- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chosen:
    """The slots that were chosen of all positions."""

    order: Tensor  # (B, N)
    valid: Tensor  # (B, N) False = the budget left the slot empty

    @staticmethod
    def of(kept: Tensor, num: int) -> _Chosen:
        """The first ``num`` kept ones of (B, L) positions, in their order."""
        key = (~kept).float() + torch.arange(kept.shape[1]) * 1e-6
        order = key.argsort(dim=1)[:, :num]
        return _Chosen(order, kept.gather(1, order))

    def rows(self, everything: Tensor) -> Tensor:
        """(B, L, D) -> (B, N, D), zeros in empty slots."""
        index = self.order[..., None].expand(-1, -1, everything.shape[-1])
        return everything.gather(1, index).masked_fill(~self.valid[..., None], 0.0)

    def numbers(self, everything: Tensor, empty: int) -> Tensor:
        """(B, L) -> (B, N), ``empty`` in empty slots."""
        return everything.gather(1, self.order).masked_fill(~self.valid, empty)


class ReferenceLike(nn.Module):
    """4M's way of computing what ``ours`` computes, with a copy of its weights.

    Args:
        num_inputs: N, slots of the encoder; num_targets: M, slots of the decoder.
    """

    def __init__(self, ours: FourM, num_inputs: int, num_targets: int) -> None:
        super().__init__()
        c = ours.config
        plain = not (c.qkv_bias or c.proj_bias or c.mlp_bias or c.norm_bias or c.qk_norm)
        assert plain and c.gated_mlp and c.activation == "silu" and c.share_token_embeddings
        assert isinstance(ours.heads, TokenTable) and ours.heads.levels is None
        self.num_inputs, self.num_targets = num_inputs, num_targets
        self.modalities = list(ours.modalities)
        self.embeddings = nn.ModuleList(_ModalityEmbedding(ours, m) for m in ours.modalities)
        self.mask_token = _copy(ours.mask_token)
        self.encoder = nn.ModuleList(map(_DenseBlock, ours.encoder_blocks))
        self.decoder = nn.ModuleList(map(_DenseBlock, ours.decoder_blocks))
        self.encoder_norm, self.decoder_norm = _Norm(ours.encoder_norm), _Norm(ours.decoder_norm)
        self.context = nn.Linear(c.dim, c.dim)
        self.context.load_state_dict(ours.context.state_dict())

    def _embedded(self) -> list[tuple[int, _ModalityEmbedding]]:
        return [(i, e) for i, e in enumerate(self.embeddings) if isinstance(e, _ModalityEmbedding)]

    def _encode(self, given: list[DenseModality]) -> tuple[Tensor, Tensor]:
        """Context (B, N, D) and where it is hidden (B, 1, N)."""
        content, places = [], []
        for i, embedding in self._embedded():
            content.append(embedding.content(given[i].tokens))
            places.append(embedding.places(given[i].is_input, embedding.modality))
        chosen = _Chosen.of(torch.cat([m.is_input for m in given], 1), self.num_inputs)
        rows, added = chosen.rows(torch.cat(content, 1)), chosen.rows(torch.cat(places, 1))
        hidden = ~chosen.valid[:, None]
        rows = rows + added
        for block in self.encoder:
            rows = block(rows, hidden)
        return self.context(self.encoder_norm(rows)) + added, hidden

    def _targets(self, given: list[DenseModality]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decoder rows (B, M, D), their modality (-1 = empty) and target (B, M), and which pairs of
        them are hidden from each other (B, M, M).
        """
        rows, kept, kinds, targets, reach = [], [], [], [], []
        for i, embedding in self._embedded():
            m = given[i]
            if embedding.head is None:
                continue
            if embedding.is_sequence:  # each id is read, its successor predicted
                kept.append(m.is_target[:, :-1] & m.is_target[:, 1:])
                content = embedding.content(m.tokens[:, :-1])
                targets.append(m.tokens[:, 1:])
                reach.append(m.reach[:, :-1])
            else:
                kept.append(m.is_target)
                content = self.mask_token.expand(*m.tokens.shape, -1)
                targets.append(m.tokens)
                reach.append(m.reach)
            rows.append(content + embedding.places(kept[-1], embedding.decoder_modality))
            kinds.append(torch.full_like(targets[-1], i))
        chosen = _Chosen.of(torch.cat(kept, 1), self.num_targets)
        kind = chosen.numbers(torch.cat(kinds, 1), -1)
        seen = chosen.numbers(torch.cat(reach, 1), 0).cumsum(1)
        slot = torch.arange(self.num_targets)
        visible = (slot < seen[..., None]) & (kind[:, :, None] == kind[:, None])
        wanted = chosen.numbers(torch.cat(targets, 1), 0)
        return chosen.rows(torch.cat(rows, 1)), kind, wanted, ~visible

    def forward(self, given: list[DenseModality]) -> Tensor:
        """Mean over the output modalities of each one's mean loss; 0 for those without targets."""
        context, hidden_context = self._encode(given)
        rows, kind, wanted, hidden = self._targets(given)
        for block in self.decoder:
            rows = block(rows, hidden, context, hidden_context)
        rows = self.decoder_norm(rows)
        losses = []
        for i, embedding in self._embedded():
            if embedding.head is None:
                continue
            own = kind == i
            logits = F.linear(rows[own], embedding.head)
            has_any = bool(own.any())
            losses.append(F.cross_entropy(logits, wanted[own]) if has_any else logits.sum() * 0.0)
        return torch.stack(losses).mean()


def default_adamw(model: ReferenceLike, config: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's AdamW as it comes; everything but norms and biases decays."""
    plain = [p for name, p in model.named_parameters() if "norm" in name or name.endswith("bias")]
    chosen = {id(p) for p in plain}
    decayed = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def _copy(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone())
