"""Model folders: ``config.json`` beside ``model.safetensors``, and readers of foreign ones.

Weights are read one tensor at a time (``weights.py``) into a model that was built without memory.
Other formats come in through the entry points ``fourm.model_formats``: each names a function
(folder, its description or None, dtype) -> model, or None if the folder is not its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourm.files.formats import FORMAT
from fourm.files.json_files import parse_mapping
from fourm.files.weights import fill

CONFIG_FILE = "config.json"
ADAPTERS_FILE = "adapter_model.safetensors"  # what peft calls it: a model on top of another
Description = dict[str, Any]
ForeignReader = Callable[[Path, Description | None, torch.dtype | None], nn.Module | None]


def read_description(folder: Path) -> Description | None:
    """The mapping in ``config.json``, or None if there is no such file. Raises UserError if it is
    no JSON mapping.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    return parse_mapping(path.read_bytes(), path)


def write_description(folder: Path, model: Any, modalities: dict[str, Any]) -> None:
    """``config.json`` alone, from plain mappings of the model's config and its modality set."""
    described = {"format": FORMAT, "model": model, **modalities}
    (folder / CONFIG_FILE).write_text(json.dumps(described, indent=1) + "\n")


def foreign_readers() -> Iterator[ForeignReader]:
    """Readers of other formats, in the order of their names."""
    for entry in sorted(entry_points(group="fourm.model_formats"), key=lambda e: e.name):
        yield entry.load()


def load_into(
    model: nn.Module, value: Callable[[str], Tensor], dtype: torch.dtype | None
) -> nn.Module:
    """Give a model that was built without memory its weights, ``value(name)`` each, one at a time.

    Args:
        dtype: of the weights in memory; None = that of the values.
    """
    fill(model, value, dtype)
    first = next(model.parameters())
    return model.to(first.dtype).eval()  # computed buffers too
