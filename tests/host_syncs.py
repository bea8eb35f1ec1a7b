"""Where a program would make the host wait for a CUDA device, counted on a machine that has none.

    with HostSyncs() as syncs:
        loss = model(batch).sum()
        loss.backward()
    assert not syncs.found, syncs

A CUDA kernel is queued and the host goes on, until it asks for a value: ``float(loss)``, the number
of elements that a boolean index keeps, a copy from memory that is not pinned. Two modes of torch
watch for those here: one sees calls of Python (``tolist``, ``torch.tensor(..., device=...)``), the
other the operators that they and the backward pass are made of. All tensors count as the device's
but those made of numpy arrays or lists without a ``device``, or with ``pin_memory``: reading these
costs nothing, and moving them does unless the copy is said to be ``non_blocking`` (whether their
memory is pinned is not seen). ``torch.cuda.set_sync_debug_mode`` is what this emulates, and decides
where there is a GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_ROOT = Path(__file__).parents[1]
_READS = {"tolist", "numpy", "cpu", "__array__"}
_ITEM = "aten::_local_scalar_dense"  # what item(), bool(), float() and slicing by a tensor are
_ALWAYS = {  # operators whose result's size, or whose verdict, the host must know
    _ITEM,
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::unique_dim_consecutive",
    "aten::bincount",
    "aten::linalg_inv_ex",
    "aten::linalg_eigh",
    "aten::_linalg_svd",
}


@dataclass(frozen=True)
class Sync:
    """One wait: the operation and the nearest line of this project that asked for it."""

    operation: str
    where: str


@dataclass
class HostSyncs:
    """A context that notes each wait of the host within it; ``str()`` is a table of them."""

    found: list[Sync] = field(default_factory=list)
    _host: dict[int, Tensor] = field(default_factory=dict, repr=False)  # by storage; kept alive
    _paused: bool = False

    def __enter__(self) -> HostSyncs:
        self._modes = (_Operators(self), _Calls(self))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._host.clear()

    def __str__(self) -> str:
        counted = Counter(self.found).most_common()
        return "\n".join(f"{n:4} {sync.operation} at {sync.where}" for sync, n in counted)

    def note(self, operation: str) -> None:
        """Count a wait at the line that is running."""
        if not self._paused:
            self.found.append(Sync(operation, _line(sys._getframe())))

    def on_host(self, tensor: Any) -> bool:
        """Whether a tensor was made on the host and never moved."""
        return isinstance(tensor, Tensor) and _storage(tensor) in self._host

    def keep_on_host(self, tensor: Tensor) -> None:
        """Let reads of a tensor be free."""
        self._host[_storage(tensor)] = tensor

    def moved(self, tensor: Tensor) -> None:
        """A tensor of the host is the device's from here on: on a CPU the copy is the original."""
        self._host.pop(_storage(tensor), None)

    def without(self, call: Callable[[], Any]) -> Any:
        """A call whose waits are the CPU's own, not CUDA's."""
        was, self._paused = self._paused, True
        try:
            return call()
        finally:
            self._paused = was


class _Calls(TorchFunctionMode):
    """Calls from Python, before they become operators."""

    def __init__(self, syncs: HostSyncs) -> None:
        super().__init__()
        self._syncs = syncs

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        syncs, first = self._syncs, args[0] if args else None
        if name in ("tensor", "as_tensor", "new_tensor") and not isinstance(first, np.ndarray):
            return self._made(name, func, args, kwargs)
        if name == "one_hot" and (len(args) > 1 or "num_classes" in kwargs):
            return syncs.without(lambda: func(*args, **kwargs))  # checked on CPUs alone
        if name in ("__getitem__", "__setitem__") and isinstance(first, Tensor):
            self._indexed(*args[1:2])
        elif name in _READS and not syncs.on_host(first):
            syncs.note(f"Tensor.{name}")
        elif name in ("to", "cuda", "copy_"):
            self._copied(name, args, kwargs)
        elif "pin_memory" in kwargs:  # of a factory: memory of the host
            made = func(*args, **kwargs)
            syncs.keep_on_host(made)
            return made
        elif name == "repeat_interleave" and _has_unknown_size(args, kwargs):
            syncs.note("repeat_interleave without output_size")
        return func(*args, **kwargs)

    def _made(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        is_data = len(args) > (name == "new_tensor") and not isinstance(args[-1], Tensor)
        made = func(*args, **kwargs)
        if is_data and (kwargs.get("device") is not None or name == "new_tensor"):
            self._syncs.note(f"{name} of a list, on the device")
            self._syncs.moved(made)
        return made

    def _indexed(self, index: Any) -> None:
        for part in index if isinstance(index, tuple) else (index,):
            by_list = isinstance(part, list | np.ndarray)
            if by_list or (self._syncs.on_host(part) and part.ndim):
                self._syncs.note("index that is not on the device")

    def _copied(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        source = args[1] if name == "copy_" else args[0]
        onto = args[0] if name == "copy_" else None
        is_move = name != "to" or "device" in kwargs or any(map(_names_a_device, args[1:]))
        if not is_move or not isinstance(source, Tensor):
            return
        waits = not (kwargs.get("non_blocking") or any(a is True for a in args[1:]))
        if self._syncs.on_host(source) and not self._syncs.on_host(onto):
            if waits:
                self._syncs.note(f"Tensor.{name} from the host, without non_blocking")
            self._syncs.moved(source)
        elif self._syncs.on_host(onto) and waits:
            self._syncs.note("Tensor.copy_ to the host, without non_blocking")


class _Operators(TorchDispatchMode):
    """Operators, those of the backward pass too."""

    def __init__(self, syncs: HostSyncs) -> None:
        super().__init__()
        self._syncs = syncs

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name
        if name in _ALWAYS and not self._syncs.on_host(args[0]):
            self._syncs.note(name)
        elif name in ("aten::index", "aten::index_put", "aten::index_put_"):
            by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
            # x[mask] = number fills in place, and asks for no size
            if by_mask and not (len(args) > 2 and args[2].ndim == 0):
                self._syncs.note(f"{name} by a mask")
        result = func(*args, **(kwargs or {}))
        if name == "aten::lift_fresh":  # what a list or a numpy array has become
            self._syncs.keep_on_host(result)
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _has_unknown_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a ``repeat_interleave`` must sum its repeats to know how much to allocate."""
    by_tensor = any(isinstance(a, Tensor) for a in (*args[1:], kwargs.get("repeats")))
    return by_tensor and "output_size" not in kwargs


def _names_a_device(argument: Any) -> bool:
    return isinstance(argument, torch.device | str)


def _line(frame: FrameType | None) -> str:
    """The innermost line of the project that is not in this file."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        is_ours = path.is_relative_to(_ROOT) and "site-packages" not in path.parts
        if is_ours and path != Path(__file__):
            return f"{path.relative_to(_ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "the backward pass"
