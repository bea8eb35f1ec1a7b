"""YAML files as plain trees: what is given twice is an error, and a mapping may name its base.

``base: other.yaml``, a path beside the file that names it, stands for the tree of that file: the
keys given next to it are laid over it, mappings key by key, everything else (lists too) in place of
what was there. It may stand in any mapping, so presets that differ in size are a few lines each,
and a mixture of masks that several of them use is one file. Paths that mean data or models are as
ever relative to where a command is typed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fourm.errors import UserError
from fourm.resources import configs_folder

BASE = "base"
_MOST_VALUES = 1_000_000  # of a text, aliases written out


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error: one of the two would be lost."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = (key.tag, key.value)
                if name in first:
                    raise yaml.MarkedYAMLError(
                        problem=f"key {key.value!r} is given twice, first in line {first[name]}",
                        problem_mark=key.start_mark,
                    )
                first[name] = key.start_mark.line + 1
        return node


def parse(text: str, where: str) -> Any:
    """The value of a YAML text. Raises UserError that says ``where`` and in which line."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark is not None and "\n" in text else ""
        context = f" ({error.context})" if error.context else ""
        raise UserError(f"{where}{line}: {error.problem}{context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{where} is not valid YAML: it is nested too deeply") from None
    # a date that is none, such as 2024-13-45; what stands behind a tag and is not of its kind
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{where} is not valid YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _count(node: Any, known: dict[int, int]) -> int:
    """Values that a part of a text stands for, those behind aliases each time: references to
    references may mean more of them than any memory holds. Raises ValueError for too many.
    """
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES  # a part that holds itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = (one for part in parts for one in (part if isinstance(part, tuple) else (part,)))
        num = 1 + sum(_count(one, known) for one in inner)
        if num > _MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {_MOST_VALUES:,} values")
        known[id(node)] = num
    return known[id(node)]


@dataclass(frozen=True)
class Tree:
    """The mapping that a file means, and the files that it was made of."""

    data: dict[str, Any]
    path: Path
    bases: tuple[Path, ...] = ()

    @property
    def where(self) -> str:
        """What errors about the tree begin with: the file, and its bases if it has any."""
        if not self.bases:
            return str(self.path)
        names = (os.path.relpath(base, self.path.parent) for base in self.bases)
        return f"{self.path} (base {', '.join(names)})"


def read_tree(path: str | Path) -> Tree:
    """A YAML file with a mapping at its top, laid over the bases that it names.

    Raises UserError where a file is missing or holds no mapping; about a base it names both files.
    """
    return _Reader().read(Path(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping of ``read_tree`` alone."""
    return read_tree(path).data


def overlay(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``under`` with what ``over`` names in place of its own; mappings in both are laid over each
    other, unless they say that they are of different kinds (``type``).
    """
    result = dict(under)
    for key, value in over.items():
        before = under.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            kind = before.get("type")
            value = overlay(before, value) if value.get("type", kind) == kind else value
        result[key] = value
    return result


@dataclass
class _Reader:
    """Reads a file and what it is based on; remembers the way, to refuse a circle."""

    above: tuple[Path, ...] = ()
    bases: list[Path] = field(default_factory=list)

    def read(self, path: Path) -> Tree:
        path = _found(path)
        data = _read_mapping(path)
        self.above = (*self.above, path.resolve())
        return Tree(self._based(data, path), path, tuple(dict.fromkeys(self.bases)))

    def _based(self, value: Any, path: Path) -> Any:
        """A part of the file at ``path``, with every base in it read."""
        if isinstance(value, list):
            return [self._based(item, path) for item in value]
        if not isinstance(value, dict):
            return value
        under = self._base(value[BASE], path) if BASE in value else {}
        own = {key: self._based(item, path) for key, item in value.items() if key != BASE}
        return overlay(under, own)

    def _base(self, name: Any, path: Path) -> dict[str, Any]:
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: base must be the path of a YAML file, not {name!r}")
        base = path.parent / name
        if base.resolve() in self.above:
            raise UserError(f"{path}: its base {base} is based on {path} in turn")
        try:
            found = _Reader(self.above).read(base)
        except UserError as error:
            raise UserError(f"{path}: base {name}: {error}") from None
        self.bases += [base, *found.bases]
        return found.data


def _found(path: Path) -> Path:
    """The file, or the packaged one where ``configs/...`` is named from another folder."""
    if path.exists() or path.is_absolute() or path.parts[:1] != ("configs",):
        return path
    packaged = configs_folder().joinpath(*path.parts[1:])
    return packaged if packaged.is_file() else path


def _read_mapping(path: Path) -> dict[str, Any]:
    """One file as it stands."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; a config is a YAML file")
    if not path.is_file():
        raise UserError(f"no config file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text; a config is a YAML file") from None
    data = parse(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a mapping of keys to values")
    return data
