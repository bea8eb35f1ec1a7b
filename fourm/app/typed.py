"""Widgets of what is typed: text with gaps, words, numbers, places, vectors, palettes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from PIL import Image

from fourm.app.pad import Pad, data_url, drawn
from fourm.app.telling import QUIET, told
from fourm.app.widget import GAP, TypedWidget, UploadWidget, Widget, widget_of
from fourm.errors import UserError
from fourm.raw import Raw
from fourm.raw.numbers import Numbers
from fourm.raw.palette import Palette
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm.raw.words import Words

_SPACE = 3  # channels of a vector in space
_FEW = 16  # channels of a vector that is typed
_DIVIDERS = re.compile(r"[\s,;]+")
_IS_GAP = re.compile(r"\[S_\d+\]")
_DEGREES = (-180.0, 180.0)


@dataclass
class TextWidget(TypedWidget):
    """Text; ``[S_1]`` stands for words that are to be found."""

    rank: ClassVar[int] = 0
    lines = 2
    hint = f"Write {GAP} where words are to be filled in, for instance: a small {GAP} cube"

    def parsed(self, text: str) -> Any:
        return self.modality.raw.check(text)

    def typed(self, value: Any) -> str:
        return str(value)


@dataclass
class WordsWidget(TypedWidget):
    """Words with commas between them."""

    hint = f"Words with commas between them; {GAP} for one that is to be found."

    def parsed(self, text: str) -> Any:
        return [word.strip() for word in text.split(",") if word.strip()]

    def typed(self, value: Any) -> str:
        return ", ".join(value)


@dataclass
class NumbersWidget(TypedWidget):
    """Numbers with blanks or commas between them."""

    hint = f"Numbers with blanks between them; {GAP} for one that is to be found."

    def parsed(self, text: str) -> Any:
        return [
            part if _IS_GAP.fullmatch(part) else _number(part, self.modality.name)
            for part in _DIVIDERS.split(text)
            if part
        ]

    def typed(self, value: Any) -> str:
        return " ".join(f"{number:.5g}" for number in value)


@dataclass
class PlaceWidget(NumbersWidget):
    """Latitude and longitude: typed, or a place of the Earth's map that is clicked."""

    hint = "Latitude and longitude in degrees, or click a place."

    @property
    def example(self) -> str:
        return "46.5 6.6"

    def build(self, backdrop: gr.State | None) -> list[Any]:
        box = self.box()
        world = _world(self.modality.name)
        world.input(told(_place), world, box, **QUIET)
        return [box]


@dataclass
class VectorWidget(NumbersWidget):
    """A vector a line."""

    lines = 1

    @property
    def hint(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What a line holds."""
        channels = self.modality.raw.num_channels
        return f"A vector a line: {channels} numbers with blanks between them."

    def parsed(self, text: str) -> Any:
        return self.modality.raw.accept(
            [
                [_number(part, self.modality.name) for part in _DIVIDERS.split(line) if part]
                for line in text.splitlines()
                if line.strip()
            ]
        )

    def typed(self, value: Any) -> str:
        return "\n".join(" ".join(f"{number:.5g}" for number in row) for row in value)


@dataclass
class DirectionWidget(VectorWidget):
    """A vector in space; of directions from the Earth's centre a place can be clicked."""

    def build(self, backdrop: gr.State | None) -> list[Any]:
        box = self.box()
        world = _world(self.modality.name, "If it points from the Earth's centre: click a place.")
        world.input(told(_direction), world, box, **QUIET)
        return [box]


@dataclass
class PaletteWidget(TypedWidget):
    """Colours as ``#rrggbb``, typed or picked."""

    hint = "Colours like #cc3311 with blanks between them, or pick them one by one."

    def build(self, backdrop: gr.State | None) -> list[Any]:
        box = self.box()
        with gr.Row():
            picked = gr.ColorPicker(value="#cc3311", label="a colour", min_width=80)
            add = gr.Button("Add this colour", size="sm", min_width=80)
        add.click(told(_with_color), [box, picked], box, **QUIET)
        return [box]

    def parsed(self, text: str) -> Any:
        parts = [part for part in _DIVIDERS.split(text) if part]
        for part in parts:
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", part):
                raise UserError(f"{part!r} is no colour: write it like #cc3311")
        return [[int(part[i : i + 2], 16) for i in (1, 3, 5)] for part in parts]

    def typed(self, value: Any) -> str:
        return " ".join("#" + "".join(f"{round(part):02x}" for part in color) for color in value)


def _number(part: str, name: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise UserError(f"{part!r} in {name} is no number") from None


def _world(name: str, note: str = "") -> gr.HTML:
    """A map of the Earth on which places are chosen."""
    picture = data_url(Image.open(Path(__file__).with_name("world.png")))
    says = f"{name}: a map of the Earth. Arrow keys move, Enter chooses."
    return Pad(tool="place", says=says, aspect=2.0, note=note).build(picture, elem_id=f"pad-{name}")


def _degrees(chosen: Any) -> tuple[float, float]:
    """Latitude and longitude of what was clicked."""
    x, y = drawn(chosen, 2)
    return 90 - 180 * y, 360 * x - 180


def _place(chosen: Any) -> str:
    latitude, longitude = _degrees(chosen)
    return f"{latitude:.1f} {longitude:.1f}"


def _direction(chosen: Any) -> str:
    """A unit vector: towards longitude 0 on the equator, 90 degrees east of it, the north."""
    latitude, longitude = map(math.radians, _degrees(chosen))
    flat = math.cos(latitude)
    vector = (flat * math.cos(longitude), flat * math.sin(longitude), math.sin(latitude))
    return " ".join(f"{number:.4f}" for number in vector)


def _with_color(text: str, color: str) -> str:
    """The text and one colour more; pickers give ``#rrggbb`` or ``rgba(r, g, b, a)``."""
    numbers = [round(float(n)) for n in re.findall(r"[\d.]+", color)[:3]]
    is_hex = color.startswith("#")
    added = color[:7] if is_hex else "#" + "".join(f"{min(n, 255):02x}" for n in numbers)
    return f"{text or ''} {added}".strip()


def _of_numbers(raw: Raw) -> type[Widget]:
    """Degrees all around the Earth are a place."""
    assert isinstance(raw, Numbers)
    return PlaceWidget if raw.range == _DEGREES else NumbersWidget


def _of_vectors(raw: Raw) -> type[Widget]:
    if raw.num_channels == _SPACE:
        return DirectionWidget
    return VectorWidget if raw.num_channels <= _FEW else UploadWidget


widget_of.register(Text, lambda raw: TextWidget)
widget_of.register(Words, lambda raw: WordsWidget)
widget_of.register(Palette, lambda raw: PaletteWidget)
widget_of.register(Numbers, _of_numbers)
widget_of.register(Vectors, _of_vectors)
