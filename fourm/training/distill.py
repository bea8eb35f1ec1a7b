"""A trained FourM teaches another of the same modalities: a smaller one, or one with JAR's encoder
(2305.19924).

The student starts from those of the teacher's weights that fit it by name and shape, and part of
its loss is the cross-entropy against the teacher's probabilities for the same masked batch. Teacher
and student see the same inputs, so nothing is stored beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fourm.batches.batch import MaskedBatch
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.model import FourM, load_model
from fourm.model.objectives import Distilled, Objective
from fourm.training.differences import differences


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """``teacher`` is a model folder (a checkpoint is one)."""

    teacher: str
    # of the loss that is against the teacher's probabilities; the rest is against the data
    share: float = 0.5
    start: bool = True  # from the teacher's weights, where they fit

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"distill: share must be between 0 and 1, not {self.share}")


class Teacher:
    """A frozen model and what it predicts for batches."""

    def __init__(self, config: DistillConfig, modalities: ModalitySet) -> None:
        self.share = config.share
        self.model = load_model(config.teacher).eval().requires_grad_(False)
        found = differences(self.model.modalities, modalities)
        if found:
            raise UserError(
                f"distill: {config.teacher} was made for another modality set: {'; '.join(found)}"
            )

    @torch.no_grad()
    def objective(self, plain: Objective, batch: MaskedBatch) -> Distilled:
        """What a batch is scored by: ``plain``, and its predictions on the batch's device."""
        self.model.to(batch.decoder.target.device)
        rows, heads = self.model.target_rows(batch)
        return Distilled(plain=plain, share=self.share, rows=rows, heads=heads)

    def start(self, student: FourM) -> list[str]:
        """Copy the weights that fit; returns the names of the student's that stay fresh."""
        own, given = student.state_dict(), self.model.state_dict()
        fits = [
            name
            for name, value in own.items()
            if name in given and given[name].shape == value.shape
        ]
        with torch.no_grad():
            for name in fits:
                own[name].copy_(given[name])
        return [name for name in own if name not in fits]
