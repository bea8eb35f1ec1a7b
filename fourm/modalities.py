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
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fourm.codec_types import sizes_of
from fourm.config import from_mapping, read_yaml, to_mapping
from fourm.errors import UserError

Kind = Literal["grid", "set", "sequence", "continuous"]
RawType = Literal[
    "image",
    "depth",
    "normal",
    "labels",
    "array",
    "vectors",
    "text",
    "boxes",
    "palette",
    "numbers",
    "words",
    "metadata",
    "poses",
    "instances",
    "audio",
]

# ids every sequence tokenizer begins with (the layout of the released 4M text tokenizer)
PAD_ID, UNKNOWN_ID, START_ID, END_ID, SENTINEL_ID = 0, 1, 2, 3, 4
FIRST_SENTINEL = SENTINEL_ID + 1  # numbering of spans begins with [S_1]

_EXTENSIONS: dict[str, tuple[str, ...]] = {
    "image": ("png", "jpg", "jpeg", "webp"),
    "depth": ("npy", "png"),
    "normal": ("png", "npy"),
    "labels": ("png", "npy"),
    "array": ("npy",),
    "vectors": ("npy", "npz"),
    "text": ("txt",),
    "boxes": ("json",),
    "palette": ("json",),
    "numbers": ("json",),
    "words": ("json",),
    "metadata": ("json",),
    "poses": ("json",),
    "instances": ("json",),
    "audio": ("wav",),
}
_DENSE = ("image", "depth", "normal", "labels", "array")


@dataclass(frozen=True, kw_only=True)
class RawSpec:
    """The raw form of a modality: what lies in its shards and what users pass and get."""

    type: RawType
    size: int = 0  # pixels of both sides, for picture-like types
    channels: int = 0  # numbers at each pixel; 0 = the type's own (image and normal 3, depth 1)
    # depth, array, numbers: values that the tokenizer resolves
    range: tuple[float, float] = (0.0, 1.0)
    rate: int = 0  # audio: samples a second
    classes: tuple[str, ...] = ()  # labels: name of each class id
    # image: a model that reads its pixels wants (value / 255 - mean) / std instead of [-1, 1]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.type in _DENSE and self.size <= 0:
            raise UserError(f"raw type {self.type} needs a size (pixels)")
        if self.type == "labels" and not self.classes:
            raise UserError("raw type labels needs the list of its classes")
        if self.type == "audio" and self.rate < 1000:
            raise UserError("raw type audio needs a rate (samples a second), e.g. 16000")
        if self.type == "vectors" and not self.channels:
            raise UserError("raw type vectors needs channels (numbers in a vector)")
        if len(self.mean) != len(self.std):
            raise UserError("mean and std go together: one number for each channel")
        if self.range[0] >= self.range[1]:
            raise UserError(f"range {list(self.range)} is empty")

    @property
    def num_channels(self) -> int:
        return self.channels or {"image": 3, "normal": 3}.get(self.type, 1)

    @property
    def extensions(self) -> tuple[str, ...]:
        """File extensions it is read from, the one it is written with first."""
        return _EXTENSIONS[self.type]

    @property
    def dense(self) -> bool:
        """Picture-like: one value or vector at each pixel."""
        return self.type in _DENSE


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One modality. Sizes that follow from the tokenizer's settings may be left out in YAML."""

    name: str
    kind: Kind
    raw: RawSpec
    tokenizer: str | None = None  # name of the codec that makes its ids
    source: str = ""  # name of the raw data it is made from; its own name if empty
    labeller: str = ""  # what makes its raw form out of the picture when data is imported
    # pixels of the picture that the labeller sees; 0 = those of the widest modality
    labeller_size: int = 0
    vocab: str = ""  # sequences that share a vocabulary share its embeddings
    vocab_size: int = 0
    levels: tuple[int, ...] = ()  # FSQ levels; embeddings and heads are factorised over them
    grid: tuple[int, int] | None = None  # rows, columns of tokens
    max_tokens: int = 0  # sequences and sets: most tokens of a sample
    patch_size: int = 0  # continuous pictures: pixels of a patch's side
    width: int = 0  # continuous: numbers in a vector
    chunk_size: int = 1  # sequences: tokens that are kept or hidden together
    input: bool = True
    output: bool = True
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind == "continuous":
            object.__setattr__(self, "output", False)
            if self.patch_size and self.grid is None:
                side = self.raw.size // self.patch_size
                object.__setattr__(self, "grid", (side, side))
                object.__setattr__(self, "width", self.patch_size**2 * self.raw.num_channels)
            if not self.width:
                raise UserError(f"continuous modality {self.name} needs patch_size or width")
        elif self.vocab_size <= 0:
            raise UserError(f"modality {self.name} needs vocab_size or a tokenizer that tells it")
        if self.kind == "grid" and self.grid is None:
            raise UserError(f"grid modality {self.name} needs grid: [rows, columns]")
        if self.grid is None and self.max_tokens <= 0:
            raise UserError(f"modality {self.name} needs max_tokens")
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
        raise UserError(
            f"unknown modality {name!r}; this set has {', '.join(m.name for m in self.modalities)}"
        )

    @property
    def inputs(self) -> list[Modality]:
        return [m for m in self.modalities if m.input]

    @property
    def outputs(self) -> list[Modality]:
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
            values = to_mapping(m)
            defaults = {f.name: f.default for f in dataclasses.fields(Modality)}
            kept = {k: v for k, v in values.items() if k != "name" and v != to_mapping(defaults[k])}
            kept["raw"] = {
                k: v
                for k, v in values["raw"].items()
                if k == "type" or v not in (0, [], [0.0, 1.0])
            }
            modalities[m.name] = kept
        return {"tokenizers": self.tokenizers, "modalities": modalities}

    @staticmethod
    def from_mapping(data: dict[str, Any], where: str = "modalities") -> ModalitySet:
        """Read the ``modalities`` and ``tokenizers`` tables of a config."""
        for key in data:
            if key not in ("modalities", "tokenizers"):
                raise UserError(f"{where}: unknown key {key!r}; did you mean 'modalities'?")
        tokenizers = {name: dict(spec) for name, spec in (data.get("tokenizers") or {}).items()}
        table = data.get("modalities")
        if not isinstance(table, dict) or not table:
            raise UserError(f"{where}: the table 'modalities' is missing or empty")
        modalities = []
        for name, entry in table.items():
            if not isinstance(entry, dict):
                raise UserError(f"{where}: modality {name} must be a mapping")
            modalities.append(
                _read_modality(name, dict(entry), table, tokenizers, f"{where}: modality {name}")
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
            shape = (
                "x".join(map(str, m.grid))
                if m.grid
                else f"<={m.max_tokens}"
                if m.kind == "sequence"
                else str(m.max_tokens)
            )
            rows.append(
                (
                    m.name,
                    m.kind,
                    m.raw.type + (f" {m.raw.size}px" if m.raw.size else ""),
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
    given = entry.get("raw")
    raw: dict[str, Any] = given if isinstance(given, dict) else {}
    _fill_sizes(entry, settings, raw, where)
    if entry.get("kind") == "sequence" and entry.get("tokenizer"):
        entry.setdefault("vocab", entry["tokenizer"])
    return from_mapping(Modality, {"name": name, **entry}, where)


def _fill_sizes(
    entry: dict[str, Any], settings: dict[str, Any], raw: dict[str, Any], where: str
) -> None:
    """Set the sizes that the YAML leaves to the tokenizer."""
    count = {"grid": "grid", "set": "max_tokens"}.get(entry.get("kind", ""))
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
