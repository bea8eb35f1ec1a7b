"""Lists of words, ``["wood", "metal", ...]``; spelled with commas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fourm.errors import UserError
from fourm.raw._json import Json


@dataclass(frozen=True, kw_only=True)
class Words(Json, name="words"):
    """Tags, materials, names: words or short phrases without commas."""

    element: ClassVar[type] = str
    placeless: ClassVar[bool] = True

    def check(self, value: Any) -> list[str]:
        given = self.listed(value)
        if not all(isinstance(word, str) for word in given):
            raise UserError("words must be strings")
        return given

    def remark(self, value: list[str]) -> str | None:
        return "words with commas, which divide them" if any("," in w for w in value) else None

    def measured(self, value: list[str]) -> Mapping[str, np.ndarray]:
        return {"words": np.array([len(value)])}

    def counted(self, value: list[str]) -> Mapping[str, int]:
        return Counter(value)

    def line(self, value: list[str]) -> str:
        return ", ".join(value)

    def to_text(self, value: Any, num_bins: int) -> str:
        return ", ".join(self.check(value))

    def from_text(self, line: str, num_bins: int) -> list[str]:
        return [word.strip() for word in line.split(",") if word.strip()]
