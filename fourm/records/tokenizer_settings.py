"""What a trained tokenizer was trained with, beside it: ``settings.json``.

An edited config is so told from the one that a tokenizer in a project was made by. The steps and
other values that a command line changes for one run are no part of it: the record is what the
config declares, and the form of the raw data for a tokenizer that has learned from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fourm.config import to_mapping
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.files.formats import FORMAT, check_format
from fourm.modalities import ModalitySet

SETTINGS_FILE = "settings.json"
FIGURES_FILE = "figures.json"  # of held-out samples, by the trained tokenizer
_ENDS = (FIGURES_FILE, "tokenizer.json")  # one of them is there when training has ended

State = Literal["new", "unfinished", "changed", "unchanged"]


def declared(name: str, modalities: ModalitySet) -> dict[str, Any]:
    """What the config says of a tokenizer, as it is stored."""
    settings = modalities.tokenizers[name]
    found: dict[str, Any] = {"settings": settings}
    users = [m for m in modalities if m.tokenizer == name]
    # a text tokenizer serves every modality that is spelled, those that are added later too
    if settings.get("type") != "text" and users:
        found["raw"] = to_mapping(users[0].raw.data_form)
    return json.loads(json.dumps(found))  # tuples as the lists that they become in the file


def note_settings(folder: Path, name: str, modalities: ModalitySet) -> None:
    """Write the record, before training: what is unfinished is known by it, too."""
    write_json_atomic(folder / SETTINGS_FILE, {"format": FORMAT, **declared(name, modalities)})


def note_if_lacking(folder: Path, name: str, modalities: ModalitySet) -> None:
    """The record for a trained tokenizer of an earlier release, so that later edits are seen."""
    lacks = not (folder / SETTINGS_FILE).is_file()
    if lacks and state_of(folder, name, modalities) == "unchanged":
        note_settings(folder, name, modalities)


def state_of(folder: Path, name: str, modalities: ModalitySet) -> State:
    """How the tokenizer in ``folder`` stands to the config. One without a record (of an earlier
    release, or brought from elsewhere) counts as unchanged.
    """
    if not folder.is_dir():
        return "new"
    path = folder / SETTINGS_FILE
    if path.is_file() and _read(path) != declared(name, modalities):
        return "changed"
    trained = any((folder / end).is_file() for end in _ENDS)
    return "unchanged" if trained else "unfinished"


def put_aside(folder: Path) -> Path:
    """Rename a folder to the first free ``<name>.before-<n>`` and return its new place."""
    number = 1
    while (place := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    folder.rename(place)
    return place


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is not valid JSON: delete its folder to train it again") from None
    check_format(found, path)
    return {key: value for key, value in found.items() if key != "format"}


def figures_of(folder: Path, name: str, modalities: ModalitySet) -> dict[str, float]:
    """What a trained tokenizer of the set was found to be worth on held-out samples, by the names
    that figures have today; nothing where nothing is noted.
    """
    path = folder / name / FIGURES_FILE
    figures = json.loads(path.read_text()) if path.is_file() else {}
    raw = next((m.raw for m in modalities if m.tokenizer == name), None)
    names = {} if raw is None else raw.renamed_figures
    return {names.get(key, key): value for key, value in figures.items()}
