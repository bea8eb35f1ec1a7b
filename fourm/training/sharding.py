"""A model whose weights, gradients and optimizer state are shared out over the ranks (FSDP2).

Each rank keeps rows of every parameter (ZeRO-3, 1910.02054; ``torch``'s ``fully_shard``): blocks
are gathered one by one as a pass reaches them, tables and norms with the whole model. ``all``
shards over all ranks; ``node`` over those of one machine, with a copy on each machine (HSDP,
2304.11277), which keeps the gathering off the network between machines.

Whoever starts with ``accelerate launch --use_fsdp`` has ``all``. Accelerate's own way of wrapping a
model is not used: it matches optimizers to sharded parameters by addresses that empty shards do not
have, and asks every rank for a whole model. Here a model is made by the first rank alone; the
others have it without memory, and each tensor is handed out as it is sharded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.model.blocks import Block

Sharding = Literal["none", "all", "node"]
_TRUE = ("1", "true", "yes")


def chosen_sharding(wanted: Sharding) -> Sharding:
    """What a config asks for, or Accelerate's launcher where the config does not; ``none`` for a
    process that is alone.

    Raises UserError for settings of the launcher that would not be followed.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() not in _TRUE:
        return wanted if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    for name, instead in (
        ("FSDP_OFFLOAD_PARAMS", "shard over more ranks"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "set loop.activation_checkpointing=true"),
    ):
        if os.environ.get(name, "").lower() in _TRUE:
            raise UserError(f"Accelerate's {name.lower()} is not followed here: {instead}")
    return "all" if wanted == "none" else wanted


def made_once(wanted: Sharding) -> AbstractContextManager[Any]:
    """Models made in here take memory on the first rank alone, if they are to be sharded."""
    if chosen_sharding(wanted) == "none" or int(os.environ.get("RANK", "0")) == 0:
        return nullcontext()
    return init_empty_weights(include_buffers=False)


def shard_model(
    model: nn.Module, sharding: Sharding, device: torch.device, precision: str
) -> nn.Module:
    """Shard a model in place, with the first rank's weights (all ranks must call).

    Under bf16 blocks of a GPU are gathered in that, half the bytes, and their gradients summed in
    float32. (Norms of a CPU take no mixture of types.)
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import distribute_tensor

    figures = running_figures(model)
    if figures:
        raise UserError(f"a model that keeps running figures ({min(figures)}) cannot be sharded")
    weights = {name: p.detach() for name, p in model.named_parameters()}
    _without_memory(model)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    mesh = _mesh(sharding, device)
    half = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    in_half = precision == "bf16" and device.type != "cpu"
    policy = half if in_half else MixedPrecisionPolicy()
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    placed = {}
    for name, parameter in model.named_parameters():
        whole = weights.pop(name)
        if whole.is_meta:
            whole = torch.empty(whole.shape, dtype=whole.dtype, device=device)
        placed[name] = distribute_tensor(whole.to(device), mesh, parameter.placements)  # type: ignore[attr-defined]
    model.load_state_dict(placed, assign=True)
    return model


def running_figures(model: nn.Module) -> set[str]:
    """Names of the buffers that training changes: those that are stored."""
    return {name for name, _ in model.named_buffers()} & set(model.state_dict())


def _without_memory(model: nn.Module) -> None:
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(p.detach().to("meta"), p.requires_grad)


def _mesh(sharding: Sharding, device: torch.device) -> Any:
    """Of all ranks, or (machines, ranks of a machine)."""
    from torch.distributed.device_mesh import init_device_mesh

    num, here = dist.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if sharding == "all":
        return init_device_mesh(device.type, (num,))
    if here < 1 or num % here:
        raise UserError(
            f"loop.sharding=node needs as many ranks on each machine: LOCAL_WORLD_SIZE is {here} of"
            f" {num} ranks; start them with torchrun or accelerate launch"
        )
    return init_device_mesh(device.type, (num // here, here), mesh_dim_names=("copies", "shards"))


def reshard(model: nn.Module) -> None:
    """Let go of weights that a forward pass has left gathered: what is written into shards would
    not reach them.
    """
    for module in _sharded_modules(model):
        module.reshard()


def _sharded_modules(model: nn.Module) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))


# ---- rows of a tensor ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Which rows of a tensor a rank holds."""

    start: int
    stop: int
    total: int


def is_sharded(tensor: Tensor) -> bool:
    """True if this rank has a part of it only."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor, in the same memory; any other as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[operator]


def rows_of(tensor: Tensor) -> Rows | None:
    """This rank's rows of a sharded tensor; None for one that it has as a whole."""
    if not is_sharded(tensor):
        return None
    mesh, total = tensor.device_mesh, tensor.shape[0]  # type: ignore[attr-defined]
    sizes = [num_rows(total, mesh.size(-1), i) for i in range(mesh.size(-1))]
    shard = mesh.get_coordinate()[-1]
    start = sum(sizes[:shard])
    assert local(tensor).shape[0] == sizes[shard]
    return Rows(start, start + sizes[shard], total)


def num_rows(total: int, num: int, index: int) -> int:
    """How many of ``total`` rows are the shard ``index`` of ``num``: as ``torch.chunk`` cuts."""
    size = -(-total // num)
    return max(0, min(total, (index + 1) * size) - index * size)


def like(rows: Tensor, tensor: Tensor) -> Tensor:
    """This rank's rows as a tensor that is sharded like ``tensor``; whole ones as they are."""
    if not is_sharded(tensor):
        return rows
    from torch.distributed.tensor import DTensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return DTensor.from_local(
        rows.to(local(tensor).device), mesh, placements, shape=tensor.shape, stride=tensor.stride()
    )


def gather_full(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered (all ranks must call); any other as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[operator]
