"""The panels of what can be given: a widget each, open where its modality is ticked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from fourm.app import boxes as boxes  # these register their widgets
from fourm.app import pictures as pictures
from fourm.app import typed as typed
from fourm.app.widget import Widget, widget_of
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image


@dataclass(frozen=True)
class Panel:
    """A widget with its components and the column that they stand in."""

    widget: Widget
    column: Any
    components: list[Any]

    @property
    def name(self) -> str:
        """Of its modality."""
        return self.widget.modality.name


@dataclass(frozen=True)
class Panels:
    """All of a page."""

    panels: list[Panel]

    @classmethod
    def build(cls, modalities: ModalitySet, is_open: Sequence[str]) -> Panels:
        """Make them where the page is being made."""
        found: list[Panel] = []
        backdrop = None
        for widget in widgets_of(modalities):
            name = widget.modality.name
            with gr.Column(visible=name in is_open, elem_id=f"panel-{name}") as column:
                found.append(Panel(widget, column, widget.build(backdrop)))
            if isinstance(widget.modality.raw, Image):
                backdrop = backdrop or widget.holds
        return cls(found)

    def unwanted(self, text: Any) -> dict[str, Any]:
        """What was typed as not wanted, by the modality that says it. Raises UserError."""
        widget = speaking([panel.widget for panel in self.panels])
        value = widget.value(text) if widget is not None else None
        return {} if widget is None or value is None else {widget.modality.name: value}

    @property
    def columns(self) -> list[Any]:
        """That are shown or not."""
        return [panel.column for panel in self.panels]

    @property
    def components(self) -> list[Any]:
        """Of all panels, in order."""
        return [component for panel in self.panels for component in panel.components]

    def show(self, ticked: Sequence[str]) -> list[Any]:
        """What the columns become."""
        return [gr.Column(visible=panel.name in ticked) for panel in self.panels]

    def given(self, ticked: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
        """Inputs of the open panels from the values of all components; None = left empty.

        Raises UserError.
        """
        given, start = {}, 0
        for panel in self.panels:
            own = values[start : start + len(panel.components)]
            start += len(own)
            if panel.name in ticked:
                given[panel.name] = panel.widget.value(*own)
        return given

    def filled(self, values: Mapping[str, Any]) -> list[Any]:
        """What all components become so that some panels hold these values."""
        changed: list[Any] = []
        for panel in self.panels:
            if panel.name in values:
                changed += panel.widget.shown(values[panel.name])
            else:
                changed += [gr.skip() for _ in panel.components]
        return changed

    def of(self, m: Modality) -> Panel:
        """The panel in which values of a modality are given."""
        return next(p for p in self.panels if p.widget.modality.raw_name == m.raw_name)

    def can_take(self, m: Modality) -> bool:
        """True if a result of a modality can be given again."""
        return any(p.widget.modality.raw_name == m.raw_name for p in self.panels)


def widgets_of(modalities: ModalitySet) -> list[Widget]:
    """One for each raw form that the model takes; text comes first, then pictures.

    Of several modalities that are made of the same (pixels and tokens of a picture) it is the one
    of which parts can be given.
    """
    shown: dict[str, Modality] = {}
    for m in modalities.inputs:
        before = shown.get(m.raw_name)
        alike = before is not None and type(before.raw) is type(m.raw)
        if before is None or (alike and before.kind != "grid" and m.kind == "grid"):
            shown[m.raw_name] = m
    widgets = [widget_of(m.raw)(m) for m in shown.values()]
    return sorted(widgets, key=lambda widget: widget.rank)


def speaking(widgets: Sequence[Widget]) -> Widget | None:
    """The widget by which what is not wanted is said: the first of a text."""
    return next((w for w in widgets if isinstance(w, typed.TextWidget)), None)
