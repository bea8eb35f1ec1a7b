"""Modalities: declared once in YAML, everything else derived.

A modality is a name and a kind. ``grid`` (image-like tokens), ``set`` (a fixed number of ids
without an order in space) and ``sequence`` (text, boxes, anything spelled in a text tokenizer's
ids) can be inputs and targets; ``continuous`` (pixel patches, feature vectors) is input only. A
``ModalitySet`` lays all vocabularies end to end and all position tables end to end, so that
embedding a token is one look-up whatever its modality. Kinds and the built-in sets follow 4M
(2312.06647) and 4M-21 (2406.09406).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fourm.codec_types import num_patches, sizes_of
from fourm.config import at_least, at_most, choose, from_mapping, read_yaml, to_mapping
from fourm.errors import UserError, nearest
from fourm.raw import Raw

Kind = Literal["grid", "set", "sequence", "continuous"]

# ids every sequence tokenizer begins with (the layout of the released 4M text tokenizer)
PAD_ID, UNKNOWN_ID, START_ID, END_ID, SENTINEL_ID = 0, 1, 2, 3, 4
FIRST_SENTINEL = SENTINEL_ID + 1  # numbering of spans begins with [S_1]

MAX_VOCAB = 2**31  # ids are at most uint32 on disk and int64 in memory
MAX_TOKENS = 2**20  # of a sample: each has a place in a table
# of modalities and tokenizers: folders are called so
_NAME = re.compile(r"[\w@-][\w@.-]*")
# settings that any raw type could carry up to release 0.4, whether it knew them or not
_ANY_TYPES_SETTINGS = ("size", "channels", "range", "rate", "classes", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One modality. Sizes that follow from the tokenizer's settings may be left out in YAML."""

    name: str
    kind: Kind
    raw: Raw
    tokenizer: str | None = None  # name of the codec that makes its ids
    source: str = ""  # name of the raw data it is made from; its own name if empty
    labeller: str = ""  # what makes its raw form out of the picture when data is imported
    # pixels of the picture that the labeller sees; 0 = those of the widest modality
    labeller_size: int = 0
    vocab: str = ""  # sequences that share a vocabulary share its embeddings
    vocab_size: int = 0
    levels: tuple[int, ...] = ()  # FSQ levels; embeddings and heads are factorised over them
    grid: tuple[int, int] | None = None  # rows, columns of tokens
    # grid on whose cells its computed places are measured, for a model that was trained with that
    # one: places of another grid then lie between them; None = its own
    places: tuple[int, int] | None = None
    max_tokens: int = 0  # sequences and sets: most tokens of a sample
    patch_size: int = 0  # continuous pictures: pixels of a patch's side
    width: int = 0  # continuous: numbers in a vector
    chunk_size: int = 1  # sequences: tokens that are kept or hidden together
    input: bool = True
    output: bool = True
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in (self.name, self.raw_name, self.tokenizer or self.name):
            check_name(name)
        at_least(self, 1, "grid", "places", "chunk_size")
        at_least(self, 0, "vocab_size", "max_tokens", "patch_size", "width", "labeller_size")
        at_least(self, 0, "loss_weight")
        if self.vocab_size > MAX_VOCAB:
            raise UserError(
                f"modality {self.name} has {self.vocab_size:,} ids; {MAX_VOCAB:,} are the most"
            )
        if self.kind == "continuous":
            object.__setattr__(self, "output", False)
            side = num_patches(self.raw.pixels, self.patch_size) if self.patch_size else 0
            if side and self.grid is None:
                object.__setattr__(self, "grid", (side, side))
                object.__setattr__(self, "width", self.patch_size**2 * self.raw.num_channels)
            if not self.width or (self.raw.pixels and not side):
                either = "patch_size" if self.raw.pixels else "patch_size or width"
                raise UserError(f"continuous modality {self.name} needs {either}")
        elif not self.vocab_size:
            raise UserError(f"modality {self.name} needs vocab_size or a tokenizer that tells it")
        if self.kind == "grid" and self.grid is None:
            raise UserError(f"grid modality {self.name} needs grid: [rows, columns]")
        if self.places is not None and self.grid is None:
            raise UserError(f"modality {self.name} has no grid whose places could be measured")
        if self.grid is None and not self.max_tokens:
            raise UserError(f"modality {self.name} needs max_tokens")
        at_most(self, MAX_TOKENS, "num_tokens", "width")
        if self.levels and math.prod(self.levels) != self.vocab_size:
            raise UserError(
                f"modality {self.name}: levels {list(self.levels)} do not multiply to"
                f" {self.vocab_size} ids"
            )

    @property
    def num_tokens(self) -> int:
        """Most tokens of one sample."""
        return self.grid[0] * self.grid[1] if self.grid is not None else self.max_tokens

    @property
    def raw_name(self) -> str:
        """Name of the raw shards that it is made from."""
        return self.source or self.name

    @property
    def num_positions(self) -> int:
        """Rows of its position table: a sequence's target has sentinels too."""
        return 2 * self.num_tokens + 2 if self.kind == "sequence" else self.num_tokens


@dataclass(frozen=True)
class ModalitySet:
    """An ordered set of modalities and the layout that follows from it."""

    modalities: tuple[Modality, ...]
    # settings of each codec, opaque to the core
    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.tokenizers:
            check_name(name)
        names = [m.name for m in self.modalities]
        if len(set(names)) != len(names):
            raise UserError("two modalities have the same name")
        if not any(m.output for m in self.modalities):
            raise UserError("no modality is an output: nothing to predict")
        for m in self.modalities:
            if m.vocab and self.vocab_sizes[m.vocab] != m.vocab_size:
                raise UserError(f"modality {m.name} shares vocabulary {m.vocab!r} but not its size")

    def __iter__(self) -> Iterator[Modality]:
        return iter(self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)

    def __getitem__(self, name: str) -> Modality:
        return self.modalities[self.index(name)]

    def __contains__(self, name: object) -> bool:
        return any(m.name == name for m in self.modalities)

    def index(self, name: str) -> int:
        """Position of a modality in the set. Raises UserError that lists the known ones."""
        for i, m in enumerate(self.modalities):
            if m.name == name:
                return i
        known = [m.name for m in self.modalities]
        raise UserError(
            f"unknown modality {name!r}; this set has {', '.join(known)}{nearest(str(name), known)}"
        )

    @property
    def inputs(self) -> list[Modality]:
        """Modalities that may be given."""
        return [m for m in self.modalities if m.input]

    @property
    def outputs(self) -> list[Modality]:
        """Modalities that may be generated."""
        return [m for m in self.modalities if m.output]

    @cached_property
    def vocab_sizes(self) -> dict[str, int]:
        """Size of each distinct vocabulary, in order of first use."""
        sizes: dict[str, int] = {}
        for m in self.modalities:
            if m.kind != "continuous":
                sizes.setdefault(m.vocab or m.name, m.vocab_size)
        return sizes

    @cached_property
    def position_offsets(self) -> list[int]:
        """First row of each modality's positions in the concatenated position table."""
        starts, start = [], 0
        for m in self.modalities:
            starts.append(start)
            start += m.num_positions
        return starts

    def to_mapping(self) -> dict[str, Any]:
        """Plain mappings that ``from_mapping`` reads back to an equal set."""
        modalities = {}
        for m in self.modalities:
            entry = _changed_settings(m)
            del entry["name"]
            entry["raw"] = {"type": m.raw.type_name, **_changed_settings(m.raw)}
            modalities[m.name] = entry
        return {"tokenizers": self.tokenizers, "modalities": modalities}

    @staticmethod
    def from_mapping(data: dict[str, Any], where: str = "modalities") -> ModalitySet:
        """Read the ``modalities`` and ``tokenizers`` tables of a config."""
        for key in data:
            if key not in ("modalities", "tokenizers"):
                raise UserError(f"{where}: unknown key {key!r}; did you mean 'modalities'?")
        tokenizers = {
            name: dict(_mapping(spec, f"{where}: tokenizer {name}"))
            for name, spec in _mapping(data.get("tokenizers") or {}, f"{where}: tokenizers").items()
        }
        table = data.get("modalities")
        if not isinstance(table, dict) or not table:
            raise UserError(f"{where}: the table 'modalities' is missing or empty")
        modalities = []
        for name, entry in table.items():
            place = f"{where}: modality {name}"
            modalities.append(
                _read_modality(name, dict(_mapping(entry, place)), table, tokenizers, place)
            )
        return ModalitySet(tuple(modalities), tokenizers)

    @staticmethod
    def load(path: str | Path) -> ModalitySet:
        """Read a YAML file of modalities.

        Configs of tokenizers also say where data lies (``raw``, ``out``); that is left out.
        """
        data = {key: value for key, value in read_yaml(path).items() if key not in ("raw", "out")}
        return ModalitySet.from_mapping(data, str(path))

    def table(self) -> str:
        """The set as aligned text, one modality a line."""
        rows = [("name", "kind", "raw", "tokenizer", "ids", "tokens", "in", "out")]
        for m in self.modalities:
            most = f"<={m.max_tokens}" if m.kind == "sequence" else str(m.max_tokens)
            shape = "x".join(map(str, m.grid)) if m.grid else most
            rows.append(
                (
                    m.name,
                    m.kind,
                    m.raw.type_name + (f" {m.raw.pixels}px" if m.raw.pixels else ""),
                    m.tokenizer or "-",
                    str(m.vocab_size or "-"),
                    shape,
                    "yes" if m.input else "-",
                    "yes" if m.output else "-",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def _read_modality(
    name: str,
    entry: dict[str, Any],
    table: dict[str, Any],
    tokenizers: dict[str, dict[str, Any]],
    where: str,
) -> Modality:
    """One entry of the table; fills in what follows from its tokenizer or its source."""
    entry.pop("name", None)
    for key in ("tokenizer", "source"):
        if isinstance(entry.get(key), list):
            raise UserError(f"{where}: {key} must be a name, not {entry[key]!r}")
    spec = entry.get("tokenizer")
    if isinstance(spec, dict):  # settings given in place: the tokenizer has the modality's name
        tokenizers[name] = dict(spec)
        entry["tokenizer"] = name
    elif isinstance(spec, str) and spec not in tokenizers:
        raise UserError(f"{where}: tokenizer {spec!r} is not in the table 'tokenizers'")
    settings = tokenizers.get(entry.get("tokenizer") or "", {})
    if "raw" not in entry and "source" in entry:
        source = table.get(entry["source"])
        if not isinstance(source, dict) or "raw" not in source:
            raise UserError(
                f"{where}: source {entry['source']!r} is not a modality with a raw form"
            )
        entry["raw"] = source["raw"]
    if "raw" in entry:
        entry["raw"] = _read_raw(entry["raw"], f"{where}: raw")
        _fill_sizes(entry, settings, entry["raw"], where)
    if entry.get("kind") == "sequence" and entry.get("tokenizer"):
        entry.setdefault("vocab", entry["tokenizer"])
    return from_mapping(Modality, {"name": name, **entry}, where)


def _fill_sizes(entry: dict[str, Any], settings: dict[str, Any], raw: Raw, where: str) -> None:
    """Set the sizes that the YAML leaves to the tokenizer."""
    count = {"grid": "grid", "set": "max_tokens"}.get(str(entry.get("kind", "")))
    complete = "vocab_size" in entry and (count is None or count in entry)
    try:
        told = sizes_of(settings, raw, complete)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    derived: dict[str, Any] = {"vocab_size": told.vocab_size, "levels": list(told.levels)}
    if count == "grid" and told.grid is not None:
        derived["grid"] = list(told.grid)
    if count == "max_tokens":
        derived["max_tokens"] = told.num_tokens
    for key, value in derived.items():
        if value:
            entry.setdefault(key, value)


def check_name(name: str) -> None:
    """Raise UserError unless a modality or tokenizer can have this name: a folder is called so."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"name {name!r}: names are letters, digits and _ - . @, and begin with no dot"
        )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a mapping, not {value!r}")
    return value


def _read_raw(given: Any, where: str) -> Raw:
    """A raw type from its entry. Of the settings that releases up to 0.4 wrote for any of their
    types, those that the type does not have, or that are zero, say nothing and are left out.
    """
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or ":" in kind:
        return choose(Raw, given, where)
    try:
        known = {f.name for f in dataclasses.fields(Raw.find(kind))}
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    kept = {
        key: value
        for key, value in given.items()
        if key not in _ANY_TYPES_SETTINGS or (key in known and value not in (0, []))
    }
    return choose(Raw, kept, where)


def _changed_settings(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults, as plain values."""
    values = {f.name: (getattr(config, f.name), f.default) for f in dataclasses.fields(config)}
    return {name: to_mapping(v) for name, (v, default) in values.items() if v != default}
