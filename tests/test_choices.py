"""Kinds of things are chosen by name: here, elsewhere, with settings of their own.

Typos are named, in YAML and in Python.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from fourm.choices import Choice
from fourm.config import check_fields, from_mapping, to_mapping
from fourm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Shape(Choice, family="shape"):
    def area(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Square(Shape, name="square"):
    side: float = 1.0

    def area(self) -> float:
        return self.side**2


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Shape):
    width: int

    def area(self) -> float:
        return 2.0 * self.width


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Shape
    other: Shape | None = None


def test_a_kind_is_named_alone_or_with_its_settings_and_written_back():
    assert from_mapping(Drawing, {"shape": "square"}, "f").shape == Square()
    drawing = from_mapping(Drawing, {"shape": {"type": "square", "side": 3}}, "f")
    assert drawing.shape.area() == 9.0
    assert to_mapping(drawing) == {"shape": {"type": "square", "side": 3.0}, "other": None}
    assert from_mapping(Drawing, to_mapping(drawing), "f") == drawing


def test_a_kind_that_lies_elsewhere_is_found_by_its_place():
    place = f"{Elsewhere.__module__}:Elsewhere"
    drawing = from_mapping(Drawing, {"shape": {"type": place, "width": 2}}, "f")
    assert isinstance(drawing.shape, Elsewhere) and drawing.shape.area() == 4.0
    assert to_mapping(drawing)["shape"]["type"] == place


@pytest.mark.parametrize(
    "value, message",
    [
        ("squre", "f: shape: shape 'squre' is not one of square .* did you mean 'square'"),
        ({"type": "square", "sid": 3}, "unknown key 'sid'; did you mean 'side'"),
        ({"side": 3}, "a mapping with 'type'"),
        ("no.such.module:Thing", "cannot be imported.* export PYTHONPATH=FOLDER"),
        ("fourm.errors:UserError", "is no Shape"),
        ({"type": f"{__name__}:Elsewhere"}, "missing key 'width'"),
    ],
)
def test_a_wrong_choice_is_named_with_what_could_be_meant(value, message):
    with pytest.raises(UserError, match=message):
        from_mapping(Drawing, {"shape": value}, "f")


@dataclass(frozen=True, kw_only=True)
class Print:
    shape: Shape
    paper: Literal["matt", "gloss"] = "matt"
    copies: int = 1

    def __post_init__(self) -> None:
        check_fields(self)


def test_what_is_made_in_python_is_checked_as_what_is_read():
    made = Print(shape="square", copies=np.int64(2))
    assert made == from_mapping(Print, {"shape": "square", "copies": 2}, "f")
    assert isinstance(made.shape, Square) and type(made.copies) is int
    for wrong, message in (
        ({"shape": "squre"}, "shape: shape 'squre' .* did you mean 'square'"),
        ({"shape": Square(), "paper": "mat"}, "paper: 'mat' .* did you mean 'matt'"),
        ({"shape": Square(), "copies": True}, "copies: expected int, found True"),
    ):
        with pytest.raises(UserError, match=message):
            Print(**wrong)
