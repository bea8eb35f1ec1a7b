"""Reading safetensors files a tensor at a time, so that a model never needs more memory than it
holds.

A folder has one ``model.safetensors`` or shards with an index. A file is mapped anew for each
tensor and let go at once: pages of a mapped file count as memory in use until then. Pickled files
(``.bin``, ``.pt``, ``.pth``) are never opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fourm.errors import UserError

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WEIGHT_SUFFIXES = (".safetensors", *_PICKLED)


@dataclass(frozen=True)
class WeightFiles:
    """Named tensors of a checkpoint: in which file each lies, and its shape."""

    where: Path  # what messages call it
    files: dict[str, Path]  # name -> file
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]  # of the (first) file's header
    stored: dict[str, str] = field(default_factory=dict)  # name -> what the file calls it, if other

    @staticmethod
    def open(path: str | Path) -> WeightFiles:
        """Open a folder or a file.

        Raises UserError that names what is missing, damaged or pickled.
        """
        path = Path(path)
        if path.is_file():
            return WeightFiles._of(path, [path])
        index = path / INDEX_FILE
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{index} is not an index of weight files") from None
            if any(Path(name).name != name for name in names):
                raise UserError(f"{index} names files outside its folder")
            return WeightFiles._of(path, [path / name for name in names])
        if (path / WEIGHTS_FILE).is_file():
            return WeightFiles._of(path / WEIGHTS_FILE, [path / WEIGHTS_FILE])
        pickled = next((f for f in sorted(path.glob("*")) if f.suffix in _PICKLED), None)
        if pickled is not None:
            raise UserError(
                f"{pickled} is a pickled file, which can run code and is never opened; use"
                f" {WEIGHTS_FILE}"
            )
        raise UserError(f"no model in {path}: {WEIGHTS_FILE} is missing")

    @staticmethod
    def _of(where: Path, paths: list[Path]) -> WeightFiles:
        files: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        metadata: dict[str, str] = {}
        for path in paths:
            if path.suffix in _PICKLED:
                raise UserError(
                    f"{path} is a pickled file, which can run code and is never opened; use a"
                    " safetensors file"
                )
            if not path.is_file():
                raise UserError(f"{where}: the file {path.name} is missing")
            with _opened(path) as handle:
                metadata = metadata or dict(handle.metadata() or {})
                for name in handle.keys():  # noqa: SIM118  (not a mapping)
                    files[name] = path
                    shapes[name] = tuple(handle.get_slice(name).get_shape())
        return WeightFiles(where, files, shapes, metadata)

    def renamed(self, prefixes: dict[str, str]) -> WeightFiles:
        """The same tensors where names that begin with an old prefix have the new one."""
        if not any(name.startswith(tuple(prefixes)) for name in self.files):
            return self
        stored = {new_name(name, prefixes): name for name in self.files}
        return WeightFiles(
            self.where,
            {name: self.files[old] for name, old in stored.items()},
            {name: self.shapes[old] for name, old in stored.items()},
            self.metadata,
            stored,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def read(self, name: str) -> Tensor:
        """One tensor, copied out of its file."""
        with _opened(self.files[name]) as handle:
            return handle.get_tensor(self.stored.get(name, name)).clone()

    def need(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless a tensor is there with this shape."""
        if name not in self.files:
            raise UserError(
                f"{self.where} lacks the weight {name!r}: it belongs to another model or modality"
                " set"
            )
        if self.shapes[name] != shape:
            raise UserError(
                f"{self.where}: {name!r} has shape {list(self.shapes[name])}, this model needs"
                f" {list(shape)}:"
                " it belongs to another model or modality set"
            )

    def refuse_others(self, known: set[str]) -> None:
        """Raise ValueError for the first tensor that no one asked for."""
        extra = sorted(set(self.files) - known)
        if extra:
            raise UserError(
                f"{self.where} holds the unknown weight {extra[0]!r}: it belongs to another model"
                " or modality set"
            )


@contextmanager
def _opened(path: Path):
    try:
        with safe_open(path, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None


def new_name(name: str, prefixes: dict[str, str]) -> str:
    """A tensor's name with the new one of the prefixes it begins with."""
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a module of the same structure, naming the first tensor that does not
    fit.
    """
    files = WeightFiles.open(path).renamed(getattr(model, "renamed_weights", {}))
    expected = model.state_dict()
    for name, tensor in expected.items():
        files.need(name, tuple(tensor.shape))
    files.refuse_others(set(expected))
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(files.read(name))


@torch.no_grad()
def fill(
    model: nn.Module, value: Callable[[str], Tensor], dtype: torch.dtype | None = None
) -> None:
    """Set every stored tensor of a module to ``value(name)``, one by one.

    Parameters on the ``meta`` device become the value itself, as ``dtype`` (or the value's own);
    others are written into.
    """
    for prefix, module in model.named_modules():
        for local, old in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            if local in module._non_persistent_buffers_set:
                continue
            new = value(f"{prefix}.{local}" if prefix else local)
            if not old.is_meta:
                old.copy_(new)
                continue
            new = new.to(dtype or new.dtype)
            setattr(
                module,
                local,
                nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new,
            )
