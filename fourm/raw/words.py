"""Lists of words, ``["wood", "metal", ...]``; spelled with commas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fourm.errors import UserError
from fourm.raw._json import Json


@dataclass(frozen=True, kw_only=True)
class Words(Json, name="words"):
    """Tags, materials, names: words or short phrases without commas."""

    element: ClassVar[type] = str
    placeless: ClassVar[bool] = True

    def line(self, value: list[str]) -> str:
        return ", ".join(value)

    def to_text(self, value: Any, num_bins: int) -> str:
        given = self.listed(value)
        if not all(isinstance(word, str) for word in given):
            raise UserError("words must be strings")
        return ", ".join(given)

    def from_text(self, line: str, num_bins: int) -> list[str]:
        return [word.strip() for word in line.split(",") if word.strip()]
