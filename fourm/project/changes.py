"""By what a project's files, and what was noted of its modalities, are told from those of before.

Files are known by name, size and time of change, so that looking costs no reading; a stage that
begins because of it finds by the content what it has to do. What a model learned from is known by
what its tokens were made from, which a copied project shares with the original.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fourm.data.chunks import Chunk, chunk_folders
from fourm.modalities import Modality
from fourm.project.project import Project

_TOKENIZER_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_MOST_TOLD = 3


def files_of(project: Project, m: Modality) -> dict[str, str]:
    """What the tokens of a modality are made from, as the disk has it: raw shards and
    tokenizer.
    """
    shards = sorted(project.raw.glob(f"*/{m.raw_name}/*.tar"))
    folder = project.tokenizers / m.tokenizer if m.tokenizer is not None else None
    trained = [folder / name for name in _TOKENIZER_FILES] if folder is not None else []
    return {"raw": _stamp(shards), "tokenizer": _stamp(trained)}


def data_of(project: Project, m: Modality, split: str) -> str:
    """What the training data of a modality is made from; empty where there is none."""
    if m.tokenizer is None:
        shards = sorted((project.raw / split / m.raw_name).glob("*.tar"))
        return _digest([path.name, path.stat().st_size] for path in shards)
    chunks = (Chunk.open(f) for f in chunk_folders(project.tokens, split, m.name))
    return _digest(chunk.index.made_by for chunk in chunks)


def _stamp(paths: Iterable[Path]) -> str:
    there = [(path, path.stat()) for path in paths if path.is_file()]
    return _digest([*path.parts[-3:], s.st_size, s.st_mtime_ns] for path, s in there)


def _digest(entries: Iterable[Any]) -> str:
    found = list(entries)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] if found else ""


def changes(was: Any, now: Any) -> str:
    """The settings that differ between two trees of plain values, ``dim 24 (was 16)``."""
    before, after = dict(_leaves(was)), dict(_leaves(now))
    names = [n for n in {**after, **before} if before.get(n) != after.get(n)]
    told = [f"{n} {_shown(after.get(n))} (was {_shown(before.get(n))})" for n in names[:_MOST_TOLD]]
    more = f", and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
    return ", ".join(told) + more


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def _shown(value: Any) -> str:
    return "not set" if value in (None, "") else str(value)
