"""A network that this machine cannot hold is refused before its first weight takes memory.

A config is a few letters of text, the weights it asks for can be terabytes: the allocator would
fail somewhere in the middle, or the machine's other programs would. Built on torch's ``meta``
device the same network has shapes and no data, which takes milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn

from fourm.errors import UserError

_GIB = 2**30


def machine_bytes() -> int:
    """Memory of the whole machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_beyond_memory(make: Callable[[], nn.Module], where: str) -> None:
    """Raise UserError, which begins with ``where``, if the network that ``make`` builds is larger
    than this machine's memory.
    """
    with torch.device("meta"):
        network = make()
    tensors = [*network.parameters(), *network.buffers()]
    needed, held = sum(tensor.nbytes for tensor in tensors), machine_bytes()
    if needed > held:
        num = sum(tensor.numel() for tensor in tensors)
        raise UserError(
            f"{where}: a network of {num:,} numbers takes {needed / _GIB:,.0f} GiB, this machine"
            f" has {held / _GIB:,.0f}: make it narrower (dim), less deep, or its vocabularies"
            " smaller"
        )
