"""What a batch's targets are scored by: one object for each idea, so that the model knows none.

An objective maps the targets of one modality to the sum of their losses. ``CrossEntropy`` is 4M's;
``ZLoss`` adds the squared log-partition, which keeps logits from drifting in half precision
(PaLM, 2204.02311); ``Distilled`` mixes in a teacher's probabilities for the same batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fourm.choices import Choice
from fourm.errors import UserError
from fourm.model.embedding import Head
from fourm.model.loss import linear_cross_entropy, soft_cross_entropy


@dataclass(frozen=True)
class Targets:
    """The target rows of one modality in a batch, and what they should say."""

    rows: Tensor  # (n, D) decoder output
    head: Head
    ids: Tensor  # (n,)
    vocab: str
    part: slice  # where the rows are among all of the batch, sorted by modality


@dataclass(frozen=True, kw_only=True)
class Objective(Choice, ABC, family="objective"):
    """Scores the targets of one modality."""

    @abstractmethod
    def __call__(self, targets: Targets) -> Tensor:
        """Sum of the losses of all rows: a scalar, float32."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective, name="cross_entropy"):
    """-log p(target), in nats."""

    def __call__(self, targets: Targets) -> Tensor:
        return _cross_entropy(targets)


@dataclass(frozen=True, kw_only=True)
class ZLoss(Objective, name="z_loss"):
    """Cross-entropy, plus ``weight`` times the square of each row's log-partition."""

    weight: float = 1e-4

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise UserError(f"objective z_loss needs a positive weight, not {self.weight}")

    def __call__(self, targets: Targets) -> Tensor:
        return _cross_entropy(targets, self.weight)


@dataclass(frozen=True, kw_only=True)
class Distilled(Objective):
    """A share of the loss is against a teacher's probabilities, made chunk by chunk."""

    plain: Objective  # the rest of it
    share: float
    rows: Tensor  # (T, D') the teacher's decoder output, sorted by modality
    heads: dict[str, Head]  # by vocabulary, of its width D'

    def __call__(self, targets: Targets) -> Tensor:
        taught = soft_cross_entropy(
            targets.rows,
            targets.head.weight,
            self.rows[targets.part],
            self.heads[targets.vocab].weight,
        )
        return (1 - self.share) * self.plain(targets) + self.share * taught


def _cross_entropy(targets: Targets, z_weight: float = 0.0) -> Tensor:
    head = targets.head
    return linear_cross_entropy(targets.rows, head.weight, targets.ids, z_weight, slot=head.slot)
