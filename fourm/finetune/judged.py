"""What came of a fine-tuning: held-out figures beside those of what knows nothing of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fourm.config import to_mapping
from fourm.data.shards import write_json_atomic
from fourm.files.formats import FORMAT

DONE = "done.json"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The end of a run, as ``done.json`` has it."""

    step: int
    target: str
    inputs: tuple[str, ...]
    learned: str  # how, in words
    num_train: int
    num_held_out: int
    learning: int  # numbers of the model that learned, heads not counted
    of: int  # all that could have
    figures: dict[str, float]
    baseline: dict[str, float]  # of the best answer that is the same for all samples
    upper: dict[str, float]  # of the tokenizer's reconstruction, where there is one

    def text(self) -> str:
        """A table for a terminal."""
        share = f"{self.learning:,} of {self.of:,} numbers"
        lines = [
            f"{'+'.join(self.inputs)} -> {self.target}, {self.learned} ({share}),"
            f" {self.num_train} samples; {self.num_held_out} held out"
        ]
        bounds = [("constant", self.baseline), ("tokenizer", self.upper)]
        shown = [(name, bound) for name, bound in bounds if bound]
        head = "".join(f"{name:>13}" for name in ("figure", *(name for name, _ in shown)))
        lines.append(f"{'':<18}{head}")
        for name, value in self.figures.items():
            others = "".join(f"{_number(bound.get(name)):>13}" for _, bound in shown)
            lines.append(f"{name:<18}{_number(value):>13}{others}")
        return "\n".join(lines)

    def write(self, out: Path) -> None:
        """``done.json``."""
        write_json_atomic(out / DONE, {"format": FORMAT, **to_mapping(self)})


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
