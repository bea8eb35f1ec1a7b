"""Text: a string, UTF-8 in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fourm.errors import UserError
from fourm.raw._protocol import Raw


@dataclass(frozen=True, kw_only=True)
class Text(Raw, name="text"):
    """A line of text; its spelling is itself."""

    extensions: ClassVar[tuple[str, ...]] = ("txt",)
    placeless: ClassVar[bool] = True

    def read(self, data: bytes, extension: str, native: bool = False) -> str:
        try:
            return data.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UserError("text is not UTF-8") from None

    def write(self, value: Any) -> bytes:
        return str(value).encode()

    def from_argument(self, text: str) -> str:
        return text

    def line(self, value: Any) -> str:
        return str(value)

    def printed(self, value: Any) -> str:
        return str(value)

    def to_text(self, value: Any, num_bins: int) -> str:
        if not isinstance(value, str):
            raise UserError(f"text must be a string, not {type(value).__name__}")
        return value

    def from_text(self, line: str, num_bins: int) -> str:
        return line
