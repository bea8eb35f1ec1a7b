"""Curves of a run from its ``log.jsonl``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from fourm.report.line_chart import Series

_SMOOTHED = 20  # steps that one point is the mean of


@dataclass(frozen=True)
class Curves:
    """Loss and its terms, in training and on held-out samples."""

    training: Series = field(default_factory=dict)
    held_out: Series = field(default_factory=dict)

    def only(self, *names: str) -> Curves:
        """Some of the lines."""
        return Curves(
            {n: p for n, p in self.training.items() if n in names},
            {n: p for n, p in self.held_out.items() if n in names},
        )


def read_curves(log: str | Path, smooth: int = _SMOOTHED) -> Curves:
    """The curves of a log; steps in training are averaged over ``smooth`` of them."""
    curves = Curves()
    pending: dict[str, list[float]] = {}
    for line in Path(log).read_text().splitlines():
        record = json.loads(line)
        step = record.get("step", 0)
        for name, value in record.get("eval", {}).items():
            curves.held_out.setdefault(name.removeprefix("loss/"), []).append((step, value))
        if "loss" not in record:
            continue
        for name, value in {"loss": record["loss"], **record["terms"]}.items():
            pending.setdefault(name, []).append(value)
        if step % smooth == 0:
            for name, values in pending.items():
                curves.training.setdefault(name, []).append((step, sum(values) / len(values)))
            pending = {}
    return curves
