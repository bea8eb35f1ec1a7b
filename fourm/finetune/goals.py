"""What a head is to predict: its loss, and the figures that it is judged by beside what knows
nothing of a sample. Shapes: B samples, C numbers that a head gives (at each pixel).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourm.choices import Choice
from fourm.errors import UserError
from fourm.raw import Raw

_NOTHING = -1  # instead of a class: does not count in a loss


@dataclass(frozen=True, kw_only=True)
class Goal(Choice, family="goal"):
    """One kind of answer. ``unit`` is what is counted."""

    @property
    def unit(self) -> str:
        """What a loss is the mean over."""
        raise NotImplementedError

    @property
    def num_outputs(self) -> int:
        """Numbers that a head gives for an answer, or at each pixel of one."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Pixels of both sides of an answer; 0 for one that has no places."""
        return 0

    def wanted(self, values: Sequence[Any]) -> Tensor:
        """What losses compare with: (B,) or (B, H, W) class numbers, or (B, C, H, W) floats."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Sum over all that is counted; ``outputs`` (B, C) or (B, C, H, W)."""
        raise NotImplementedError

    def count(self, wanted: Tensor) -> float:
        """How much of ``wanted`` counts."""
        raise NotImplementedError

    def answers(self, outputs: np.ndarray) -> list[Any]:
        """Outputs (B, C[, H, W]) of the head as values."""
        raise NotImplementedError

    def figures(self, answers: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        """How good answers are."""
        raise NotImplementedError

    def constant(self, values: Sequence[Any]) -> Any | None:
        """The best answer that knows nothing of a sample; None where there is none."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ClassGoal(Goal, name="classes"):
    """One of some names."""

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(
                f"only {len(self.classes)} class ({', '.join(self.classes) or 'none'}) in the"
                " training split: nothing to learn"
            )

    @property
    def unit(self) -> str:
        return "samples"

    @property
    def num_outputs(self) -> int:
        return len(self.classes)

    def wanted(self, values: Sequence[str]) -> Tensor:
        number = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([number.get(value, _NOTHING) for value in values])

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return _cross_entropy(outputs, wanted)

    def count(self, wanted: Tensor) -> float:
        return float((wanted != _NOTHING).sum())

    def answers(self, outputs: np.ndarray) -> list[str]:
        return [self.classes[i] for i in outputs.argmax(1)]

    def figures(self, answers: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
        right = np.array(answers) == np.array(truth)
        each = [right[np.array(truth) == name].mean() for name in sorted(set(truth))]
        return {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(each))}

    def constant(self, values: Sequence[str]) -> str:
        return Counter(values).most_common(1)[0][0]


@dataclass(frozen=True, kw_only=True)
class MapGoal(Goal, name="map"):
    """A class or numbers at each pixel: a value of a picture-like raw type."""

    raw: Raw

    def __post_init__(self) -> None:
        if not self.raw.has_picture or not self.raw.pixels or not self.size:
            raise UserError(f"values of type {self.raw.type_name} are no maps: take another head")

    @property
    def unit(self) -> str:
        return "pixels"

    @property
    def num_outputs(self) -> int:
        form = self.raw.network_form(1)
        return form.num_classes or form.channels

    @property
    def size(self) -> int:
        return self.raw.network_form(1).image_size

    @property
    def _are_classes(self) -> bool:
        return self.raw.network_form(1).num_classes > 0

    def wanted(self, values: Sequence[Any]) -> Tensor:
        stacked = torch.from_numpy(self.raw.to_network(np.stack(values)))
        if self._are_classes:  # what has no class is the number behind the last one
            return torch.where(stacked < self.num_outputs, stacked, _NOTHING)
        return stacked.permute(0, 3, 1, 2)

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        if self._are_classes:
            return _cross_entropy(outputs, wanted)
        return F.smooth_l1_loss(outputs, wanted, reduction="sum", beta=0.1) / self.num_outputs

    def count(self, wanted: Tensor) -> float:
        if self._are_classes:
            return float((wanted != _NOTHING).sum())
        return float(wanted[:, 0].numel())

    def answers(self, outputs: np.ndarray) -> list[Any]:
        return self.raw.from_network(np.ascontiguousarray(outputs.transpose(0, 2, 3, 1)))

    def figures(self, answers: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        return self.raw.figures(np.stack(answers), np.stack(truth))

    def constant(self, values: Sequence[Any]) -> Any | None:
        return self.raw.baseline(values)


@dataclass(frozen=True, kw_only=True)
class NumbersGoal(Goal, name="numbers"):
    """C numbers of a sample, learned in units of the training samples' deviations from their means
    by squared error.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @staticmethod
    def of(names: tuple[str, ...], values: Sequence[list[float]]) -> NumbersGoal:
        """Of training samples. Raises UserError for numbers that are always the same."""
        lengths = {len(value) for value in values}
        if len(lengths) > 1:
            raise UserError(f"samples have {min(lengths)} to {max(lengths)} numbers: as many each")
        table = np.array(values, np.float64)
        deviation = table.std(0)
        for name, spread, first in zip(names, deviation, table[0], strict=True):
            if not spread:
                raise UserError(f"{name} is {first:g} in all training samples: nothing to learn")
        return NumbersGoal(
            names=names, mean=tuple(table.mean(0).tolist()), deviation=tuple(deviation.tolist())
        )

    @property
    def unit(self) -> str:
        return "samples"

    @property
    def num_outputs(self) -> int:
        return len(self.names)

    def wanted(self, values: Sequence[list[float]]) -> Tensor:
        table = (np.array(values, np.float64) - self.mean) / self.deviation
        return torch.from_numpy(table.astype(np.float32))

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return F.mse_loss(outputs, wanted, reduction="sum") / self.num_outputs

    def count(self, wanted: Tensor) -> float:
        return float(len(wanted))

    def answers(self, outputs: np.ndarray) -> list[list[float]]:
        return (outputs.astype(np.float64) * self.deviation + self.mean).tolist()

    def figures(
        self, answers: Sequence[list[float]], truth: Sequence[list[float]]
    ) -> dict[str, float]:
        """Mean absolute error in the numbers' own unit, of all and of each, and the share of the
        variance that is explained (R2), mean over them.
        """
        said, true = np.array(answers, np.float64), np.array(truth, np.float64)
        each = np.abs(said - true).mean(0)
        unexplained = ((said - true) ** 2).sum(0) / np.maximum(
            ((true - true.mean(0)) ** 2).sum(0), 1e-12
        )
        found = {"mae": float(each.mean()), "r2": float(1 - unexplained.mean())}
        several = zip(self.names, each, strict=True) if len(each) > 1 else ()
        return found | {f"mae {name}": float(error) for name, error in several}

    def constant(self, values: Sequence[list[float]]) -> list[float]:
        return list(self.mean)


def _cross_entropy(outputs: Tensor, wanted: Tensor) -> Tensor:
    return F.cross_entropy(outputs, wanted, ignore_index=_NOTHING, reduction="sum")
