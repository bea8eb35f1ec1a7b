"""Lines over steps as SVG, for pages that load nothing from elsewhere.

Colours of lines that belong together (a loss in training and on held-out samples) are the same; the
held-out one is dashed. A script of the page tells the values under the pointer.
"""

from __future__ import annotations

import html
import json
import math

Points = list[tuple[float, float]]
Series = dict[str, Points]
_COLORS = [
    "#3b82f6",
    "#ef4444",
    "#10b981",
    "#d97706",
    "#8b5cf6",
    "#0891b2",
    "#ec4899",
    "#65a30d",
    "#64748b",
    "#b45309",
]
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 15, 30  # margins; names of lines stand at the right
_LINE = 16  # between names
_MOST_POINTS = 400
_LOG_RATIO = 20  # values that differ by more are drawn on a logarithmic scale


def line_chart(
    series: Series, held_out: Series | None = None, width: int = 860, height: int = 300
) -> str:
    """A chart with one line for each name, ticks on both axes and the last values.

    Args:
        series: points (step, value) by name.
        held_out: the same on held-out samples, dashed, in the colours of their names.
    """
    lines = [(name, points, False) for name, points in series.items() if points]
    lines += [(name, points, True) for name, points in (held_out or {}).items() if points]
    if not lines:
        return '<p class="note">no steps logged yet</p>'
    height = max(height, _TOP + _BOTTOM + _LINE * len(lines))
    values = [y for _, points, _ in lines for _, y in points if math.isfinite(y)]
    axes = _Axes(max(x for _, p, _ in lines for x, _ in p), min(values), max(values), width, height)
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(series)}
    parts = axes.grid()
    for i, (name, points, dashed) in enumerate(lines):
        parts.append(_line(axes, name, _thinned(points), colors.get(name, "#64748b"), dashed, i))
    box = f'viewBox="0 0 {width} {height}" role="img"'
    told = ", ".join(f"{name} ends at {points[-1][1]:.3g}" for name, points, _ in lines)
    drawn = f"<svg {box} aria-label={json.dumps(html.escape(told))}>{''.join(parts)}</svg>"
    return f'<div class="chart">{drawn}<output></output></div>'


class _Axes:
    def __init__(self, last: float, low: float, high: float, width: int, height: int) -> None:
        self.last, self.low, self.high = max(last, 1e-9), low, high
        self.width, self.height = width, height
        self.is_log = low > 0 and high / low > _LOG_RATIO

    def across(self, x: float) -> float:
        return _LEFT + x / self.last * (self.width - _LEFT - _RIGHT)

    def down(self, y: float) -> float:
        scale = math.log if self.is_log else float
        low, high = scale(self.low), scale(self.high)
        y = scale(min(max(y, self.low), self.high))
        return _TOP + (high - y) / max(high - low, 1e-9) * (self.height - _TOP - _BOTTOM)

    def grid(self) -> list[str]:
        middle = math.sqrt(self.low * self.high) if self.is_log else (self.low + self.high) / 2
        parts = []
        for y in (self.low, middle, self.high):
            ends = f'x1="{_LEFT}" x2="{self.width - _RIGHT}"'
            at = f'y1="{self.down(y):.0f}" y2="{self.down(y):.0f}"'
            parts.append(f'<line class="grid" {ends} {at}/>')
            parts.append(_text(4, self.down(y) + 4, f"{y:.3g}"))
        for x in (0, self.last / 2, self.last):
            parts.append(_text(self.across(x) - 8, self.height - 8, f"{x:.0f}"))
        if self.is_log:
            parts.append(_text(4, self.height - 8, "log"))
        return parts


def _line(axes: _Axes, name: str, points: Points, color: str, dashed: bool, i: int) -> str:
    path = " ".join(f"{axes.across(x):.1f},{axes.down(y):.1f}" for x, y in points)
    label = f"{name} (held out)" if dashed else name
    style = ' stroke-dasharray="5 4"' if dashed else ""
    kept = json.dumps([[x, float(f"{y:.5g}")] for x, y in points])
    line = (
        f'<polyline data-name="{html.escape(label)}" data-points="{kept}" points="{path}"'
        f' fill="none" stroke="{color}" stroke-width="1.8"{style}/>'
    )
    last = f'cx="{axes.across(points[-1][0]):.1f}" cy="{axes.down(points[-1][1]):.1f}"'
    line += f'<circle {last} r="2.5" fill="{color}"/>'  # all there is of a line of one point
    named = f"{html.escape(label)} {points[-1][1]:.3g}"
    at = (axes.width - _RIGHT + 10, _TOP + 9 + _LINE * i)
    return line + _text(*at, named, f' style="fill: {color}"', 12)


def _thinned(points: Points) -> Points:
    """At most so many points that no line is drawn over itself, the last among them."""
    step = -(-len(points) // _MOST_POINTS)
    return points[::-1][::step][::-1]


def _text(x: float, y: float, text: str, style: str = "", size: int = 11) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}"{style}>{text}</text>'
