"""Codebooks of the released tokenizers, for look-up: nearest code by cosine or distance, or one
choice per head ("memcodes").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourm.errors import UserError


class NearestCode(nn.Module):
    """One codebook (V, L).

    Distances use unit vectors if ``norm_codes``; look-ups return the stored rows.
    """

    def __init__(self, size: int, dim: int, norm_codes: bool, norm_latents: bool) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.zeros(size, dim), requires_grad=False)
        self.norm_codes, self.norm_latents = norm_codes, norm_latents

    def ids(self, latents: Tensor) -> Tensor:
        """(B, L, h, w) -> (B, h, w)."""
        rows = rearrange(latents, "b d h w -> b h w d").float()
        codes = self.embed.float()
        if self.norm_latents:
            rows = F.normalize(rows, dim=-1)
        if self.norm_codes:
            return (F.normalize(rows, dim=-1) @ F.normalize(codes, dim=-1).T).argmax(-1)
        # nearest: |x|^2 is the same for all codes
        return (rows @ codes.T - 0.5 * (codes**2).sum(-1)).argmax(-1)

    def codes(self, ids: Tensor) -> Tensor:
        """(B, h, w) -> (B, L, h, w)."""
        return rearrange(F.embedding(ids, self.embed), "b h w d -> b d h w")


class HeadCodes(nn.Module):
    """H codebooks: each head of the latent attends to its own learned codes and takes one
    ("memcodes" of lucidrains).
    """

    def __init__(self, size: int, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(f"latent_dim {dim} is not a multiple of num_codebooks {num_heads}")
        width = dim // num_heads
        self.num_heads = num_heads
        self.codebooks = nn.Parameter(torch.zeros(num_heads, size, width), requires_grad=False)
        self.to_k = nn.Parameter(torch.zeros(num_heads, width, width), requires_grad=False)
        self.to_v = nn.Parameter(torch.zeros(num_heads, width, width), requires_grad=False)

    def ids(self, latents: Tensor) -> Tensor:
        """(B, L, h, w) -> (B, H, h, w)."""
        b, _, h, w = latents.shape
        rows = rearrange(latents, "b (k d) h w -> k (b h w) d", k=self.num_heads).float()
        keys = torch.einsum("knd,kdc->knc", self.codebooks.float(), self.to_k.float())
        return rearrange(
            (rows @ keys.transpose(1, 2)).argmax(-1), "k (b h w) -> b k h w", b=b, h=h, w=w
        )

    def codes(self, ids: Tensor) -> Tensor:
        """(B, H, h, w) -> (B, L, h, w)."""
        values = torch.einsum("knd,kdc->knc", self.codebooks, self.to_v)
        head = torch.arange(self.num_heads, device=ids.device)[None, :, None, None]
        return rearrange(values[head, ids], "b k h w d -> b (k d) h w")
