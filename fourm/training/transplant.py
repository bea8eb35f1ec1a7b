"""A trained model's weights in a model of another modality set.

Rows of tables are matched by what they stand for, never by where they lie: a token's vector by its
vocabulary's name, a learned place and a modality's vector by the modality's. What a modality set
does not shape (the transformer itself) is matched by name and shape. A row is kept as it is, or
fresh, so that the new model computes for modalities that it shares with the old one exactly what
the old one did (with rotary positions as long as the finest grid is the same: places are measured
by it). What became of every part is a table that is printed and stored beside the run.

Nothing is resized unless it is asked for: the first ids of a vocabulary that has *grown* are kept,
learned places of a *stretched* set are interpolated. Ids mean what their tokenizer made them mean:
a vocabulary whose tokenizer has been trained again has only its name in common with the old one,
and begins fresh.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.config import from_mapping, to_mapping
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError, nearest
from fourm.modalities import ModalitySet
from fourm.model.embedding import TokenTable
from fourm.model.model import FourM
from fourm.model.positions import PositionTable
from fourm.training.differences import Fingerprints, other_vocabularies

TRANSPLANT_FILE = "init.json"  # beside a run: what became of the weights it started from
NETWORK = "network"  # what is called so in the table is no modality's

Fate = Literal["kept", "resized", "fresh", "left out"]
Rows = tuple[int, int]  # first, and the one after the last


@dataclass(frozen=True)
class Meaning:
    """What rows of a table stand for. Rows of two models are the same if their meanings are
    equal.
    """

    name: str  # of the vocabulary or modality
    form: tuple[Any, ...]  # what else must agree: sizes, levels
    is_vocabulary: bool = False  # rows stand for ids, whose meaning is the tokenizer's


@dataclass(frozen=True, kw_only=True)
class Resized:
    """What is not kept or fresh as a whole, because someone says so.

    ``grown``: vocabularies that were added to, whose first ids mean what they did. ``stretched``:
    sets whose learned places become others of another number, between which they are interpolated.
    """

    grown: tuple[str, ...] = ()
    stretched: tuple[str, ...] = ()

    def check(self, old: ModalitySet, new: ModalitySet) -> None:
        """Raise UserError for a name of which this cannot be true."""
        for name in self.grown:
            was, is_now = _size_of(name, old), _size_of(name, new)
            if is_now < was:
                raise UserError(f"grown: {name} has {is_now} ids and had {was}: it has shrunk")
            if any(m.levels for m in new if (m.vocab or m.name) == name):
                raise UserError(
                    f"grown: {name} has FSQ levels, and with other levels every id means another"
                    " thing: leave it out, it begins fresh"
                )
        for name in self.stretched:
            if any(s[name].kind != "set" or s[name].grid is not None for s in (old, new)):
                raise UserError(f"stretched: the places of {name} are not learned but computed")


def _size_of(vocabulary: str, modalities: ModalitySet) -> int:
    sizes = modalities.vocab_sizes
    if vocabulary not in sizes:
        close = nearest(vocabulary, list(sizes))
        raise UserError(f"grown: no vocabulary {vocabulary!r}; there are {', '.join(sizes)}{close}")
    return sizes[vocabulary]


@dataclass(frozen=True)
class Part:
    """What became of some rows of a tensor, or of all of it."""

    name: str  # vocabulary, modality, or NETWORK
    tensor: str
    fate: Fate
    rows: Rows | None = None  # of the new tensor; None = all of it
    source: Rows | None = None  # of the old one, where these come from


@dataclass(frozen=True)
class Transplant:
    """What became of every part, in the order of the tensors."""

    parts: tuple[Part, ...]

    @property
    def learners(self) -> dict[str, list[Rows] | None]:
        """Tensor -> its rows that were never trained as what they are now; None = all of it."""
        found: dict[str, list[Rows] | None] = {}
        for part in self.parts:
            if part.fate not in ("fresh", "resized"):
                continue
            if part.rows is None:
                found[part.tensor] = None
            else:
                rows = found.setdefault(part.tensor, [])
                assert rows is not None
                rows.append(part.rows)
        return found

    @torch.no_grad()
    def carry(self, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
        """Write what is kept or resized of ``old`` weights into ``new`` ones."""
        for part in self.parts:
            if part.fate in ("fresh", "left out"):
                continue
            given = old[part.tensor]
            if part.rows is None or part.source is None:
                new[part.tensor].copy_(given)
                continue
            rows, given = new[part.tensor][slice(*part.rows)], given[slice(*part.source)]
            rows.copy_(given if part.fate == "kept" else _interpolated(given, len(rows)))

    def table(self) -> str:
        """A line for each vocabulary and modality, and one for the network."""
        fates: dict[str, dict[str, list[Part]]] = {}
        for part in self.parts:
            fates.setdefault(part.name, {}).setdefault(part.fate, []).append(part)
        width = max(len(name) for name in fates)
        lines = []
        for name, found in fates.items():
            told = [f"{fate} ({_tensors(parts)})" for fate, parts in found.items()]
            lines.append(f"  {name:{width}}  {', '.join(told)}")
        return "\n".join(lines)

    def write(self, path: Path, start: str) -> None:
        """Store the table beside a run, with the model it started from."""
        parts = [to_mapping(part) for part in self.parts]
        write_json_atomic(path, {"init": start, "parts": parts})

    @staticmethod
    def read(path: Path) -> Transplant:
        """What ``write`` stored. Raises UserError if it is damaged."""
        try:
            stored = json.loads(path.read_text())
        except ValueError:
            raise UserError(f"{path} is not valid JSON: the folder is damaged") from None
        parts = stored.get("parts", []) if isinstance(stored, dict) else []
        return Transplant(tuple(from_mapping(Part, part, str(path)) for part in parts))


def _tensors(parts: list[Part]) -> str:
    """Their names and, of those with rows, how many; only how many where they are many."""
    rows: dict[str, int] = defaultdict(int)
    for part in parts:
        place = part.rows or part.source
        rows[part.tensor] += place[1] - place[0] if place else 0
    if len(rows) > 5:
        return f"{len(rows)} tensors"
    return ", ".join(f"{tensor}: {num:,}" if num else tensor for tensor, num in rows.items())


def _interpolated(rows: Tensor, num: int) -> Tensor:
    """(n, D) -> (num, D): between neighbours, the first and the last where they were."""
    channels = rearrange(rows, "n d -> 1 d n")
    stretched = F.interpolate(channels, size=num, mode="linear", align_corners=True)
    return rearrange(stretched, "1 d n -> n d")


# ---- the operation -------------------------------------------------------------------------------


def transplant(
    old: FourM,
    new: FourM,
    before: Fingerprints | None = None,
    now: Fingerprints | None = None,
    resized: Resized | None = None,
) -> Transplant:
    """Give ``new`` the weights of ``old`` that mean the same in both; the others stay as they are.

    Args:
        before, now: fingerprints of the tokenizers of both, by vocabulary. Where one is not known,
            tokenizers are the same if their settings are.
        resized: what is to be resized; nothing is unless it is named.

    Raises UserError if the models have different widths.
    """
    if old.config.dim != new.config.dim:
        raise UserError(
            f"weights of a model of dim {old.config.dim} do not fit one of dim {new.config.dim}"
        )
    resized = resized or Resized()
    resized.check(old.modalities, new.modalities)
    other = other_vocabularies(old.modalities, new.modalities, before or {}, now or {})
    theirs, mine = old.state_dict(), new.state_dict()
    their_rows, my_rows = rows_by_meaning(old), rows_by_meaning(new)
    parts: list[Part] = []
    for tensor, value in mine.items():
        if tensor in my_rows:
            origins = _Origins(their_rows.get(tensor, {}), other - set(resized.grown), resized)
            for meaning, rows in my_rows[tensor].items():
                parts += origins.parts(tensor, meaning, rows)
        else:
            kept = tensor in theirs and theirs[tensor].shape == value.shape
            parts.append(Part(_owner(tensor, new), tensor, "kept" if kept else "fresh"))
    for tensor in theirs:
        if tensor in their_rows:
            present = {meaning.name for meaning in my_rows.get(tensor, {})}
            gone = [(m.name, r) for m, r in their_rows[tensor].items() if m.name not in present]
        else:
            gone = [] if tensor in mine else [(_owner(tensor, old), None)]
        parts += [Part(name, tensor, "left out", None, rows) for name, rows in gone]
    told = Transplant(tuple(parts))
    told.carry(theirs, mine)
    return told


@dataclass(frozen=True)
class _Origins:
    """Where rows of one tensor come from."""

    given: Mapping[Meaning, Rows]  # the old tensor's
    other: set[str]  # vocabularies whose ids mean other things now
    resized: Resized

    def parts(self, tensor: str, meaning: Meaning, rows: Rows) -> list[Part]:
        """What becomes of the rows of one meaning."""
        name, source = meaning.name, self.given.get(meaning)
        if source is not None and not (meaning.is_vocabulary and name in self.other):
            return [Part(name, tensor, "kept", rows, source)]
        source = next((r for m, r in self.given.items() if m.name == name), None)
        if source is not None and meaning.is_vocabulary and name in self.resized.grown:
            end = rows[0] + source[1] - source[0]
            old, added = (rows[0], end), (end, rows[1])
            return [Part(name, tensor, "kept", old, source), Part(name, tensor, "fresh", added)]
        if source is not None and not meaning.is_vocabulary and name in self.resized.stretched:
            return [Part(name, tensor, "resized", rows, source)]
        return [Part(name, tensor, "fresh", rows)]


def rows_by_meaning(model: FourM) -> dict[str, dict[Meaning, Rows]]:
    """The rows of every tensor that holds some for each vocabulary or modality."""
    found: dict[str, dict[Meaning, Rows]] = {}
    for name in ("tokens", "decoder_tokens", "heads"):
        table = getattr(model, name)
        if table is not None:
            found[f"{name}.table"] = _token_rows(table, model.modalities)
            if table.levels is not None:
                found[f"{name}.levels"] = _level_rows(table, model.modalities)
    for name in ("positions", "decoder_positions"):
        places = getattr(model, name)
        if places is not None and places.learned is not None:
            found[f"{name}.learned"] = _place_rows(places, model.modalities)
    for name in ("modality", "decoder_modality"):
        if getattr(model, name) is not None:
            found[name] = {
                Meaning(m.name, (m.kind,)): (i, i + 1) for i, m in enumerate(model.modalities)
            }
    return found


def _token_rows(table: TokenTable, modalities: ModalitySet) -> dict[Meaning, Rows]:
    forms = _vocabulary_forms(modalities)
    return {
        Meaning(name, forms[name], True): (start, start + size)
        for name, (start, size) in table.vocabularies.items()
    }


def _level_rows(table: TokenTable, modalities: ModalitySet) -> dict[Meaning, Rows]:
    """Of vocabularies that have levels; row 0, which stands for none, is zero in every model."""
    forms = _vocabulary_forms(modalities)
    return {Meaning(name, forms[name], True): rows for name, rows in table.level_rows.items()}


def _vocabulary_forms(modalities: ModalitySet) -> dict[str, tuple[Any, ...]]:
    """Size and levels of each vocabulary."""
    forms: dict[str, tuple[Any, ...]] = {}
    for m in modalities:
        forms.setdefault(m.vocab or m.name, (m.vocab_size, m.levels))
    return forms


def _place_rows(places: PositionTable, modalities: ModalitySet) -> dict[Meaning, Rows]:
    return {
        Meaning(name, (num := modalities[name].num_positions,)): (start, start + num)
        for name, start in places.learned_start.items()
    }


def _owner(tensor: str, model: FourM) -> str:
    """The modality whose projection of vectors this tensor is, or NETWORK."""
    for m in model.modalities:
        if m.kind == "continuous" and tensor.startswith(model.vector_name(m.name) + "."):
            return m.name
    return NETWORK
