"""Sets of modalities for what looks at raw values alone: how tokens are made of them may be open
(``fourm.project.defaults`` writes it into the file when it is needed).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fourm.files.yaml_files import read_yaml
from fourm.modalities import ModalitySet
from fourm.raw import Raw

_AS_IDS = {"kind": "grid", "vocab_size": 8, "grid": [1, 1]}  # of a modality whose tokens are open


def load_raw(config: str | Path) -> ModalitySet:
    """A set from YAML, of which an entry need not say more than its raw type. Where data lies (in
    configs of tokenizers) is left out, as ``ModalitySet.load`` does.
    """
    data = {k: v for k, v in read_yaml(Path(config)).items() if k not in ("raw", "out")}
    table = data.get("modalities")
    if not isinstance(table, dict):
        return ModalitySet.load(config)  # which says what is wrong
    filled = {
        name: {**_AS_IDS, **entry} if isinstance(entry, dict) and _is_raw_alone(entry) else entry
        for name, entry in table.items()
    }
    return ModalitySet.from_mapping({**data, "modalities": filled}, str(config))


def raw_of(name: str, given: Any, where: str) -> Raw:
    """The raw type of an entry that says nothing else. Raises UserError for a wrong one."""
    described = {**_AS_IDS, "raw": given}
    return ModalitySet.from_mapping({"modalities": {name: described}}, where)[name].raw


def _is_raw_alone(entry: dict[str, Any]) -> bool:
    return "raw" in entry and not {"kind", "tokenizer", "vocab_size"} & entry.keys()
