"""The stages of a training step: what each must compute and move, and how long it took.

``costs`` counts, from shapes alone, the operations of the matrix products and the bytes that a
perfect kernel would still move: each product reads its factors and writes its result once, forward
and for both gradients; attention never writes its scores; a norm reads and writes its rows. Time at
a device's peak is the larger of the two. ``StageClock`` finds the time of each stage in a profile:
forward by ranges around the modules, backward by the sequence numbers that autograd gave their
operations.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import record_function
from workload import Workload

from fourm.batches.batch import MaskedBatch
from fourm.model.model import FourM
from fourm.model.objectives import CrossEntropy, Objective, Targets

_BACKWARD = "autograd::engine::evaluate_function: "


class Stage(StrEnum):
    """Parts of a step."""

    EMBEDDING = "embedding"
    ENCODER_ATTENTION = "encoder attention"
    ENCODER_MLP = "encoder MLP"
    DECODER_SELF = "decoder self-attention"
    DECODER_CROSS = "decoder cross-attention"
    DECODER_MLP = "decoder MLP"
    HEADS = "heads and loss"
    OPTIMIZER = "optimizer"
    OTHER = "other"  # residual sums, packing, padding, copies of weights


# ---- what a stage must do ------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of a forward and backward pass."""

    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.operations * times, self.bytes * times)

    def seconds(self, peak: Peak) -> float:
        """Time at a device's peak."""
        return max(self.operations / peak.operations, self.bytes / peak.bytes)


@dataclass(frozen=True)
class Peak:
    """What a device can do in a second."""

    operations: float
    bytes: float
    source: str  # "data sheet", or "measured" where the device is not in our table


@dataclass(frozen=True)
class _Counter:
    """Costs of the parts of a network of width D, its activations of ``width`` bytes a number."""

    dim: int
    hidden: int
    width: int

    def product(self, rows: int, inner: int, columns: int) -> Cost:
        """(rows, inner) @ (inner, columns), and both gradients."""
        moved = rows * inner + inner * columns + rows * columns
        return Cost(6 * rows * inner * columns, 3 * moved * self.width)

    def norm(self, rows: int) -> Cost:
        """Forward a read and a write, backward two reads and a write."""
        return Cost(0, 5 * rows * self.dim * self.width)

    def attention(self, pairs: int, queries: int, keys: int) -> Cost:
        """``pairs`` (query, key) that see each other: scores and sums of values. Forward q, k, v
        and the result are moved, backward these, the result's gradient, and those of q, k, v.
        """
        return Cost(12 * pairs * self.dim, 6 * (queries + keys) * self.dim * self.width)

    def self_attention(self, rows: int, pairs: int) -> Cost:
        """With its norm and projections."""
        projections = self.product(rows, self.dim, 3 * self.dim)
        out = self.product(rows, self.dim, self.dim)
        return self.norm(rows) + projections + self.attention(pairs, rows, rows) + out

    def cross_attention(self, rows: int, context: int, pairs: int) -> Cost:
        """With its norms and projections."""
        norms = self.norm(rows) + self.norm(context)
        queries, out = (self.product(rows, self.dim, self.dim) for _ in range(2))
        keys_values = self.product(context, self.dim, 2 * self.dim)
        return norms + queries + keys_values + self.attention(pairs, rows, context) + out

    def mlp(self, rows: int) -> Cost:
        """SwiGLU with its norm: the gate reads two and writes one, backward reads three and writes
        two.
        """
        products = self.product(rows, self.dim, 2 * self.hidden)
        gate = Cost(0, 8 * rows * self.hidden * self.width)
        return self.norm(rows) + products + gate + self.product(rows, self.hidden, self.dim)


def costs(work: Workload, batch: MaskedBatch, num_parameters: int, width: int) -> dict[Stage, Cost]:
    """What each stage of a step on one batch must do.

    Args:
        width: bytes of a number in activations and in the weights that products read.
    """
    c = work.model
    assert c.gated_mlp and not c.num_registers
    count = _Counter(c.dim, c.block.hidden, width)
    given, wanted = batch.encoder.lengths, batch.decoder.lengths
    num_given, num_wanted = int(given.sum()), int(wanted.sum())
    squares = int((batch.decoder.segment_lengths**2).sum())
    # three tables read and a row written, its gradient read and added to the tables, in float32
    embedding = Cost(0, 6 * 4 * (num_given + num_wanted) * c.dim)
    for name, vectors in batch.encoder.vectors.items():
        embedding += count.product(len(vectors.rows), work.modalities[name].width, c.dim)
    heads = count.norm(num_wanted)
    for m, rows in zip(work.modalities, batch.decoder.counts, strict=True):
        heads += count.product(rows, c.dim, m.vocab_size)
    context = count.norm(num_given) + count.product(num_given, c.dim, c.dim)
    cross = count.cross_attention(num_wanted, num_given, int((given * wanted).sum()))
    encoder = count.self_attention(num_given, int((given**2).sum()))
    return {
        Stage.EMBEDDING: embedding,
        Stage.ENCODER_ATTENTION: encoder * c.encoder_depth,
        Stage.ENCODER_MLP: count.mlp(num_given) * c.encoder_depth,
        Stage.DECODER_SELF: count.self_attention(num_wanted, squares) * c.decoder_depth,
        Stage.DECODER_CROSS: cross * c.decoder_depth + context,
        Stage.DECODER_MLP: count.mlp(num_wanted) * c.decoder_depth,
        Stage.HEADS: heads,
        # the norm reads gradients, clipping scales them; AdamW reads four numbers and writes three
        Stage.OPTIMIZER: Cost(0, 10 * 4 * num_parameters),
    }


# ---- how long a stage took -----------------------------------------------------------------------


def _modules(model: FourM) -> Iterator[tuple[Stage, nn.Module | None]]:
    tables = model.tokens, model.decoder_tokens, model.positions, model.decoder_positions
    for module in (*tables, *model.vector_in.values()):
        yield Stage.EMBEDDING, module
    for block in model.encoder_blocks:
        for module in (block.norm_self, block.self_attention):
            yield Stage.ENCODER_ATTENTION, module
        for module in (block.norm_mlp, block.mlp):
            yield Stage.ENCODER_MLP, module
    for block in model.decoder_blocks:
        for module in (block.norm_self, block.self_attention):
            yield Stage.DECODER_SELF, module
        for module in (block.norm_query, block.cross_attention):
            yield Stage.DECODER_CROSS, module
        for module in (block.norm_mlp, block.mlp):
            yield Stage.DECODER_MLP, module
    yield Stage.DECODER_CROSS, model.encoder_norm
    yield Stage.DECODER_CROSS, model.context
    yield Stage.HEADS, model.decoder_norm


@dataclass(frozen=True, kw_only=True)
class _WatchedLoss(Objective):
    """Cross-entropy inside a stage."""

    clock: StageClock

    def __call__(self, targets: Targets) -> Tensor:
        with self.clock.stage(Stage.HEADS):
            return CrossEntropy()(targets)


class StageClock:
    """Marks the stages of eager forward passes, so that a profile can be read by stage."""

    def __init__(self, model: FourM) -> None:
        self._open: list[Any] = []
        # operations that autograd numbered from ``_first`` on are ``_stage``'s, until the next
        self._first, self._stage = [0], [Stage.OTHER]
        self._handles = []
        for stage, module in _modules(model):
            if module is None:
                continue
            before = module.register_forward_pre_hook(lambda *_, s=stage: self._enter(s))
            after = module.register_forward_hook(lambda *_: self._leave())
            self._handles += [before, after]

    @property
    def objective(self) -> Objective:
        """The loss, for the model's forward pass to be told."""
        return _WatchedLoss(clock=self)

    def _enter(self, stage: Stage) -> None:
        self._mark(stage)
        self._open.append(record_function(f"stage: {stage}"))
        self._open[-1].__enter__()

    def _leave(self) -> None:
        self._open.pop().__exit__(None, None, None)
        self._mark(Stage.OTHER)

    def _mark(self, stage: Stage) -> None:
        number = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        self._first.append(number)
        self._stage.append(stage)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """What runs inside belongs to the stage."""
        self._enter(stage)
        try:
            yield
        finally:
            self._leave()

    def remove(self) -> None:
        """Take the marks off the model."""
        for handle in self._handles:
            handle.remove()

    def seconds(self, profiler: Any, on_device: bool) -> dict[Stage, float]:
        """Time of each stage in a profile: of kernels on the device, or of the CPU."""
        found: dict[Stage, float] = defaultdict(float)
        total = 0.0
        for event in profiler.events():
            if on_device and event.device_type != DeviceType.CPU:
                # kernels; the ranges that the device's timeline repeats are no work
                total += 0.0 if event.is_user_annotation else event.self_device_time_total
                continue
            if not on_device:
                total += event.self_cpu_time_total
            spent = event.device_time_total if on_device else event.cpu_time_total
            if event.name.startswith("stage: "):
                found[Stage(event.name.removeprefix("stage: "))] += spent
            elif event.name.startswith(_BACKWARD) and event.sequence_nr >= 0:
                number = bisect_right(self._first, event.sequence_nr) - 1
                found[self._stage[number]] += spent
        found[Stage.OTHER] = total - sum(t for s, t in found.items() if s != Stage.OTHER)
        return {stage: found[stage] / 1e6 for stage in Stage}


def mean_costs(all_costs: list[dict[Stage, Cost]]) -> dict[Stage, Cost]:
    """Mean over batches."""
    return {
        stage: Cost(
            float(np.mean([c[stage].operations for c in all_costs])),
            float(np.mean([c[stage].bytes for c in all_costs])),
        )
        for stage in all_costs[0]
    }
