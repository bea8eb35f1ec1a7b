"""Types whose values are lists or mappings as in JSON, spelled as text for sequences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourm.errors import UserError
from fourm.files.json_files import parse_json
from fourm.raw._protocol import Raw


@dataclass(frozen=True, kw_only=True)
class Json(Raw):
    """Base of them. A type says what a value is and, for lists, what its elements are: that tells
    one value from a list of values.
    """

    extensions: ClassVar[tuple[str, ...]] = ("json",)
    form: ClassVar[type] = list
    element: ClassVar[type | tuple[type, ...]] = object

    def read(self, data: bytes, extension: str, native: bool = False) -> Any:
        value = parse_json(data, "the file")
        if not isinstance(value, self.form):
            kind = "object" if self.form is dict else "list"
            raise UserError(f"{self.type_name} must be a JSON {kind}")
        return self.check(value)

    def accept(self, value: Any) -> Any:
        return self.check(value)

    def write(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def is_batch(self, value: Any) -> bool:
        if self.form is dict:
            return super().is_batch(value)
        # an empty list is one empty value
        return super().is_batch(value) and len(value) > 0 and not self.is_element(value[0])

    def is_element(self, first: Any) -> bool:
        """True if a list that begins so is one value."""
        return isinstance(first, self.element)

    def from_argument(self, text: str) -> Any:
        """A file, or the JSON itself."""
        if text.lstrip().startswith(("[", "{")) and not Path(text).is_file():
            return self.read(text.encode(), "json")
        return super().from_argument(text)

    def line(self, value: Any) -> str:
        return self.printed(value)

    def printed(self, value: Any) -> str:
        return json.dumps(value)

    def listed(self, value: Any) -> list[Any]:
        """A value that must be a list; UserError for anything else."""
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{self.type_name} must be a list, not {type(value).__name__}")
        return list(value)
