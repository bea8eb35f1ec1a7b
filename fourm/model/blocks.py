"""Transformer parts: one attention module, one MLP, one block with optional cross-attention.

Pre-norm LayerNorm (eps 1e-6), SwiGLU or GELU, optional biases, optional QK-norm. Everything works
on packed rows (T, D); layouts say who sees whom and how places turn queries and keys. One block
serves training, parallel decoding and, with a cache, decoding row by row.

Two choices at the start of training pay on small budgets: key weights begin equal to query weights,
so rows that share a position attend to each other from step 0, and output projections begin at
zero, so every block begins as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.model.attention import PreparedLayout
from fourm.model.cache import BlockCache, KeysValues, KeyValueCache
from fourm.model.fused import Part, cut_layer
from fourm.model.roles import matrix, state_roles

NORM_EPS = 1e-6
_ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu}


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What all blocks of a network share."""

    dim: int
    num_heads: int
    mlp_ratio: float = 4.0
    gated: bool = True  # SwiGLU, whose hidden width is 2/3 of the ratio times D
    activation: str = "silu"
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise UserError(
                f"width {self.dim} is not a multiple of the number of heads {self.num_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def hidden(self) -> int:
        """Width inside an MLP."""
        wide = int(self.mlp_ratio * self.dim)
        return int(2 * wide / 3) if self.gated else wide

    def norm(self, dim: int = 0) -> nn.LayerNorm:
        """A norm over D, or over ``dim``."""
        return layer_norm(dim or self.dim, self.norm_bias)


def layer_norm(dim: int, bias: bool) -> nn.LayerNorm:
    """LayerNorm over the last axis with this project's epsilon."""
    return nn.LayerNorm(dim, eps=NORM_EPS, bias=bias)


class Attention(nn.Module):
    """Multi-head attention of packed rows; the same module serves self- and cross-attention.

    ``qkv`` holds query, key and value weights in this order, head-major inside each.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.num_heads, dim = shape.num_heads, shape.dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=shape.qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=shape.proj_bias)
        self.q_norm = shape.norm(shape.head_dim) if shape.qk_norm else None
        self.k_norm = shape.norm(shape.head_dim) if shape.qk_norm else None
        state_roles(self.qkv, weight=matrix(pieces=3))
        state_roles(self.proj, weight=matrix())

    def reset_parameters(self) -> None:
        """Keys equal to queries, output zero."""
        dim = self.proj.in_features
        nn.init.normal_(self.qkv.weight, std=dim**-0.5)
        with torch.no_grad():
            self.qkv.weight[dim : 2 * dim] = self.qkv.weight[:dim]
        nn.init.zeros_(self.proj.weight)
        _zero_biases(self.qkv, self.proj)

    def _queries(self, rows: Tensor, part: Part) -> Tensor:
        """(T, D) -> (T, H, K)."""
        q = part(rows).unflatten(1, (self.num_heads, -1))
        return _normed(self.q_norm, q)

    def keys_values(self, rows: Tensor, part: Part) -> KeysValues:
        """(T, D) -> two of (T, H, K)."""
        k, v = part(rows).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        return _normed(self.k_norm, k), v

    def _queries_keys_values(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three of the same rows in one product."""
        # unbound where they lie: their gradients become one tensor of the product's own layout
        q, k, v = self.qkv(rows).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        return _normed(self.q_norm, q), _normed(self.k_norm, k), v

    def forward(
        self,
        rows: Tensor,
        layout: PreparedLayout,
        context: Tensor | None = None,
        context_norm: nn.Module | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Rows attend to themselves, or to ``context``.

        Args:
            rows: (T_q, D); context: (T_k, D), which ``context_norm`` is applied to.
            layout: which rows see which, and how places turn queries and keys.
            cache: keeps keys and values from call to call; the layout's kernel must be its own.

        Returns:
            (T_q, D). A query whose block has no keys gets the output's bias alone.
        """
        if layout.order is not None:
            rows = layout.order(rows)
        if context is None and cache is None:
            q, k, v = self._queries_keys_values(rows)
            k = layout.turned_keys(k)
        else:
            dim = self.proj.in_features
            own, others = cut_layer(self.qkv, [dim, 2 * dim])

            def made() -> KeysValues:
                seen = rows if context is None else context
                seen = seen if context_norm is None else context_norm(seen)
                k, v = self.keys_values(seen, others)
                return layout.turned_keys(k), v

            q = self._queries(rows, own)
            k, v = made() if cache is None else cache.update(made)
        heads = layout.kernel.attend(layout.turned_queries(q), k, v)
        out = self.proj(rearrange(heads, "t h k -> t (h k)"))
        return out if layout.order is None else layout.order.back(out)


def _normed(norm: nn.Module | None, heads: Tensor) -> Tensor:
    """Queries or keys (T, H, K), in the type that they had: under autocast a norm gives float32,
    which kernels of half precision do not take.
    """
    return heads if norm is None else norm(heads).to(heads.dtype)


class MLP(nn.Module):
    """Gated (SwiGLU) or plain; ``fc_in`` holds gate and value weights in this order."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.gated, self.activation = shape.gated, _ACTIVATIONS[shape.activation]
        pieces = 2 if shape.gated else 1
        self.fc_in = nn.Linear(shape.dim, pieces * shape.hidden, bias=shape.mlp_bias)
        self.fc_out = nn.Linear(shape.hidden, shape.dim, bias=shape.mlp_bias)
        state_roles(self.fc_in, weight=matrix(pieces))
        state_roles(self.fc_out, weight=matrix())

    def reset_parameters(self) -> None:
        """Output zero."""
        nn.init.normal_(self.fc_in.weight, std=self.fc_in.in_features**-0.5)
        nn.init.zeros_(self.fc_out.weight)
        _zero_biases(self.fc_in, self.fc_out)

    def forward(self, rows: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        hidden = self.fc_in(rows)
        if not self.gated:
            return self.fc_out(self.activation(hidden))
        gate, value = hidden.chunk(2, dim=-1)
        return self.fc_out(self.activation(gate) * value)


class Block(nn.Module):
    """Self-attention, optional cross-attention, MLP; all pre-norm and residual."""

    def __init__(self, shape: BlockShape, cross: bool = False) -> None:
        super().__init__()
        self.norm_self = shape.norm()
        self.self_attention = Attention(shape)
        self.norm_query = shape.norm() if cross else None
        self.norm_context = shape.norm() if cross else None
        self.cross_attention = Attention(shape) if cross else None
        self.norm_mlp = shape.norm()
        self.mlp = MLP(shape)

    def reset_parameters(self) -> None:
        """Fresh weights with which the block is the identity."""
        for part in (self.self_attention, self.cross_attention, self.mlp):
            if part is not None:
                part.reset_parameters()

    def forward(
        self,
        rows: Tensor,
        layout: PreparedLayout,
        context: Tensor | None = None,
        cross_layout: PreparedLayout | None = None,
        cache: BlockCache | None = None,
    ) -> Tensor:
        """(T, D) -> (T, D).

        Args:
            context: (T_k, D) with its layout, for a block with cross-attention.
            cache: of an earlier part of the same sequences; its context is read once.
        """
        past, kept = (None, None) if cache is None else (cache.past, cache.context)
        rows = rows + self.self_attention(self.norm_self(rows), layout, cache=past)
        if self.cross_attention is not None:
            assert self.norm_query is not None
            assert context is not None and cross_layout is not None
            rows = rows + self.cross_attention(
                self.norm_query(rows), cross_layout, context, self.norm_context, kept
            )
        return rows + self.mlp(self.norm_mlp(rows))


def _zero_biases(*layers: nn.Linear) -> None:
    for layer in layers:
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
