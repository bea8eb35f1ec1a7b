"""The gradient of a whole model after a backward pass: how long it is, how it is clipped, and what
becomes of it after the update.

Clipping multiplies nothing: the optimizers divide by ``grad_scale``, as torch's fused ones do for
scaled losses, while they read the gradient in any case. A table that was only looked up keeps its
gradient (``fourm.model.lookups``), but among ranks, which add up rows that no single one has looked
up.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourm.model.embedding import TokenTable
from fourm.model.lookups import LookUps
from fourm.training.sharding import gather_full, is_sharded, local


class Gradients:
    """Those of a model's parameters, from the backward pass to the update."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._look_ups = look_ups_of(model)
        if not among_others():
            for table, look_ups in self._look_ups.items():
                # on a GPU sums over rows that repeat would have no fixed order
                if table.requires_grad and table.is_cpu and not is_sharded(table):
                    look_ups.keep(table)

    def norm(self) -> Tensor:
        """Of all of them, whatever rank they lie on: a scalar (all ranks must call)."""
        return gather_full(nn.utils.get_total_norm(self._found()))

    def clip(self, norm: Tensor, limit: float) -> Tensor | None:
        """What optimizers must divide gradients of this norm by for one of at most ``limit``; None
        for nothing. Sharded ones are divided here.
        """
        if not limit:
            return None
        excess = ((norm + 1e-6) / limit).clamp_min(1.0)
        found = self._found()
        if not any(is_sharded(gradient) for gradient in found):
            return excess
        torch._foreach_div_([local(gradient) for gradient in found], excess)  # pyright: ignore[reportPrivateImportUsage]
        return None

    def _found(self) -> list[Tensor]:
        return [p.grad for p in self._model.parameters() if p.grad is not None]

    def forget(self) -> None:
        """After the update: gone, or zero."""
        for parameter in self._model.parameters():
            look_ups = self._look_ups.get(parameter)
            if look_ups is None:
                parameter.grad = None
            else:
                look_ups.forget(parameter)


def look_ups_of(model: nn.Module) -> dict[nn.Parameter, LookUps]:
    """The tables of a model that are only looked up, and by what."""
    tables = [module for module in model.modules() if isinstance(module, TokenTable)]
    return {module.table: module.look_ups for module in tables if module.look_ups is not None}


def among_others() -> bool:
    """Is this one of several ranks?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
