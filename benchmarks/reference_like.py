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
from reference_inputs import DenseModality
from reference_layers import DenseBlock, Norm, copied
from torch import Tensor, nn

from fourm.modalities import Modality
from fourm.model.embedding import TokenTable
from fourm.model.model import FourM


class _ModalityEmbedding(nn.Module):
    """The tables of one modality."""

    positions: Tensor  # (P, D)

    def __init__(self, ours: FourM, m: Modality) -> None:
        super().__init__()
        self.is_sequence = m.kind == "sequence"
        index = ours.modalities.index(m.name)
        decoder_modality = ours.modality if ours.decoder_modality is None else ours.decoder_modality
        self.modality = copied(ours.modality[index])
        self.decoder_modality = copied(decoder_modality[index])
        self.table = self.projection = self.head = None
        if m.kind == "continuous":
            layer = ours.get_submodule(ours.vector_name(m.name))
            assert isinstance(layer, nn.Linear)
            self.projection = nn.Linear(m.width, len(self.modality), bias=layer.bias is not None)
            self.projection.load_state_dict(layer.state_dict())
        else:
            self.table = copied(ours.tokens.weights(m))
        if m.output:
            self.head = copied(ours.head(m.name))
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
        self.mask_token = copied(ours.mask_token)
        self.encoder = nn.ModuleList(map(DenseBlock, ours.encoder_blocks))
        self.decoder = nn.ModuleList(map(DenseBlock, ours.decoder_blocks))
        self.encoder_norm, self.decoder_norm = Norm(ours.encoder_norm), Norm(ours.decoder_norm)
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
