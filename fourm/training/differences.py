"""What keeps a model's weights from being used with another modality set as they are.

A run never goes on as something else: names, order, kinds and sizes of modalities, the network's
own sizes and the tokenizers are compared with those of its checkpoint, and what differs is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm.config import to_mapping
from fourm.errors import UserError
from fourm.files.model_files import read_description
from fourm.modalities import Modality, ModalitySet
from fourm.model.model import FourM

VOCABULARIES_FILE = (
    "vocabularies.json"  # beside a checkpoint: vocabulary -> tokenizer's fingerprint
)
# of a modality, what a model's weights and the meaning of its rows depend on
_SHAPING = (
    "kind",
    "vocab",
    "vocab_size",
    "levels",
    "grid",
    "places",
    "max_tokens",
    "width",
    "input",
    "output",
    "raw",
)

Fingerprints = Mapping[str, str]  # vocabulary -> fingerprint of its tokenizer


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
