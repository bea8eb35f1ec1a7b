"""4M's layers on dense slots (B, N, D), with copies of the weights of ours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.model.blocks import MLP, NORM_EPS, Attention, Block


def copied(tensor: Tensor) -> nn.Parameter:
    """A parameter of its own with the same numbers."""
    return nn.Parameter(tensor.detach().clone())


class Norm(nn.Module):
    """LayerNorm with a bias that stays zero, which its files hold as a buffer."""

    bias: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(norm, nn.LayerNorm)
        self.weight = copied(norm.weight)
        self.register_buffer("bias", torch.zeros_like(norm.weight))

    def forward(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, NORM_EPS)


class DenseAttention(nn.Module):
    """A softmax written out over (B, H, N, M) scores."""

    def __init__(self, ours: Attention, cross: bool = False) -> None:
        super().__init__()
        dim = ours.proj.in_features
        self.num_heads, self.scale = ours.num_heads, (dim // ours.num_heads) ** -0.5
        weight = ours.qkv.weight
        self.parts = nn.ParameterList(
            map(copied, weight.split([dim, 2 * dim]) if cross else [weight])
        )
        self.proj = copied(ours.proj.weight)

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


class DenseMLP(nn.Module):
    """SwiGLU of three matrices."""

    def __init__(self, ours: MLP) -> None:
        super().__init__()
        self.gate, self.value = map(copied, ours.fc_in.weight.chunk(2))
        self.out = copied(ours.fc_out.weight)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = F.silu(F.linear(rows, self.gate)) * F.linear(rows, self.value)
        return F.linear(hidden, self.out)


class DenseBlock(nn.Module):
    """Pre-norm and residual, with cross-attention where ours has it."""

    def __init__(self, ours: Block) -> None:
        super().__init__()
        self.norm_self, self.norm_mlp = Norm(ours.norm_self), Norm(ours.norm_mlp)
        self.self_attention = DenseAttention(ours.self_attention)
        self.mlp = DenseMLP(ours.mlp)
        self.cross_attention = None
        if ours.cross_attention is not None:
            assert ours.norm_query is not None and ours.norm_context is not None
            self.norm_query, self.norm_context = Norm(ours.norm_query), Norm(ours.norm_context)
            self.cross_attention = DenseAttention(ours.cross_attention, cross=True)

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
