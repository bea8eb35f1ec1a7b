"""A trained model's weights in a model of another modality set.

Rows of tables are matched by what they stand for, never by where they lie: a token's vector by its
vocabulary's name, a learned place and a modality's vector by the modality's. What a modality set
does not shape (the transformer itself) is matched by name and shape. Nothing is resized or mixed: a
row is kept as it is, or fresh, so that the new model computes for modalities that it shares with
the old one exactly what the old one did (with rotary positions as long as the finest grid is the
same: places are measured by it). What became of every part is a table that is printed and stored
beside the run.

Ids mean what their tokenizer made them mean. A vocabulary whose tokenizer has been trained again
has only its name in common with the old one, and begins fresh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fourm.config import to_mapping
from fourm.data.shards import write_json_atomic
from fourm.embedding import TokenTable
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.model import FourM, load_model
from fourm.model_files import read_description
from fourm.positions import PositionTable

VOCABULARIES_FILE = (
    "vocabularies.json"  # beside a checkpoint: vocabulary -> tokenizer's fingerprint
)
TRANSPLANT_FILE = "init.json"  # beside a run: what became of the weights it started from
NETWORK = "network"  # what is called so in the table is no modality's
# of a modality, what a model's weights and the meaning of its rows depend on
_SHAPING = (
    "kind",
    "vocab",
    "vocab_size",
    "levels",
    "grid",
    "max_tokens",
    "width",
    "input",
    "output",
    "raw",
)

Fate = Literal["kept", "fresh", "left out"]
Fingerprints = Mapping[str, str]  # vocabulary -> fingerprint of its tokenizer


@dataclass(frozen=True)
class Meaning:
    """What rows of a table stand for. Rows of two models are the same if their meanings are
    equal.
    """

    name: str  # of the vocabulary or modality
    form: tuple[Any, ...]  # what else must agree: sizes, levels
    is_vocabulary: bool = False  # rows stand for ids, whose meaning is the tokenizer's


@dataclass(frozen=True)
class Part:
    """What became of some rows of a tensor, or of all of it."""

    name: str  # vocabulary, modality, or NETWORK
    tensor: str
    fate: Fate


@dataclass(frozen=True)
class Transplant:
    """What became of every part, in the order of the tensors."""

    parts: tuple[Part, ...]

    def table(self) -> str:
        """A line for each vocabulary and modality, and one for the network."""
        fates: dict[str, dict[str, list[str]]] = {}
        for part in self.parts:
            fates.setdefault(part.name, {}).setdefault(part.fate, []).append(part.tensor)
        width = max(len(name) for name in fates)
        lines = []
        for name, found in fates.items():
            told = [
                f"{fate} ({', '.join(tensors)})" if len(tensors) < 6 else f"{fate} ({len(tensors)})"
                for fate, tensors in found.items()
            ]
            lines.append(f"  {name:{width}}  {', '.join(told)}")
        return "\n".join(lines)

    def write(self, path: Path, start: str) -> None:
        """Store the table beside a run, with the model it started from."""
        parts = [to_mapping(part) for part in self.parts]
        write_json_atomic(path, {"init": start, "parts": parts})


# ---- what differs --------------------------------------------------------------------------------


def differences(before: ModalitySet, now: ModalitySet) -> list[str]:
    """What keeps weights of one set from being used with the other as they are, a phrase each."""
    old, new = [m.name for m in before], [m.name for m in now]
    found = [f"{name} is new" for name in new if name not in old]
    found += [f"{name} is gone" for name in old if name not in new]
    shared = [name for name in new if name in old]
    if shared != [name for name in old if name in new]:
        found.append(f"their order is {', '.join(new)}, was {', '.join(old)}")
    for name in shared:
        found += changed_fields(before[name], now[name])
    return found


def changed_fields(before: Modality, now: Modality) -> list[str]:
    """What a modality has other than it had, of what a model depends on, a phrase each."""
    values = [(key, getattr(now, key), getattr(before, key)) for key in _SHAPING]
    return [
        f"{now.name} has {key} {_shown(is_now)}, had {_shown(was)}"
        for key, is_now, was in values
        if is_now != was
    ]


def other_tokenizers(before: Fingerprints, now: Fingerprints) -> list[str]:
    """Vocabularies whose tokenizer is known to be another one, a phrase each."""
    return [
        f"the tokenizer of {name} has been trained again"
        for name in now
        if before.get(name, now[name]) != now[name]
    ]


def refuse_to_resume(
    out: Path, checkpoint: Path, model: FourM, modalities: ModalitySet, fingerprints: Fingerprints
) -> None:
    """Raise UserError where a run cannot go on from ``checkpoint`` of its folder ``out``, as what
    it trains is another model now.
    """
    described = read_description(checkpoint)
    if described is None or "modalities" not in described:
        return  # damaged: the loop passes over it to the one before
    declared = {k: described[k] for k in ("tokenizers", "modalities") if k in described}
    before = ModalitySet.from_mapping(declared, str(checkpoint))
    found = differences(before, modalities)
    found += other_tokenizers(read_vocabularies(checkpoint), fingerprints)
    found += other_sizes(described["model"], to_mapping(model.config))
    if found:
        raise UserError(
            f"{checkpoint} was trained for something else: {'; '.join(found)}. Give another folder,"
            f" out={out}-2, for a fresh start; add init={checkpoint} to begin with the weights that"
            " still fit"
        )


def other_sizes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options of the network that both name and that differ (which backend attention uses is no
    matter of weights).
    """
    return [
        f"model.{key} is {_shown(now[key])}, was {_shown(value)}"
        for key, value in was.items()
        if key in now and key != "attention" and now[key] != value
    ]


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


# ---- fingerprints of vocabularies ----------------------------------------------------------------


def by_vocabulary(modalities: ModalitySet, fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Fingerprints by modality as those by vocabulary."""
    return {
        modalities[name].vocab or name: fingerprint for name, fingerprint in fingerprints.items()
    }


def write_vocabularies(folder: Path, fingerprints: Fingerprints) -> None:
    """Note beside a model whose ids it has learned."""
    (folder / VOCABULARIES_FILE).write_text(json.dumps(dict(fingerprints), indent=1) + "\n")


def read_vocabularies(folder: Path) -> dict[str, str]:
    """That note; nothing where there is none (models of earlier releases)."""
    path = folder / VOCABULARIES_FILE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:
        raise UserError(f"{path} is not valid JSON: the folder is damaged") from None


# ---- the operation -------------------------------------------------------------------------------


def start_from(
    folder: str | Path, modalities: ModalitySet, fingerprints: Fingerprints, seed: int
) -> tuple[FourM, Transplant | None]:
    """The model of ``folder`` for ``modalities``; it keeps its size. Without a table if the sets
    are the same, so that all of it is kept.

    Args:
        fingerprints: of the tokenizers in use, as far as they are known.
        seed: of the weights that are fresh.
    """
    old = load_model(folder)
    known = read_vocabularies(Path(folder))
    same_entries = (
        old.modalities.to_mapping()["modalities"] == modalities.to_mapping()["modalities"]
    )
    if same_entries and not other_tokenizers(known, fingerprints):
        return old, None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        new = FourM(old.config, modalities)
    return new, transplant(old, new, known, fingerprints)


@torch.no_grad()
def transplant(
    old: FourM, new: FourM, before: Fingerprints | None = None, now: Fingerprints | None = None
) -> Transplant:
    """Give ``new`` the weights of ``old`` that mean the same in both; the others stay as they are.

    Args:
        before, now: fingerprints of the tokenizers of both, by vocabulary. Where one is not known,
            tokenizers are the same if their settings are.

    Raises UserError if the models have different widths.
    """
    if old.config.dim != new.config.dim:
        raise UserError(
            f"weights of a model of dim {old.config.dim} do not fit one of dim {new.config.dim}"
        )
    other = other_vocabularies(old.modalities, new.modalities, before or {}, now or {})
    theirs, mine = old.state_dict(), new.state_dict()
    their_rows, my_rows = rows_by_meaning(old), rows_by_meaning(new)
    parts: list[Part] = []
    for tensor, value in mine.items():
        if tensor not in my_rows:
            kept = tensor in theirs and theirs[tensor].shape == value.shape
            if kept:
                value.copy_(theirs[tensor])
            parts.append(Part(_owner(tensor, new), tensor, "kept" if kept else "fresh"))
            continue
        given = their_rows.get(tensor, {})
        for meaning, rows in my_rows[tensor].items():
            means_other = meaning.is_vocabulary and meaning.name in other
            kept = meaning in given and not means_other
            if kept:
                value[rows] = theirs[tensor][given[meaning]]
            parts.append(Part(meaning.name, tensor, "kept" if kept else "fresh"))
    for tensor in theirs:
        if tensor in their_rows:
            present = {meaning.name for meaning in my_rows.get(tensor, {})}
            gone = [m.name for m in their_rows[tensor] if m.name not in present]
        else:
            gone = [] if tensor in mine else [_owner(tensor, old)]
        parts += [Part(name, tensor, "left out") for name in gone]
    return Transplant(tuple(parts))


def rows_by_meaning(model: FourM) -> dict[str, dict[Meaning, slice]]:
    """The rows of every tensor that holds some for each vocabulary or modality."""
    found: dict[str, dict[Meaning, slice]] = {}
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
                Meaning(m.name, (m.kind,)): slice(i, i + 1) for i, m in enumerate(model.modalities)
            }
    return found


def _token_rows(table: TokenTable, modalities: ModalitySet) -> dict[Meaning, slice]:
    forms = _vocabulary_forms(modalities)
    return {
        Meaning(name, forms[name], True): slice(start, start + size)
        for name, (start, size) in table.vocabularies.items()
    }


def _level_rows(table: TokenTable, modalities: ModalitySet) -> dict[Meaning, slice]:
    """Of vocabularies that have levels; row 0, which stands for none, is zero in every model."""
    forms = _vocabulary_forms(modalities)
    return {
        Meaning(name, forms[name], True): slice(*rows) for name, rows in table.level_rows.items()
    }


def _vocabulary_forms(modalities: ModalitySet) -> dict[str, tuple[Any, ...]]:
    """Size and levels of each vocabulary."""
    forms: dict[str, tuple[Any, ...]] = {}
    for m in modalities:
        forms.setdefault(m.vocab or m.name, (m.vocab_size, m.levels))
    return forms


def _place_rows(places: PositionTable, modalities: ModalitySet) -> dict[Meaning, slice]:
    return {
        Meaning(name, (num := modalities[name].num_positions,)): slice(start, start + num)
        for name, start in places.learned_start.items()
    }


def _owner(tensor: str, model: FourM) -> str:
    """The modality whose projection of vectors this tensor is, or NETWORK."""
    for m in model.modalities:
        if m.kind == "continuous" and tensor.startswith(model.vector_name(m.name) + "."):
            return m.name
    return NETWORK


def other_vocabularies(
    before: ModalitySet, now: ModalitySet, known_before: Fingerprints, known_now: Fingerprints
) -> set[str]:
    """Vocabularies of both sets whose ids have another meaning now."""
    was, is_now = _users(before), _users(now)
    other = set()
    for name in was.keys() & is_now.keys():
        if name in known_before and name in known_now:
            changed = known_before[name] != known_now[name]
        else:
            changed = _settings(was[name], before) != _settings(is_now[name], now)
        if changed:
            other.add(name)
    return other


def _users(modalities: ModalitySet) -> dict[str, Modality]:
    """The first modality of each vocabulary: for a learned tokenizer, the one it is made for."""
    users: dict[str, Modality] = {}
    for m in modalities:
        if m.kind != "continuous":
            users.setdefault(m.vocab or m.name, m)
    return users


def _settings(m: Modality, modalities: ModalitySet) -> Any:
    return modalities.tokenizers.get(m.tokenizer or "")
