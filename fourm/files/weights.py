"""Reading safetensors files a tensor at a time, so that a model never needs more memory than it
holds.

A folder has one ``model.safetensors``, shards with an index, or the parts of a sharded checkpoint
(``model-00001-of-00004.safetensors``): each part holds rows of the tensors and says in its header
which, so that any rows can be read by whoever needs them. A file is mapped anew for each tensor and
let go at once: pages of a mapped file count as memory in use until then. Pickled files (``.bin``,
``.pt``, ``.pth``) are never opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.files.json_files import parse_mapping

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MOST_LETTERS = 200  # of a file's name; systems refuse more than 255 bytes
WEIGHT_SUFFIXES = (".safetensors", *_PICKLED)
ROWS = "rows"  # in a part's header: {name: [first row, rows of the whole tensor]} as JSON


def part_name(file: str, index: int, num: int) -> str:
    """The name of one of ``num`` parts of a file, or of the file itself if it is in one."""
    stem, suffix = os.path.splitext(file)
    return file if num == 1 else f"{stem}-{index + 1:05d}-of-{num:05d}{suffix}"


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a tensor, and the file that holds them."""

    file: Path
    start: int
    stop: int


@dataclass(frozen=True)
class WeightFiles:
    """Named tensors of a checkpoint: in which file each lies, and its shape."""

    where: Path  # what messages call it
    files: dict[str, Path]  # name -> file
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]  # of the (first) file's header
    stored: dict[str, str] = field(default_factory=dict)  # name -> what the file calls it, if other
    pieces: dict[str, list[Piece]] = field(default_factory=dict)  # of tensors in several files

    @staticmethod
    def open(path: str | Path, file: str = WEIGHTS_FILE) -> WeightFiles:
        """Open a folder or a file.

        Args:
            file: what holds the tensors if ``path`` is a folder, in one piece or in parts.

        Raises UserError that names what is missing, damaged or pickled.
        """
        path = Path(path)
        if path.is_file():
            return WeightFiles._of(path, [path])
        stem, suffix = os.path.splitext(file)
        parts = sorted(path.glob(f"{stem}-?????-of-?????{suffix}"))
        if parts and not (path / file).is_file() and not (path / INDEX_FILE).is_file():
            return WeightFiles._of_parts(path, file, parts)
        index = path / INDEX_FILE
        if index.is_file():
            names = _named(index)
            if any(Path(name).name != name for name in names):
                raise UserError(f"{index} names files outside its folder")
            return WeightFiles._of(path, [path / name for name in names])
        if (path / file).is_file():
            return WeightFiles._of(path / file, [path / file])
        pickled = next((f for f in sorted(path.glob("*")) if f.suffix in _PICKLED), None)
        if pickled is not None:
            raise UserError(
                f"{pickled} is a pickled file, which can run code and is never opened; use {file}"
            )
        raise UserError(f"no model in {path}: {file} is missing")

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

    @staticmethod
    def _of_parts(path: Path, file: str, parts: list[Path]) -> WeightFiles:
        num = int(parts[0].stem.rpartition("-")[2])
        for i in range(num):
            if not (path / part_name(file, i, num)).is_file():
                raise UserError(f"{path} is damaged: {part_name(file, i, num)} is missing")
        files: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        pieces: dict[str, list[Piece]] = {}
        for part in parts:
            with _opened(part) as handle:
                rows = _rows_of(part, handle.metadata())
                for name in handle.keys():  # noqa: SIM118  (not a mapping)
                    shape = tuple(handle.get_slice(name).get_shape())
                    if name in rows:
                        start, total = rows[name]
                        pieces.setdefault(name, []).append(Piece(part, start, start + shape[0]))
                        shape = (total, *shape[1:])
                    files.setdefault(name, part)
                    shapes[name] = shape
        for name, held in pieces.items():
            if sum(piece.stop - piece.start for piece in held) != shapes[name][0]:
                raise UserError(f"{path} is damaged: rows of {name!r} are missing")
        return WeightFiles(path, files, shapes, {}, pieces=pieces)

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
            {name: self.pieces[old] for name, old in stored.items() if old in self.pieces},
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def read(self, name: str) -> Tensor:
        """One tensor, copied out of its file or put together from its parts."""
        if name in self.pieces:
            return self.read_rows(name, 0, self.shapes[name][0])
        with _opened(self.files[name]) as handle:
            return handle.get_tensor(self.stored.get(name, name)).clone()

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a tensor, and no others."""
        whole = Piece(self.files[name], 0, self.shapes[name][0])
        found = []
        for piece in sorted(self.pieces.get(name, [whole]), key=lambda piece: piece.start):
            first, last = max(start, piece.start), min(stop, piece.stop)
            if first < last or (start == stop and not found):
                with _opened(piece.file) as handle:
                    rows = handle.get_slice(self.stored.get(name, name))
                    found.append(rows[max(first - piece.start, 0) : max(last - piece.start, 0)])
        return found[0].clone() if len(found) == 1 else torch.cat(found)

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

    def need_all(self, expected: Mapping[str, Tensor]) -> None:
        """Raise UserError unless these tensors are there with their shapes, and no others."""
        for name, tensor in expected.items():
            self.need(name, tuple(tensor.shape))
        self.refuse_others(set(expected))

    def refuse_others(self, known: set[str]) -> None:
        """Raise ValueError for the first tensor that no one asked for."""
        extra = sorted(set(self.files) - known)
        if extra:
            raise UserError(
                f"{self.where} holds the unknown weight {extra[0]!r}: it belongs to another model"
                " or modality set"
            )


def _rows_of(part: Path, metadata: dict[str, str] | None) -> dict[str, list[int]]:
    """What a part's header says about the rows it holds."""
    try:
        rows = parse_mapping((metadata or {})[ROWS], part)
        return {name: [int(start), int(total)] for name, (start, total) in rows.items()}
    except (KeyError, ValueError, TypeError, OverflowError):
        raise UserError(
            f"{part} is one of several parts and says not which: {INDEX_FILE} is missing"
        ) from None


def _named(index: Path) -> list[str]:
    """The files that an index of weights names."""
    table = parse_mapping(index.read_bytes(), index).get("weight_map")
    names = list(table.values()) if isinstance(table, dict) else []
    if not names or not all(isinstance(n, str) and len(n) <= _MOST_LETTERS for n in names):
        raise UserError(f"{index} is not an index of weight files")
    return sorted(set(names))


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
    files.need_all(expected)
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
