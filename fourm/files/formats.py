"""The number that files of ours carry, so that each is read or refused with a sentence.

``config.json`` of models and tokenizers, ``state.json`` of checkpoints and the manifests of shards
say ``"format": 1``. Releases up to 0.4.0 wrote no number (models said ``"format": "fourm"``), which
counts as 0 and is read as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm.errors import UserError

FORMAT = 1
_UNNUMBERED = "fourm"


def is_ours(described: Mapping[str, Any]) -> bool:
    """True if a model's description was written by this software, by whichever release."""
    return described.get("format") == _UNNUMBERED or isinstance(described.get("format"), int)


def check_format(described: Mapping[str, Any], where: str | Path) -> int:
    """The format of a file, 0 for those without a number. Raises UserError for a newer one."""
    number = described.get("format", 0)
    if number == _UNNUMBERED:
        return 0
    if not isinstance(number, int) or number < 0:
        raise UserError(f"{where}: format {number!r} is no number: the file is damaged or not ours")
    if number > FORMAT:
        raise UserError(
            f"{where} has format {number}, this version reads up to {FORMAT}:"
            " pip install --upgrade fourm"
        )
    return number
