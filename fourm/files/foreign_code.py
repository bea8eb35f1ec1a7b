"""Models from the hub name no code: a config may (``type: package.module:Class``), and what is
named is imported where the model is opened.

In a project of one's own that is how it is extended. A model that was fetched by its name is opened
only where its files name nothing but what this release knows. Who has read them and wants it all
the same opens the folder that it was fetched into, by its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fourm.errors import UserError
from fourm.files.json_files import parse_json
from fourm.files.yaml_files import parse

_CODE = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")
_WORDS = ("classes", "words", "labeller", "unit")  # of settings that no one imports
_DATA = ("tokenizer.json", "model.safetensors.index.json")  # words and names of tensors


def refuse_code(folder: Path) -> Path:
    """The folder itself. Raises UserError where one of its files names code to import."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".yaml") and path.name not in _DATA and path.is_file():
            read = parse_json if path.suffix == ".json" else parse
            text = path.read_text(encoding="utf-8", errors="replace")
            named = next(_names(read(text, str(path))), None)
            if named is not None:
                raise UserError(
                    f"{path} names code, {named}, which opening the model would import: read it,"
                    f" and open {folder} by its path if you trust it"
                )
    return folder


def _names(value: Any, key: str = "") -> Iterator[str]:
    """What looks as code elsewhere does, in a tree."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _names(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner, key)
    elif isinstance(value, str) and key not in _WORDS and _CODE.fullmatch(value):
        yield value
