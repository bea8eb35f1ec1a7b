"""How a modality is given on the page: a widget, found by its raw type.

    widget_of.register(MyType, MyWidget)

``MyType`` is a class of raw types; its widgets are made of a modality. What has none is given as
JSON if it is that, else as a file. A widget's components stand in one panel; their values come back
in their order.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from fourm.app.limits import check_typed, check_upload
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.raw import Raw
from fourm.raw._json import Json

GAP = "[S_1]"


@dataclass
class Widget(ABC):
    """Of one modality."""

    modality: Modality

    rank: ClassVar[int] = 2  # lower ones come first on the page

    @abstractmethod
    def build(self, backdrop: gr.State | None) -> list[Any]:
        """Make its components, in the panel that is open. ``backdrop`` holds the colour picture
        that is given, if the model has any: boxes are drawn over it.
        """

    @abstractmethod
    def value(self, *given: Any) -> Any:
        """What the components hold as an input of the pipeline; None = nothing. Raises UserError
        that says what is wrong and how it should be.
        """

    @abstractmethod
    def shown(self, value: Any) -> list[Any]:
        """What the components are set to so that they hold a raw value."""

    @property
    def holds(self) -> gr.State | None:
        """Where a built widget keeps what it was given, if others may look at it."""
        return None


@singledispatch
def widget_of(raw: Raw) -> Callable[[Modality], Widget]:
    """Makes the widget of modalities of a raw type."""
    return UploadWidget


@dataclass
class TypedWidget(Widget):
    """What is given as a line of text or a few."""

    lines = 1
    hint = ""

    def build(self, backdrop: gr.State | None) -> list[Any]:
        return [self.box()]

    def box(self, **settings: Any) -> gr.Textbox:
        """Where it is typed."""
        return gr.Textbox(
            label=self.modality.name,
            info=self.hint or None,
            placeholder=self.example or None,
            lines=self.lines,
            max_lines=8,
            elem_id=f"given-{self.modality.name}",
            **settings,
        )

    @property
    def example(self) -> str:
        """What stands in the box before anything is typed."""
        return ""

    def value(self, *given: Any) -> Any:
        text = given[0] if isinstance(given[0], str) else ""
        check_typed(text)
        return self.parsed(text.strip()) if text.strip() else None

    def shown(self, value: Any) -> list[Any]:
        return [self.typed(value)]

    @abstractmethod
    def parsed(self, text: str) -> Any:
        """The value of a text that is not empty. Raises UserError."""

    @abstractmethod
    def typed(self, value: Any) -> str:
        """The text of a value."""


@dataclass
class JsonWidget(TypedWidget):
    """Mappings and lists that have no better form: as JSON, or a gap."""

    lines = 3
    hint = "As JSON."

    def parsed(self, text: str) -> Any:
        try:
            return self.modality.raw.read(text.encode(), "json")
        except RecursionError:
            raise UserError(f"{self.modality.name} is nested too deeply") from None

    def typed(self, value: Any) -> str:
        return json.dumps(value)


@dataclass
class UploadWidget(Widget):
    """A file of the type's own kinds."""

    def build(self, backdrop: gr.State | None) -> list[Any]:
        return [upload(self.modality)]

    def value(self, *given: Any) -> Any:
        return None if given[0] is None else uploaded(self.modality, given[0])

    def shown(self, value: Any) -> list[Any]:
        return [None]


def upload(m: Modality) -> gr.File:
    """Where a file of a modality is dropped."""
    kinds = [f".{extension}" for extension in kinds_of(m)]
    return gr.File(
        label=f"{m.name}: drop a file ({', '.join(kinds)})",
        file_types=kinds,
        type="filepath",
        height=130,
        elem_classes="upload",
        elem_id=f"upload-{m.name}",
    )


def kinds_of(m: Modality) -> tuple[str, ...]:
    """Extensions of the files that a modality is read from; arrays for all that has pixels."""
    more = ("npy",) if m.raw.pixels else ()
    return tuple(dict.fromkeys((*m.raw.extensions, *more)))


def uploaded(m: Modality, name: Any) -> Any:
    """The value in a file that came by upload, read as ``fourm generate`` reads it."""
    path = Path(str(name))
    check_upload(path, kinds_of(m))
    try:
        return m.raw.from_argument(str(path))
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


widget_of.register(Json, lambda raw: JsonWidget)
