"""Lines over steps as SVG, for pages that load nothing from elsewhere."""

from __future__ import annotations

import html

Series = dict[str, list[tuple[float, float]]]
_COLORS = [
    "#2563eb",
    "#dc2626",
    "#059669",
    "#d97706",
    "#7c3aed",
    "#0891b2",
    "#be185d",
    "#4d7c0f",
    "#475569",
    "#b45309",
]
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 140, 15, 30  # margins; names of lines stand at the right


def line_chart(series: Series, width: int = 720, height: int = 260) -> str:
    """An ``svg`` element with one line for each name, ticks on both axes and the last values."""
    points = [point for line in series.values() for point in line]
    if not points:
        return '<p class="note">no steps logged yet</p>'
    last = max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)

    def across(x: float) -> float:
        return _LEFT + x / last * (width - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (high - y) / max(high - low, 1e-9) * (height - _TOP - _BOTTOM)

    parts = []
    for y in (low, (low + high) / 2, high):
        ends = f'x1="{_LEFT}" x2="{width - _RIGHT}" y1="{down(y):.0f}" y2="{down(y):.0f}"'
        parts.append(
            f'<line {ends} stroke="currentColor" stroke-opacity=".15"/>'
            + _text(4, down(y) + 4, f"{y:.2f}")
        )
    for x in (0, last / 2, last):
        parts.append(_text(across(x) - 8, height - 8, f"{x:.0f}"))
    for i, (name, line) in enumerate(series.items()):
        color = _COLORS[i % len(_COLORS)]
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        named = f"{html.escape(name)} {line[-1][1]:.2f}"
        parts.append(_text(width - _RIGHT + 10, 24 + 16 * i, named, color, 12))
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def _text(x: float, y: float, text: str, color: str = "currentColor", size: int = 11) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{color}">{text}</text>'
