"""``compile: true``: each block is compiled for itself, whatever it is part of.

Blocks are where the time goes and all of one kind are one graph, for any number of rows
(``dynamic``). A whole network is not: its losses and embeddings follow from what a batch holds, and
a graph for each batch would be made. On a GPU a block is one full graph; on a CPU ragged attention
stays outside (``fourm.model.attention.blockwise``).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sysconfig
from pathlib import Path

import torch
import torch.fx.experimental._config
from torch import nn

from fourm.model.blocks import Block

_MAX_GRAPHS = 64  # kinds of layouts (with and without padding, masks, causal rows) of one block
_log = logging.getLogger(__name__)


def compile_blocks(model: nn.Module, device: torch.device) -> None:
    """Compile the forward of every block in place; a sentence and nothing else where there is no
    compiler.

    Activation checkpointing goes around what is compiled: it comes after this.
    """
    missing = missing_for_compiling(device)
    if missing:
        _log.warning("compile: %s is missing, so nothing is compiled", missing)
        return
    torch._dynamo.config.recompile_limit = _MAX_GRAPHS
    # input and target rows that are as many in the first batch need not be in the next
    torch.fx.experimental._config.use_duck_shape = False
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = torch.compile(  # type: ignore[method-assign]
                module.forward, fullgraph=device.type != "cpu", dynamic=True
            )


def missing_for_compiling(device: torch.device) -> str:
    """What compiling for a device needs and this machine lacks; empty for nothing."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        return f"a C++ compiler ({compiler})"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "the headers of Python (python3-dev)"
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        return "triton"
    return ""
