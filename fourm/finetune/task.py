"""A fine-tuning with a head as a task of the loop: its batches, its loss, its held-out figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourm.config import dump
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.goals import Goal
from fourm.finetune.samples import LabelledBatch, LabelledBatches, LabelledSamples, stream_of
from fourm.finetune.tuned import Tuned
from fourm.pipeline.pipeline import AnyToAnyPipeline

CONFIG = "finetune.yaml"
_BATCH = 32


class HeadTask:
    """One goal, one head, one model (``fourm.training.task.Task``)."""

    terms = ("loss",)

    def __init__(
        self,
        config: FinetuneConfig,
        pipe: AnyToAnyPipeline,
        goal: Goal,
        train: LabelledSamples,
        held_out: LabelledSamples,
    ) -> None:
        self.config, self.pipe, self.goal = config, pipe, goal
        self.train, self.held_out = train, held_out
        self._wanted = goal.wanted(train.truth)
        self.answers: list[Any] = []  # of the last evaluation, to the held-out samples

    @property
    def unit(self) -> str:
        return self.goal.unit

    def batches(self, rank: int, world_size: int) -> LabelledBatches:
        return LabelledBatches(
            *(self.pipe, self.train, self._wanted, self.goal.count, self.config),
            *(rank, world_size),
        )

    def counts(self, batch: LabelledBatch) -> np.ndarray:
        return np.array([batch.count])

    def forward(self, model: nn.Module, batch: LabelledBatch) -> Tensor:
        return self.goal.loss(model(batch), batch.wanted)[None]

    def weights(self, counts: np.ndarray) -> np.ndarray:
        return 1.0 / np.maximum(counts, 1.0)

    def watch(self, model: nn.Module) -> dict[str, float]:
        return {}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures of all held-out samples, and their mean loss."""
        assert isinstance(model, Tuned)
        self.answers, total, count = [], 0.0, 0.0
        for part in parts(len(self.held_out)):
            given = self.held_out.given(part)
            outputs = outputs_of(self.pipe, model, given, device)
            wanted = self.goal.wanted([self.held_out.truth[i] for i in part])
            total += float(self.goal.loss(outputs, wanted))
            count += self.goal.count(wanted)
            self.answers += self.goal.answers(outputs.numpy())
        figures = self.goal.figures(self.answers, self.held_out.truth)
        return {"loss": total / max(count, 1.0), **figures}

    def baseline(self) -> dict[str, float]:
        """Figures of the one answer that suits the training samples best."""
        constant = self.goal.constant(self.train.truth)
        if constant is None:
            return {}
        return self.goal.figures([constant] * len(self.held_out), self.held_out.truth)

    def write_description(self, model: nn.Module, folder: Path) -> None:
        dump(self.config, folder / CONFIG)

    def describe(self, batch: LabelledBatch) -> dict[str, Any]:
        return {"keys": [self.train.keys[i] for i in batch.samples]}


def parts(num: int) -> Iterator[range]:
    """Numbers of samples that go through the network together."""
    for start in range(0, num, _BATCH):
        yield range(start, min(start + _BATCH, num))


@torch.no_grad()
def outputs_of(
    pipe: AnyToAnyPipeline, model: Tuned, given: dict[str, list[Any]], device: torch.device
) -> Tensor:
    """The head's outputs (B, C[, H, W]) on the CPU."""
    stream = stream_of(pipe, given)
    num = len(stream.lengths)
    batch = LabelledBatch(stream, torch.zeros(num), 0.0, np.arange(num))
    return model(batch.to(device)).cpu()
