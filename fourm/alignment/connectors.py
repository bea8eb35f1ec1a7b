"""Trainable connectors over frozen latents: FuseMix's residual heads, Alt-MoE's shared mixture of
experts, and a dense rival for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.model.roles import TABLE, state_roles

CONTRAST, REGRESSION = 0, 1  # rows of the shared connector's loss embedding


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """Which connector, how large. The defaults are FuseMix's published recipe."""

    kind: Literal["heads", "experts", "dense"] = "heads"
    dim_out: int = 512  # of the shared space
    depth: int = 4  # heads: residual blocks
    expand: int = 4  # heads: hidden width of a block, in widths of the latents
    dropout: float = 0.6
    hidden: int = 2048  # experts: width of the shared trunk
    num_experts: int = 12
    top_k: int = 4
    renormalize: bool = True  # gate values of the chosen experts sum to one
    balance: float = 0.0  # weight of the load-balancing loss

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise UserError(
                f"top_k {self.top_k} must be between 1 and num_experts {self.num_experts}"
            )


class ResidualHead(nn.Module):
    """(..., d) -> (..., dim_out): pre-norm residual MLP blocks, then a projection (FuseMix)."""

    def __init__(self, dim: int, config: ConnectorConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim),
                nn.Linear(dim, config.expand * dim),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.expand * dim, dim),
            )
            for _ in range(config.depth)
        )
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, config.dim_out))

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B, D) -> vectors of the common space (B, out)."""
        for block in self.blocks:
            z = z + block(z)
        return self.out(z)


@dataclass(frozen=True)
class Moved:
    """What a trunk makes of rows."""

    rows: Tensor  # (n, h)
    balance: Tensor  # scalar, 1 where all experts are used alike; 0 without experts
    use: Tensor  # (E,), rows that went to each expert; empty without experts


class Experts(nn.Module):
    """A pool of two-layer experts of which each row uses ``top_k``.

    Rows of one expert are computed together, the others not at all.
    """

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        e, h = config.num_experts, config.hidden
        self.gate = nn.Linear(h, e, bias=False)
        self.inner = nn.Parameter(torch.empty(e, h, h))
        self.inner_bias = nn.Parameter(torch.zeros(e, h))
        self.outer = nn.Parameter(torch.empty(e, h, h))
        self.outer_bias = nn.Parameter(torch.zeros(e, h))
        state_roles(self, inner=TABLE, inner_bias=TABLE, outer=TABLE, outer_bias=TABLE)
        for weight in (self.inner, self.outer):
            nn.init.normal_(weight, std=h**-0.5)

    def route(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (n, h) -> gate values (n, k), experts (n, k), all probabilities (n, E)."""
        probabilities = self.gate(rows).float().softmax(-1)
        values, chosen = probabilities.topk(self.config.top_k, dim=-1)
        if self.config.renormalize:
            values = values / values.sum(-1, keepdim=True)
        return values.to(rows.dtype), chosen, probabilities

    def expert(self, index: int, rows: Tensor) -> Tensor:
        """What one expert makes of rows (n, h)."""
        p = self.config.dropout if self.training else 0.0
        hidden = F.dropout(F.gelu(rows @ self.inner[index] + self.inner_bias[index]), p)
        return F.dropout(hidden @ self.outer[index] + self.outer_bias[index], p)

    def forward(self, rows: Tensor) -> Moved:
        """Rows (n, h) -> sum over the chosen experts of gate value x what the expert makes of them.

        Balance is that of Switch Transformers (2101.03961): E sum_e share_e x mean gate of e.
        """
        num = self.config.num_experts
        values, chosen, probabilities = self.route(rows)
        result = torch.zeros_like(rows)
        for index in range(num):
            # its rows, and which of their top_k choices it is
            at, slot = torch.nonzero(chosen == index, as_tuple=True)
            if len(at):
                made = values[at, slot, None] * self.expert(index, rows[at])
                result = result.index_add(0, at, made)
        use = torch.bincount(chosen.reshape(-1), minlength=num).float()
        balance = num * (use / use.sum() * probabilities.mean(0)).sum()
        return Moved(result, balance, use)


class DenseTrunk(nn.Module):
    """One two-layer network with as many parameters as all experts together: what a mixture has to
    beat.
    """

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        h = config.hidden
        wide = h * config.num_experts
        self.net = nn.Sequential(
            nn.Linear(h, wide),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(wide, h),
            nn.Dropout(config.dropout),
        )

    def forward(self, rows: Tensor) -> Moved:
        """Rows (n, h) -> (n, h)."""
        return Moved(self.net(rows), rows.new_zeros(()), rows.new_zeros(0))


@dataclass(frozen=True)
class Predicted:
    """What the shared connector says of one direction."""

    contrast: Tensor  # (B, dim_out), to compare with ``target``
    target: Tensor  # (B, dim_out), of the true other modality
    regression: Tensor  # (B, d of the other modality)
    balance: Tensor
    use: Tensor  # (E,)


class SharedConnector(nn.Module):
    """Alt-MoE / M3-JEPA (2409.05929): from a modality's latent to what another one's would be, one
    trunk for all directions.

    Input = projection + direction embedding; for each of the two losses a loss embedding, the same
    gate, the same experts. ``pooled`` rows of tokens are averaged after the trunk under their mask.
    """

    def __init__(
        self, dims: dict[str, int], directions: list[tuple[str, str]], config: ConnectorConfig
    ) -> None:
        super().__init__()
        h = config.hidden
        self.directions = {pair: i for i, pair in enumerate(directions)}
        self.project = nn.ModuleDict({name: nn.Linear(dim, h) for name, dim in dims.items()})
        self.direction = nn.Parameter(torch.randn(len(directions), h) * 0.02)
        self.loss = nn.Parameter(torch.randn(2, h) * 0.02)
        state_roles(self, direction=TABLE, loss=TABLE)
        self.trunk = Experts(config) if config.kind == "experts" else DenseTrunk(config)
        self.norms = nn.ModuleList(nn.LayerNorm(h) for _ in range(2))
        self.regress = nn.ModuleDict({name: nn.Linear(h, dim) for name, dim in dims.items()})
        self.contrast = nn.ModuleDict({name: nn.Linear(h, config.dim_out) for name in dims})
        self.target = nn.ModuleDict(
            {name: nn.Linear(d, config.dim_out) for name, d in dims.items()}
        )

    def embed(
        self, z: Tensor, pair: tuple[str, str], loss: int, mask: Tensor | None = None
    ) -> Moved:
        """Latents (B, d), or (B, L, d) with a mask (B, L; True = kept), of the first modality of a
        pair -> rows (B, h) for a loss (``CONTRAST`` or ``REGRESSION``).
        """
        tokens = z if z.ndim == 3 else z[:, None]
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=z.device)
        # the trunk sees rows of all samples in one list (n, h)
        rows = self.project[pair[0]](tokens[mask]) + self.direction[self.directions[pair]]
        rows = F.gelu(rows) + self.loss[loss]
        moved = self.trunk(rows)
        rows = F.gelu(self.norms[loss](moved.rows)) + rows
        # mean over the kept tokens of each sample
        sample = torch.nonzero(mask)[:, 0]
        total = rows.new_zeros(len(z), rows.shape[1]).index_add(0, sample, rows)
        count = mask.sum(1, keepdim=True).clamp_min(1)
        return Moved(total / count, moved.balance, moved.use)

    def forward(
        self, source: Tensor, target: Tensor, pair: tuple[str, str], mask: Tensor | None = None
    ) -> Predicted:
        """Latents of both modalities of a pair, (B, d) or (B, L, d) -> what the first says of the
        second; targets get no gradient.
        """
        compared = self.embed(source, pair, CONTRAST, mask)
        regressed = self.embed(source, pair, REGRESSION, mask)
        pooled = target.mean(1) if target.ndim == 3 else target
        return Predicted(
            contrast=self.contrast[pair[1]](compared.rows),
            target=self.target[pair[1]](pooled.detach()),
            regression=self.regress[pair[1]](regressed.rows),
            balance=(compared.balance + regressed.balance) / 2,
            use=compared.use + regressed.use,
        )


def dense_reference(experts: Experts, rows: Tensor) -> Tensor:
    """The same mixture with every expert computed for every row: slow and obvious, for tests."""
    values, chosen, _ = experts.route(rows)
    outputs = torch.stack([experts.expert(i, rows) for i in range(experts.config.num_experts)])
    picked = outputs[chosen, torch.arange(len(rows))[:, None]]
    return (values[..., None] * picked).sum(1)
