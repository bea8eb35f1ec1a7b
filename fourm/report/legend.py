"""What the colours of a gallery's pictures stand for: names of classes, or a scale of numbers."""

from __future__ import annotations

import html

from fourm.raw import Legend
from fourm.report.figures import number


def legend_html(legend: Legend, name: str) -> str:
    """A line below a gallery; nothing where pictures speak for themselves."""
    if legend.is_empty:
        return ""
    if legend.stops:
        stops = ", ".join(_css(color) for color in legend.stops)
        unit = f" {html.escape(legend.unit)}" if legend.unit else ""
        scale = f'<i style="background: linear-gradient(to right, {stops})"></i>'
        shown = f'<span class="scale">{number(legend.low)}{scale}{number(legend.high)}{unit}</span>'
    else:
        shown = "".join(
            f'<span><i style="background: {_css(color)}"></i>{html.escape(entry)}</span>'
            for entry, color in legend.entries
        )
    return f'<div class="legend"><span>{html.escape(name)}:</span>{shown}</div>'


def _css(color: tuple[int, int, int]) -> str:
    return f"rgb({color[0]}, {color[1]}, {color[2]})"
