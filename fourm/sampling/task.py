"""One target to generate: what grids and sequences have in common.

The network is seen through guidance: inputs of all branches go in, one row of logits for each token
comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fourm.batches.batch import DecoderStream, EncoderStream, map_tensors
from fourm.modalities import Modality
from fourm.model.distinct import encode_distinct
from fourm.model.model import Encoded, FourM
from fourm.numbers.rng import CounterRNG
from fourm.sampling.draws import target_rng
from fourm.sampling.guidance import Guidance
from fourm.sampling.options import SamplingOptions
from fourm.sampling.state import GridState, SampleState, encoder_stream

_FEW = 8
FoundT = TypeVar("FoundT")
StreamT = TypeVar("StreamT", EncoderStream, DecoderStream)


@dataclass(frozen=True)
class Step:
    """How far a target is. ``look`` shows what is found by then: a grid that changes with the next
    step, or ids (L,) of each sequence, with sentinels for gaps that are not told yet.
    """

    done: int
    num_steps: int
    look: Callable[[], GridState | list[np.ndarray]]


Steps = Generator[Step, None, FoundT]  # what takes steps, and in the end what it has found


def last_of(steps: Steps[FoundT]) -> FoundT:
    """What all steps together find."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@dataclass(frozen=True)
class Task:
    """A target of B samples, the model, and how it is asked."""

    model: FourM
    target: Modality
    options: SamplingOptions
    guidance: Guidance
    seeds: np.ndarray  # (B,)

    @cached_property
    def rng(self) -> CounterRNG:
        """Random numbers of the target."""
        return target_rng(self.target.name)

    @property
    def index(self) -> int:
        """Number of the target among the model's modalities."""
        return self.model.modalities.index(self.target.name)

    def encode(self, state: SampleState) -> Encoded:
        """The encoder's view of a state, once for each branch: branches * B samples."""
        seen = [branch.of(state) for branch in self.guidance.branches]
        stream = encoder_stream(seen, self.model.modalities)
        return encode_distinct(self.model, stream, self.on_device)

    @cached_property
    def _head(self) -> Tensor:
        """Output weights (V, D), which codes of levels must be summed for: once a call."""
        return self.model.head(self.target.name)

    def logits(self, rows: Tensor) -> Tensor:
        """Guided decoder output (n, D) -> logits (n, V)."""
        head = self._head.to(rows.dtype)
        # with few rows BLAS is several times faster where the long side comes first
        return (head @ rows.T).T if len(rows) <= _FEW else rows @ head.T

    def on_device(self, stream: StreamT) -> StreamT:
        """A stream where the model is."""
        device = self.model.device
        if device.type == "cpu":
            return stream
        return map_tensors(stream, lambda t: t.to(device, non_blocking=True))

    def tensor(self, values: np.ndarray) -> Tensor:
        """An array where the model is."""
        return torch.from_numpy(values).to(self.model.device)
