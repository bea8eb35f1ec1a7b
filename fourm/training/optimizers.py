"""Optimizers: AdamW for everything, or Muon for the blocks' matrices with AdamW for the rest.

Muon (Jordan et al., 2024) takes the momentum of a matrix, makes it orthogonal with a few
Newton-Schulz steps and applies that. It needs fewer steps than AdamW to the same loss; the price is
a few small matrix products. ``torch.optim.Muon`` runs them one matrix at a time; here all matrices
of a shape are one batched product (float32 on a CPU, bfloat16 on a GPU), and ranks share the work.
Fused weights (query, key, value in one matrix) are orthogonalised piece by piece: they are separate
maps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourm.config import ADDED, at_least
from fourm.errors import UserError
from fourm.model.roles import Role, parameter_roles
from fourm.training.gradients import look_ups_of
from fourm.training.layer_decay import rate_shares
from fourm.training.muon_shares import orthogonalize_shares
from fourm.training.row_adamw import RowAdamW
from fourm.training.sharding import is_sharded, local

# Polar Express (2505.16932): (a, b, c) of the quintic a s + b s^3 + c s^5 that brings the singular
# values s which the one before has left nearest to 1, from [SMALLEST, 1] on. Four of them are on
# the mean as near to an orthogonal matrix as five of Muon's first one (tests/test_muon.py).
POLYNOMIALS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)
SMALLEST = 0.003
# above the range the polynomials soar: bfloat16 rounds less than this beyond what is expected
_MARGIN = 1.01
_STEPS = (
    *((a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5) for a, b, c in POLYNOMIALS[:-1]),
    POLYNOMIALS[-1],
)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, or Muon for the blocks' matrices with AdamW for the rest; their peak rates."""

    name: str = "adamw"  # adamw | muon
    lr: float = 1e-3  # AdamW's peak learning rate
    muon_lr: float = 0.02  # Muon's peak learning rate
    weight_decay: float = 0.05
    decay_tables: bool = False  # embeddings, heads and queries too, as 4M does
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    clip: float = 1.0  # largest norm of the gradient; 0 = off
    # rows of tables that are only looked up, at a step: all of them, or those of the batch
    # (``row_adamw.py``)
    tables: Literal["dense", "rows"] = "dense"
    # > 0: the rates are meant for this batch size and grow in proportion with the actual one
    per_samples: int = 0
    # share of its next layer's rates that a layer learns at (``layer_decay.py``); 1 = all alike
    layer_decay: float = field(default=1.0, metadata=ADDED)

    def __post_init__(self) -> None:
        at_least(
            self, 0, "lr", "muon_lr", "weight_decay", "betas", "momentum", "clip", "per_samples"
        )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")
        if self.name not in ("adamw", "muon"):
            raise UserError(f"optimizer {self.name!r} is not one of adamw, muon")
        if self.decay_tables and self.tables == "rows":
            raise UserError(
                "optimizer.tables=rows decays no table: set decay_tables=false or dense"
            )


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximately U V^T of each matrix's singular value decomposition: (n, R, C) -> (n, R, C)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-30)
    if x.is_cuda:
        x = x.bfloat16()
    gram = x @ x.mT
    # the root of the product's norm bounds the largest singular value as the matrix's own norm
    # does, only closer: what is small begins twice as large, which saves a step
    shrink = gram.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7).rsqrt()
    x, gram = x * shrink, gram * shrink.square()
    for i, (a, b, c) in enumerate(_STEPS):
        if i:
            gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def _orthogonalize_shared(matrices: list[Tensor]) -> Tensor:
    """All matrices (same shape) orthogonalised, each by one rank: the work is shared, the results
    are gathered. -> (n, R, C)
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world == 1:
        return orthogonalize(torch.stack(matrices))
    each = -(-len(matrices) // world)
    mine = matrices[dist.get_rank() * each : (dist.get_rank() + 1) * each]
    part = torch.zeros(each, *matrices[0].shape, dtype=matrices[0].dtype, device=matrices[0].device)
    if mine:
        part[: len(mine)] = orthogonalize(torch.stack(mine))
    parts = [torch.empty_like(part) for _ in range(world)]
    dist.all_gather(parts, part)
    return torch.cat(parts)[: len(matrices)]


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised; for 2-D weights of hidden layers. ``pieces[p]`` says in how many row
    blocks a weight falls.
    """

    found_inf: Tensor | None = None  # scalar; where it is 1, a step changes nothing
    grad_scale: Tensor | None = None  # scalar that gradients are divided by

    def __init__(
        self,
        params: list[nn.Parameter],
        pieces: dict[nn.Parameter, int],
        lr: float,
        momentum: float,
        weight_decay: float,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._pieces = pieces

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all matrices that have a gradient, those of one shape together."""
        for group in self.param_groups:
            # a number, or a scalar on the device that the host does not know
            rate = group["lr"] if self.found_inf is None else group["lr"] * (1 - self.found_inf)
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            shared: dict[tuple[torch.Size, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                pieces = self._pieces[p]
                update = self._direction(p, group["momentum"])
                if is_sharded(p):
                    shared[(p.shape, pieces)].append((p, update))
                    continue
                for weight, piece in zip(p.chunk(pieces), update.chunk(pieces), strict=True):
                    by_shape[(weight.shape[0], weight.shape[1])].append((weight, piece))
            for (rows, columns), pairs in by_shape.items():
                updates = _orthogonalize_shared([piece for _, piece in pairs])
                updates *= rate * max(1.0, rows / columns) ** 0.5
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.mul_(1 - rate * group["weight_decay"]).sub_(update)
            for ((rows, columns), pieces), pairs in shared.items():
                mesh = pairs[0][0].device_mesh  # type: ignore[attr-defined]
                updates = orthogonalize_shares(
                    [update for _, update in pairs],
                    rows,
                    pieces,
                    mesh.get_group(mesh.ndim - 1),
                    orthogonalize,
                )
                scale = rate * max(1.0, rows / pieces / columns) ** 0.5
                for (p, _), update in zip(pairs, updates, strict=True):
                    local(p).mul_(1 - rate * group["weight_decay"]).sub_(update * scale)

    def _direction(self, p: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's: the gradient, moved towards its own moving average (this rank's rows)."""
        state = self.state[p]
        assert p.grad is not None
        if not state:
            state["momentum"] = torch.zeros_like(p)
        gradient, average = local(p.grad), local(state["momentum"])
        if self.grad_scale is not None:
            gradient = gradient / self.grad_scale
        if self.found_inf is not None:  # an average that meets itself stays what it is
            gradient = torch.where(self.found_inf > 0, average, gradient)
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that one optimizer treats alike, in the order of the model's."""

    optimizer: Literal["adamw", "muon", "rows"]
    weight_decay: float
    rate: float  # share of the optimizer's learning rate
    names: list[str]
    params: list[nn.Parameter]
    roles: list[Role]

    def __str__(self) -> str:
        count = sum(p.numel() for p in self.params)
        kinds = ", ".join(dict.fromkeys(role.name for role in self.roles))
        rate = "" if self.rate == 1 else f", {self.rate:.2g} of the rate"
        return f"{self.optimizer}, decay {self.weight_decay:g}{rate}: {count:,} numbers ({kinds})"


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[ParameterGroup]:
    """The trained parameters of a model by what the optimizers do with them
    (``fourm.model.roles``).
    """
    roles, rates = parameter_roles(model), rate_shares(model, config.layer_decay)
    kinds: list[tuple[Literal["adamw", "muon", "rows"], float]] = [
        ("adamw", config.weight_decay),
        ("adamw", 0.0),
        ("muon", config.weight_decay),
        ("rows", 0.0),
    ]
    groups = {
        (number, rate): ParameterGroup(*kind, rate, [], [], [])
        for number, kind in enumerate(kinds)
        for rate in sorted(set(rates.values()))
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        role = roles[name]
        for_muon = config.name == "muon" and role.hidden
        by_rows = config.tables == "rows" and role.looked_up
        decayed = role.decayed or (role.is_table and config.decay_tables)
        number = 2 if for_muon else 3 if by_rows else 0 if decayed else 1
        group = groups[number, rates[name]]
        group.names.append(name)
        group.params.append(parameter)
        group.roles.append(role)
    return [group for group in groups.values() if group.params]


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's parameters: AdamW, with Muon and ``RowAdamW`` where they are
    chosen and have work.
    """
    groups = parameter_groups(model, config)
    of_adamw = [
        {
            "params": group.params,
            "weight_decay": group.weight_decay,
            "lr": config.lr * group.rate,
        }
        for group in groups
        if group.optimizer == "adamw"
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if of_adamw:
        # one kernel for all parameters: without it, a third of a small step on a CPU
        options = {"lr": config.lr, "betas": config.betas, "fused": True}
        optimizers.append(torch.optim.AdamW(of_adamw, **options))
    for group in groups:
        if group.optimizer == "muon":
            pieces = {p: role.pieces for p, role in zip(group.params, group.roles, strict=True)}
            decay, rate = group.weight_decay, config.muon_lr * group.rate
            optimizers.append(Muon(group.params, pieces, rate, config.momentum, decay))
        if group.optimizer == "rows":
            look_ups = look_ups_of(model)
            tables = {p: look_ups[p] for p in group.params}
            optimizers.append(RowAdamW(tables, config.lr * group.rate, config.betas))
    return optimizers
