"""Text: a string, UTF-8 in files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fourm.errors import UserError
from fourm.raw._protocol import Raw

# control characters but for tab, line feed, carriage return
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REPLACED = "\ufffd"  # what decoders put for bytes that are no text
_MOST_REPLACED = 0.5  # of all characters


@dataclass(frozen=True, kw_only=True)
class Text(Raw, name="text"):
    """A line of text; its spelling is itself."""

    extensions: ClassVar[tuple[str, ...]] = ("txt",)
    placeless: ClassVar[bool] = True

    def read(self, data: bytes, extension: str, native: bool = False) -> str:
        try:
            return self.check(data.decode("utf-8-sig").strip())
        except UnicodeDecodeError:
            raise UserError("text is not UTF-8") from None

    def write(self, value: Any) -> bytes:
        return str(value).encode()

    def check(self, value: Any) -> str:
        """A string; what was decoded from bytes that are no text is refused."""
        if not isinstance(value, str):
            raise UserError(f"text must be a string, not {type(value).__name__}")
        control = _CONTROL.search(value)
        if control is not None or value.count(_REPLACED) > _MOST_REPLACED * len(value):
            what = (
                "what is no character" if control is None else f"control character {control[0]!r}"
            )
            raise UserError(f"text holds {what}: is it another kind of file?")
        return value

    def remark(self, value: str) -> str | None:
        if not value:
            return "empty"
        return "characters that could not be decoded" if _REPLACED in value else None

    def measured(self, value: str) -> Mapping[str, np.ndarray]:
        return {"characters": np.array([len(value)]), "words": np.array([len(value.split())])}

    def from_argument(self, text: str) -> str:
        return text

    def line(self, value: Any) -> str:
        return str(value)

    def printed(self, value: Any) -> str:
        return str(value)

    def to_text(self, value: Any, num_bins: int) -> str:
        return self.check(value)

    def from_text(self, line: str, num_bins: int) -> str:
        return line
