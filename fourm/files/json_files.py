"""JSON that may be anything: what is none, or nested without end, is one sentence.

``json`` raises a ``RecursionError`` where brackets stand in each other by the thousand, and its own
errors are no sentences about a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fourm.errors import UserError


def parse_json(text: str | bytes, where: str | Path) -> Any:
    """The value of a JSON text. Raises UserError that begins with ``where``."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{where} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None


def parse_mapping(text: str | bytes, where: str | Path) -> dict[str, Any]:
    """The mapping that a JSON text holds. Raises UserError for anything else."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise UserError(f"{where} does not hold a mapping")
    return value
