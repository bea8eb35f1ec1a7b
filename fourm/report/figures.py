"""Numbers as a reader wants them: between what costs nothing and what cannot be passed, with a
goal, and with what chance alone would move them.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Goals = Mapping[tuple[str, str], tuple[str, float]]  # (task, metric) -> (">=" or "<=", value)

_WIDTH, _HEIGHT = 160, 14  # of the bar, in units of its own


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric of one task on held-out samples.

    ``baseline`` is what costs nothing (a mean, a majority, another sample's truth), ``bound`` what
    the tokenizers allow; None where there is none.
    """

    task: str
    metric: str
    value: float
    baseline: float | None = None
    bound: float | None = None
    num_samples: int | None = None
    deviation: float | None = None  # standard, of the value, by the choice of samples
    goal: tuple[str, float] | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        sign, wanted = self.goal
        return self.value >= wanted if sign == ">=" else self.value <= wanted

    @property
    def share(self) -> float | None:
        """How far from the baseline (0) to the bound (1)."""
        if self.baseline is None or self.bound is None or self.bound == self.baseline:
            return None
        return (self.value - self.baseline) / (self.bound - self.baseline)


def read_figures(metrics: Mapping[str, Any], goals: Goals | None = None) -> Iterator[Figure]:
    """The figures of a ``metrics.json``: {task: {metric: {value, baseline, bound, n}}}."""
    for task, figures in metrics.items():
        if task == "seconds":
            continue
        for metric, figure in figures.items():
            yield Figure(
                task=task,
                metric=metric,
                value=figure["value"],
                baseline=figure.get("baseline"),
                bound=figure.get("bound"),
                num_samples=figure.get("n"),
                deviation=figure.get("deviation"),
                goal=(goals or {}).get((task, metric)),
            )


def number(value: float | None) -> str:
    """Four digits that matter; a dash for what is not known."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def summary(figures: Iterable[Figure]) -> str:
    """Figures as lines of a terminal; those that miss their goal say so."""
    lines = [
        f"\n{'task':26s} {'metric':20s} {'value':>8s} {'goal':>9s} {'baseline':>9s} {'bound':>7s}"
    ]
    for f in figures:
        goal = "" if f.goal is None else f"{f.goal[0]} {f.goal[1]:.3f}"
        missed = "   missed" if f.is_met is False else ""
        shown = f"{f.task:26s} {f.metric:20s} {number(f.value):>8s} {goal:>9s}"
        lines.append(f"{shown} {number(f.baseline):>9s} {number(f.bound):>7s}{missed}")
    return "\n".join(lines)


def headline(figure: Figure) -> str:
    """A figure as a card at the top of the page."""
    name = f"{html.escape(figure.task)} · {html.escape(figure.metric)}"
    bounds = f"{number(figure.baseline)} costs nothing, {number(figure.bound)} is the bound"
    known = figure.baseline is not None and figure.bound is not None
    below = f"<br><span>{bounds}</span>" if known else ""
    return (
        f'<div class="headline"><span>{name}</span><b>{number(figure.value)}</b>'
        f"{bar(figure)}{below}</div>"
    )


def row(figure: Figure) -> list[str]:
    """A figure as cells of HTML."""
    mark = ""
    if figure.goal is not None:
        sign, wanted = figure.goal
        style = "good" if figure.is_met else "bad"
        mark = f'<span class="{style}">{html.escape(sign)} {wanted:.3g}</span>'
    known = "" if figure.deviation is None else f" (± {figure.deviation:.3f})"
    return [
        html.escape(figure.task),
        html.escape(figure.metric),
        f"<b>{number(figure.value)}</b>",
        mark,
        number(figure.baseline),
        bar(figure),
        number(figure.bound),
        f"{figure.num_samples or '-'}{known}",
    ]


COLUMNS = ["task", "metric", "value", "goal", "baseline", "", "bound", "samples"]


def bar(figure: Figure) -> str:
    """Where the value lies between baseline (left) and bound (right), drawn."""
    if figure.share is None:
        return ""
    across = _WIDTH * min(1.0, max(0.0, figure.share))
    middle = _HEIGHT / 2
    told = f"{100 * figure.share:.0f} % of the way from the baseline to the bound"
    box = f'viewBox="-5 0 {_WIDTH + 10} {_HEIGHT}" preserveAspectRatio="xMinYMid"'
    line = f'x1="0" y1="{middle}" y2="{middle}" stroke-width="4" stroke-linecap="round"'
    return (
        f'<svg class="between" role="img" aria-label="{told}" {box}><title>{told}</title>'
        f'<line {line} x2="{_WIDTH}" stroke="var(--line)"/>'
        f'<line {line} x2="{across:.1f}" stroke="var(--mark)"/>'
        f'<circle cx="{across:.1f}" cy="{middle}" r="4.5" fill="var(--mark)"/></svg>'
    )
