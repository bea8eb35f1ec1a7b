"""Widgets of what has pixels: a file of any size, and what is painted over it.

Parts that are painted out are left open and made anew; class maps are painted with the names of
their classes, and what stays bare is left open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gradio as gr
import numpy as np

from fourm.app.pad import BARE, MOST_INKS, MOST_SIDE, OPEN, Ink, Pad, data_url, painted
from fourm.app.telling import QUIET, told
from fourm.app.widget import Widget, upload, uploaded, widget_of
from fourm.pipeline.given import Partial
from fourm.raw._dense import Dense
from fourm.raw.labels import Labels

_OPEN_INK = Ink(OPEN, "leave open", (230, 60, 130, 200))


@dataclass
class PictureWidget(Widget):
    """A file, the picture of it as the model sees it, and a brush that takes parts away."""

    rank: ClassVar[int] = 1

    _held: gr.State | None = field(default=None, repr=False)

    @property
    def inks(self) -> Sequence[Ink]:
        """What can be painted."""
        return [_OPEN_INK] if self.can_be_painted else []

    @property
    def can_be_painted(self) -> bool:
        """True where the pipeline takes parts of a value, and a browser has room for its cells."""
        return self.modality.kind == "grid" and self.modality.raw.pixels <= MOST_SIDE

    @property
    def holds(self) -> gr.State | None:
        return self._held

    @property
    def surface(self) -> Pad:
        """What is painted on, or only looked at."""
        return Pad(
            tool="paint" if self.inks else "none",
            says=f"{self.modality.name}. Arrow keys move the brush, Enter paints.",
            side=self.modality.raw.pixels,
            inks=self.inks,
            note=self.says,
        )

    @property
    def says(self) -> str:
        """What there is to do, in a sentence."""
        if not self.can_be_painted:
            return ""
        return "Paint over what is to be made anew, and choose it under Make, too."

    def build(self, backdrop: gr.State | None) -> list[Any]:
        name = self.modality.name
        file = upload(self.modality)
        self._held = held = gr.State(None)
        surface = self.surface.build(visible=self.is_painted_from_nothing, elem_id=f"pad-{name}")
        file.upload(told(self._opened), file, [held, surface], **QUIET)
        file.clear(self._emptied, None, [held, surface], **QUIET)
        return [held, surface, file]

    @property
    def is_painted_from_nothing(self) -> bool:
        """True if a painting alone is a value."""
        return False

    def value(self, *given: Any) -> Any:
        held, layer = given[:2]
        cells = painted(layer if self.inks else None, self.modality.raw.pixels)
        if held is None and not (cells < OPEN).any():
            return None
        array, keep = self._combined(held, cells)
        if not keep.any():
            return None
        return array if keep.all() else Partial(array, keep)

    def _combined(self, held: Any, cells: np.ndarray) -> tuple[Any, np.ndarray]:
        """The value, and which of its pixels are given."""
        return held, cells != OPEN

    def shown(self, value: Any) -> list[Any]:
        picture = data_url(self.modality.raw.picture(value))
        return [value, self.surface.changed(picture, value="", visible=True), None]

    def _opened(self, name: Any) -> list[Any]:
        return self.shown(uploaded(self.modality, name))[:2]

    def _emptied(self) -> list[Any]:
        visible = self.is_painted_from_nothing
        return [None, self.surface.changed("", value="", visible=visible)]


@dataclass
class LabelsWidget(PictureWidget):
    """A class map: painted, or a file with ids that can be painted over."""

    @property
    def _raw(self) -> Labels:
        assert isinstance(self.modality.raw, Labels)
        return self.modality.raw

    @property
    def inks(self) -> Sequence[Ink]:
        if not self.can_be_painted or self._raw.num_classes > MOST_INKS:
            return super().inks
        classes = [
            Ink(i, name, (*self._raw.table[i].tolist(), 255))
            for i, name in enumerate(self._raw.classes)
            if i != self._raw.ignore
        ]
        return [*classes, _OPEN_INK]

    @property
    def is_painted_from_nothing(self) -> bool:
        return len(self.inks) > 1

    @property
    def says(self) -> str:
        if not self.is_painted_from_nothing:
            return super().says
        return "Paint classes, or drop a file above; what stays bare is left open."

    def _combined(self, held: Any, cells: np.ndarray) -> tuple[Any, np.ndarray]:
        is_class = cells < OPEN
        if held is None:
            held, keep = np.zeros(self._raw.shape, self._raw.dtype), is_class
        else:
            keep = cells != OPEN
        return self._raw.check(np.where(is_class, cells, held)), keep


assert OPEN < BARE

widget_of.register(Dense, lambda raw: PictureWidget)
widget_of.register(Labels, lambda raw: LabelsWidget)
