"""Class maps: class ids (H, W), their names and colours in the modality's settings.

An ``ignore`` id marks what has no class (it may be one of the classes or any other number): shown
grey, left out of figures and of what a tokenizer learns, and never predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import PIL.Image

from fourm.config import ADDED
from fourm.data.pictures import write_png
from fourm.errors import UserError
from fourm.evaluation.metrics import class_figures
from fourm.raw._colors import IGNORED, class_colors, color_of
from fourm.raw._dense import Dense, with_channels
from fourm.raw._legend import Color, Legend
from fourm.raw._protocol import NetworkForm

_MOST_IDS = 65536
_NO_CLASS = "(ignored)"


@dataclass(frozen=True, kw_only=True)
class Labels(Dense, name="labels"):
    """Ids are uint8 up to 255, uint16 beyond. They are never mixed: resizing takes the nearest."""

    classes: tuple[str, ...] = ()  # name of each id
    # of each class, [r, g, b] or "#rrggbb"; none = distinct ones
    colors: tuple[Color | str, ...] = field(default=(), repr=False, metadata=ADDED)
    ignore: int | None = field(default=None, metadata=ADDED)

    extensions: ClassVar[tuple[str, ...]] = ("png", "npy")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise UserError("raw type labels needs the list of its classes")
        if self.colors and len(self.colors) != len(self.classes):
            raise UserError(f"{len(self.colors)} colors for {len(self.classes)} classes")
        if self.ignore is not None and not 0 <= self.ignore < _MOST_IDS:
            raise UserError(f"ignore {self.ignore} is no id in 0..{_MOST_IDS - 1}")
        object.__setattr__(self, "colors", tuple(color_of(color) for color in self.colors))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size)

    @property
    def data_form(self) -> Self:
        return replace(self, colors=())

    @property
    def num_classes(self) -> int:
        """Ids that have a name."""
        return len(self.classes)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Type of the ids."""
        return np.uint8 if max(self.num_classes - 1, self.ignore or 0) < 256 else np.uint16

    @cached_property
    def table(self) -> np.ndarray:
        """Colour of every id that a value may hold, uint8 (ids, 3)."""
        table = np.full((max(self.num_classes, (self.ignore or 0) + 1), 3), IGNORED, np.uint8)
        table[: self.num_classes] = self.colors or class_colors(self.num_classes)
        if self.ignore is not None:
            table[self.ignore] = IGNORED
        return table

    def write(self, value: Any) -> bytes:
        return write_png(self.check(value))

    def check(self, value: Any) -> np.ndarray:
        array = self.shaped(value)
        if array.dtype.kind not in "iu":
            raise UserError(f"labels must be class ids, whole numbers, not {array.dtype}")
        strange = (array < 0) | (array >= self.num_classes)
        if self.ignore is not None:
            strange &= array != self.ignore
        if strange.any():
            found = ", ".join(map(str, np.unique(array[strange])[:4].tolist()))
            hint = "; what has no class is named by ignore" if self.ignore is None else ""
            raise UserError(
                f"labels must be class ids in 0..{self.num_classes - 1}, not {found}{hint}"
            )
        return array.astype(self.dtype)

    def counted(self, value: Any) -> Mapping[str, int]:
        counts = np.bincount(np.asarray(value).reshape(-1))
        return {
            self._name(number): int(counts[number]) for number in np.flatnonzero(counts).tolist()
        }

    def _name(self, number: int) -> str:
        return _NO_CLASS if number == self.ignore else self.classes[number]

    def to_floats(self, values: np.ndarray) -> np.ndarray:
        """Ids as numbers: -1 for the first class, 2 more for each next one."""
        return with_channels(values).astype(np.float32) * 2.0 - 1.0

    def network_form(self, patch_size: int) -> NetworkForm:
        return NetworkForm(image_size=self.size, num_classes=self.num_classes)

    def to_network(self, values: np.ndarray) -> np.ndarray:
        """Ids; what has none is the number behind the last class."""
        ids = values.astype(np.int64)
        return ids if self.ignore is None else np.where(ids == self.ignore, self.num_classes, ids)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        if self.ignore is not None and self.ignore < self.num_classes:
            output = output.copy()
            output[..., self.ignore] = -np.inf
        return list(output.argmax(-1).astype(self.dtype))

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        """Of what has a class in truth."""
        if self.ignore is not None:
            classed = truth != self.ignore
            mask = classed if mask is None else mask & classed
        return class_figures(predicted, truth, self.num_classes, mask)

    def baseline(self, values: Sequence[Any]) -> np.ndarray:
        """The most frequent class everywhere."""
        counts = np.zeros(len(self.table), np.int64)
        for value in values:
            counts += np.bincount(np.asarray(value).reshape(-1), minlength=len(counts))
        if self.ignore is not None:
            counts[self.ignore] = -1
        return np.full(self.shape, counts[: self.num_classes].argmax(), self.dtype)

    def scaled(self, value: np.ndarray) -> np.ndarray:
        size = (self.size, self.size)
        return np.asarray(PIL.Image.fromarray(value).resize(size, PIL.Image.Resampling.NEAREST))

    def picture(self, value: Any) -> PIL.Image.Image:
        return PIL.Image.fromarray(self.table[np.asarray(value)])

    def legend(self, over: tuple[float, float] | None = None) -> Legend:
        colors = [(int(r), int(g), int(b)) for r, g, b in self.table]
        entries = [(name, colors[i]) for i, name in enumerate(self.classes) if i != self.ignore]
        nothing = [] if self.ignore is None else [(_NO_CLASS, IGNORED)]
        return Legend(entries=tuple([*entries, *nothing]))
