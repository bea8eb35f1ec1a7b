"""Transformer parts: one attention module, one MLP, one block with optional cross-attention.

Pre-norm LayerNorm (eps 1e-6), SwiGLU or GELU, optional biases, optional QK-norm. Everything works
on packed rows (T, D); layouts say who sees whom. Two choices at the start of training pay on small
budgets: key weights begin equal to query weights, so rows that share a position attend to each
other from step 0, and output projections begin at zero, so every block begins as the identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.attention import PreparedLayout, attention
from fourm.errors import UserError

NORM_EPS = 1e-6


def layer_norm(dim: int, bias: bool) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=NORM_EPS, bias=bias)


class Attention(nn.Module):
    """Multi-head attention of packed rows; the same module serves self- and cross-attention.

    ``qkv`` holds query, key and value weights in this order, head-major inside each.
    """

    def __init__(
        self, dim: int, num_heads: int, bias: bool, out_bias: bool, qk_norm: bool, norm_bias: bool
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(f"width {dim} is not a multiple of the number of heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=out_bias)
        self.q_norm = layer_norm(dim // num_heads, norm_bias) if qk_norm else None
        self.k_norm = layer_norm(dim // num_heads, norm_bias) if qk_norm else None

    def reset_parameters(self) -> None:
        dim = self.proj.in_features
        nn.init.normal_(self.qkv.weight, std=dim**-0.5)
        with torch.no_grad():
            self.qkv.weight[dim : 2 * dim] = self.qkv.weight[:dim]
        nn.init.zeros_(self.proj.weight)
        for layer in (self.qkv, self.proj):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def queries(self, rows: Tensor) -> Tensor:
        """(T, D) -> (T, H, K)."""
        dim = self.proj.in_features
        q = F.linear(
            rows, self.qkv.weight[:dim], None if self.qkv.bias is None else self.qkv.bias[:dim]
        )
        q = rearrange(q, "t (h k) -> t h k", h=self.num_heads)
        return q if self.q_norm is None else self.q_norm(q)

    def keys_values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(T, D) -> two of (T, H, K)."""
        dim = self.proj.in_features
        kv = F.linear(
            rows, self.qkv.weight[dim:], None if self.qkv.bias is None else self.qkv.bias[dim:]
        )
        k, v = rearrange(kv, "t (two h k) -> two t h k", two=2, h=self.num_heads)
        return (k if self.k_norm is None else self.k_norm(k)), v

    def output(self, heads: Tensor) -> Tensor:
        """(T, H, K) -> (T, D)."""
        return self.proj(rearrange(heads, "t h k -> t (h k)"))

    def forward(
        self, rows: Tensor, layout: PreparedLayout, context: Tensor | None = None
    ) -> Tensor:
        """(T_q, D) rows, attending to themselves or to ``context`` (T_k, D) -> (T_q, D)."""
        if context is None:
            q, k, v = rearrange(
                self.qkv(rows), "t (three h k) -> three t h k", three=3, h=self.num_heads
            )
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
        else:
            q = self.queries(rows)
            k, v = self.keys_values(context)
        return self.output(attention(q, k, v, layout))


class MLP(nn.Module):
    """Gated (SwiGLU; hidden width 2/3 of ``ratio`` times the input's) or plain; ``fc_in`` holds
    gate and value weights in this order.
    """

    def __init__(
        self, dim: int, ratio: float, gated: bool, bias: bool, activation: str = "silu"
    ) -> None:
        super().__init__()
        self.gated = gated
        self.activation = {"silu": F.silu, "gelu": F.gelu}[activation]
        self.hidden = int(2 * int(ratio * dim) / 3) if gated else int(ratio * dim)
        self.fc_in = nn.Linear(dim, self.hidden * (2 if gated else 1), bias=bias)
        self.fc_out = nn.Linear(self.hidden, dim, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.fc_in.weight, std=self.fc_in.in_features**-0.5)
        nn.init.zeros_(self.fc_out.weight)
        for layer in (self.fc_in, self.fc_out):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.fc_in(rows)
        if self.gated:
            gate, value = hidden.chunk(2, dim=-1)
            return self.fc_out(self.activation(gate) * value)
        return self.fc_out(self.activation(hidden))


class Block(nn.Module):
    """Self-attention, optional cross-attention, MLP; all pre-norm and residual."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        gated: bool = True,
        activation: str = "silu",
        qkv_bias: bool = False,
        proj_bias: bool = False,
        mlp_bias: bool = False,
        norm_bias: bool = False,
        qk_norm: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.norm_self = layer_norm(dim, norm_bias)
        self.self_attention = Attention(dim, num_heads, qkv_bias, proj_bias, qk_norm, norm_bias)
        self.norm_query = layer_norm(dim, norm_bias) if cross else None
        self.norm_context = layer_norm(dim, norm_bias) if cross else None
        self.cross_attention = (
            Attention(dim, num_heads, qkv_bias, proj_bias, qk_norm, norm_bias) if cross else None
        )
        self.norm_mlp = layer_norm(dim, norm_bias)
        self.mlp = MLP(dim, mlp_ratio, gated, mlp_bias, activation)

    def reset_parameters(self) -> None:
        for part in (self.self_attention, self.cross_attention, self.mlp):
            if part is not None:
                part.reset_parameters()

    def forward(
        self,
        rows: Tensor,
        layout: PreparedLayout,
        context: Tensor | None = None,
        cross_layout: PreparedLayout | None = None,
    ) -> Tensor:
        """(T, D) -> (T, D); a block with cross-attention needs ``context`` (T_k, D) and its
        layout.
        """
        rows = rows + self.self_attention(self.norm_self(rows), layout)
        if self.cross_attention is not None:
            assert self.norm_query is not None and self.norm_context is not None
            assert context is not None and cross_layout is not None
            rows = rows + self.cross_attention(
                self.norm_query(rows), cross_layout, self.norm_context(context)
            )
        return rows + self.mlp(self.norm_mlp(rows))


def sincos_1d(length: int, dim: int) -> Tensor:
    """Fixed 1-D position table (length, D): sines, then cosines, of position / 10000^(k / (D/2)).
    Vaswani et al., 2017.
    """
    if dim % 2:
        raise UserError(f"a sin-cos table needs an even width, not {dim}")
    omega = torch.exp(-math.log(10000.0) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angle = torch.arange(length, dtype=torch.float64)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def sincos_2d(height: int, width: int, dim: int) -> Tensor:
    """Fixed 2-D position table (height * width, D), row-major: first half encodes the row, second
    half the column.
    """
    if dim % 4:
        raise UserError(f"a 2-D sin-cos table needs a width divisible by 4, not {dim}")
    rows = sincos_1d(height, dim // 2)[:, None].expand(height, width, -1)
    columns = sincos_1d(width, dim // 2)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=-1).reshape(height * width, dim).contiguous()
