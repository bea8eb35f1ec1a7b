"""The encoder and the decoder as modules of tensors alone, with the model's own weights and blocks.

Rows are padded: a row is a modality, a position in it and an id, and a mask says where there is
one. The encoder gives features, and the keys and values that the decoder's layers have of them
(``memory``), made once. The decoder is a step: new rows see those of earlier steps by their kept
keys and values (``past``, of no rows at first), so one graph serves sequences, a token at a time,
and grids, many queries at once. Shapes: B samples, N encoder rows, M new decoder rows, P earlier
ones, D width, Z decoder layers, H heads of K numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.export.attention import block_cache, by_sample, masked_layout
from fourm.modalities import Modality
from fourm.model.fused import cut_layer
from fourm.model.model import FourM
from fourm.model.positions import Places, Rotation


class PaddedEncoder(nn.Module):
    """The encoder.

    Args:
        continuous: modalities that come as vectors, all of their places in order, behind the rows
            of ids.

    Raises UserError for a latent encoder, whose rows are laid out on the host.
    """

    def __init__(self, model: FourM, continuous: tuple[Modality, ...] = ()) -> None:
        super().__init__()
        if model.latents is not None:
            raise UserError("a model with a latent encoder cannot be exported: train a plain one")
        self.model, self.continuous = model, continuous

    def rows(
        self, modality: Tensor, position: Tensor, token: Tensor, mask: Tensor, *vectors: Tensor
    ) -> tuple[Tensor, Places, Tensor]:
        """What the layers take of padded inputs: rows (B (R + N), D) with registers first, their
        places, and which of them are there (B, R + N).

        Args:
            modality, position, token: (B, N) int64; mask: (B, N) True = there is a row.
            vectors: of each continuous modality its vectors (B, n, C) and their mask (B, n).
        """
        ids = self.model.tokens(modality.flatten(), token.flatten())
        content, kinds, places = [ids.unflatten(0, modality.shape)], [modality], [position]
        for m, given in zip(self.continuous, vectors[::2], strict=True):
            layer = self.model.get_submodule(FourM.vector_name(m.name))
            index = self.model.modalities.index(m.name)
            content.append(layer(given))
            kinds.append(torch.full_like(given[..., 0], index, dtype=torch.long))
            places.append(torch.arange(given.shape[1]).expand_as(kinds[-1]))
        mask = torch.cat([mask, *vectors[1::2]], 1)
        kind, place = (torch.cat(parts, 1).flatten() for parts in (kinds, places))
        at = self.model.positions(kind, place)
        at = Places(at.added + F.embedding(kind, self.model.modality), at.turn)
        rows = torch.cat(content, 1)
        if self.model.registers is not None:
            first = self.model.registers.expand(mask.shape[0], -1, -1)
            rows, at = torch.cat([first, rows], 1), _behind_registers(first, at, mask.shape)
            mask = torch.cat([torch.ones_like(first[..., 0], dtype=torch.bool), mask], 1)
        return rows.flatten(0, 1) + at.added, at, mask

    def layers(self, rows: Tensor, at: Places, mask: Tensor) -> list[Tensor]:
        """Features (B N, D) of each layer, from what ``rows`` gave."""
        num, length = mask.shape
        layout = masked_layout(num, length, mask[:, None, None], at.turn)
        found = []
        for block in self.model.encoder_blocks:
            rows = block(rows, layout)
            found.append(rows)
        return [self.model.encoder_norm(rows) for rows in found]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs as ``rows`` takes them.

        Returns:
            features (B, R + N, D), memory (Z, 2, B, H, R + N, K), mask (B, R + N).
        """
        rows, at, mask = self.rows(*inputs)
        features = self.layers(rows, at, mask)[-1]
        memory = self._memory(self.model.context(features) + at.added, at, mask.shape)
        return features.unflatten(0, mask.shape), memory, mask

    def _memory(self, context: Tensor, at: Places, shape: torch.Size) -> Tensor:
        """Keys and values that the decoder's layers have of their context."""
        found = []
        for block in self.model.decoder_blocks:
            assert block.cross_attention is not None and block.norm_context is not None
            dim = self.model.config.dim
            _, others = cut_layer(block.cross_attention.qkv, [dim, 2 * dim])
            keys, values = block.cross_attention.keys_values(block.norm_context(context), others)
            keys = keys if at.turn is None else at.turn(keys)
            found.append(torch.stack([by_sample(keys, *shape), by_sample(values, *shape)]))
        return torch.stack(found)


def _behind_registers(first: Tensor, at: Places, shape: torch.Size) -> Places:
    """Places of rows (B N, ...) behind registers (B, R, D), which are nowhere: nothing is added to
    them, and they are not turned.
    """

    def behind(front: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([front, rows.unflatten(0, shape)], 1).flatten(0, 1)

    added, turn = behind(torch.zeros_like(first), at.added), at.turn
    if turn is not None:
        still = torch.zeros_like(first[..., : turn.sin.shape[1]])
        turn = Rotation(behind(still + 1, turn.cos), behind(still, turn.sin))
    return Places(added, turn)


class PaddedDecoder(nn.Module):
    """A decoder step."""

    def __init__(self, model: FourM) -> None:
        super().__init__()
        self.model = model
        causal = torch.tensor([m.kind == "sequence" for m in model.modalities])
        self.register_buffer("causal", causal, persistent=False)

    causal: Tensor

    def forward(
        self,
        memory: Tensor,
        memory_mask: Tensor,
        past: Tensor,
        modality: Tensor,
        position: Tensor,
        token: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rows of one target, or of several: each sees those of its own modality.

        Args:
            memory, memory_mask: what the encoder gave.
            past: (Z, 2, B, H, P, K), what the step before gave; all new rows see its rows.
            modality, position, token: (B, M) int64; an id of -1 asks what is there.
            mask: (B, M) True = there is a row; those of sequences in their order.

        Returns:
            Output (B, M, D), which a head makes logits of, and ``past`` with the new rows.
        """
        rows, at = self.model.embed_target(*(t.flatten() for t in (modality, position, token)))
        num, length = mask.shape
        earlier = torch.ones(num, length, past.shape[4], dtype=torch.bool)
        visible = torch.cat([earlier, self._visible(modality, mask)], 2)
        layout = masked_layout(num, length, visible[:, None], at.turn)
        cross = masked_layout(num, length, memory_mask[:, None, None], at.turn, itself=False)
        grown = []
        for number, block in enumerate(self.model.decoder_blocks):
            cache, growing = block_cache(past[number], memory[number], length)
            # the context is in the cache: what stands for it is not read
            rows = block(rows, layout, rows, cross, cache)
            grown.append(torch.stack(growing.kept))
        return self.model.decoder_norm(rows).unflatten(0, mask.shape), torch.stack(grown)

    def _visible(self, modality: Tensor, mask: Tensor) -> Tensor:
        """Which new rows see which (B, M, M)."""
        order = torch.arange(modality.shape[1])
        earlier = order[None, :] <= order[:, None]
        free = ~self.causal[modality][:, :, None]
        return (modality[:, :, None] == modality[:, None]) & mask[:, None] & (free | earlier)


class OutputHead(nn.Module):
    """Logits of a modality's ids from the decoder's output."""

    def __init__(self, model: FourM, name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(model.head(name).detach().clone(), requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, V)."""
        return rows @ self.weight.T
