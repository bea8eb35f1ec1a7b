"""Samples of a fine-tuning: what the encoder is given and what is wanted, in memory.

Labels are few: all samples that are used are read once, pictures as bytes, what goes through a
tokenizer as ids. A batch is made of them as every inference makes it (``pipe.encode``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.batches.batch import EncoderStream, map_tensors
from fourm.data.order import SampleOrder
from fourm.data.shards import DamageReport
from fourm.errors import UserError
from fourm.evaluation.held_out import Column, Samples, Shards, read_keys, shared_keys, spread_keys
from fourm.features.labels import labels_of
from fourm.features.write import columns_of
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.numbers import numbers_of
from fourm.modalities import Modality, ModalitySet
from fourm.pipeline.given import Tokens
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.sampling.state import encoder_stream

_TARGET = "the target"  # among columns


@dataclass(frozen=True)
class LabelledSamples:
    """N samples of a split."""

    keys: list[str]
    inputs: dict[str, list[Any]]  # as a pipeline takes them
    truth: list[Any]  # class names, lists of numbers, or maps

    def __len__(self) -> int:
        return len(self.keys)

    def given(self, samples: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
        """Inputs of some of them."""
        return {name: [values[i] for i in samples] for name, values in self.inputs.items()}


@dataclass(frozen=True)
class LabelledBatch:
    """B samples as the encoder sees them."""

    encoder: EncoderStream
    wanted: Tensor  # (B, ...)
    count: float  # of what counts in the loss
    samples: np.ndarray

    def to(self, device: torch.device | str) -> LabelledBatch:
        """The batch on a device."""
        return map_tensors(self, lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> LabelledBatch:
        """The batch in page-locked memory."""
        return map_tensors(self, lambda t: t.pin_memory())


def stream_of(pipe: AnyToAnyPipeline, given: dict[str, list[Any]]) -> EncoderStream:
    """What the encoder sees of samples."""
    return encoder_stream([pipe.encode(given)], pipe.modalities)


class LabelledBatches(torch.utils.data.Dataset):
    """Step number -> this rank's micro-batches: a pure function of (seed, step)."""

    def __init__(
        self,
        pipe: AnyToAnyPipeline,
        samples: LabelledSamples,
        wanted: Tensor,
        count: Callable[[Tensor], float],
        config: FinetuneConfig,
        rank: int,
        world_size: int,
    ) -> None:
        loop = config.loop
        self._each, odd = divmod(loop.batch_size, world_size * loop.micro_batches)
        if odd:
            raise UserError(
                f"batch size {loop.batch_size} is not a multiple of {world_size} ranks x"
                f" {loop.micro_batches}"
            )
        self._pipe, self._samples, self._wanted, self._count = pipe, samples, wanted, count
        self._order = SampleOrder([len(samples)], [1.0], loop.seed)
        self._loop, self._rank, self._world = loop, rank, world_size

    def __getitem__(self, step: int) -> list[LabelledBatch]:
        found = []
        for micro in range(self._loop.micro_batches):
            first = step * self._loop.batch_size + (micro * self._world + self._rank) * self._each
            chosen = self._order(np.arange(first, first + self._each)).sample
            wanted = self._wanted[torch.from_numpy(chosen)]
            stream = stream_of(self._pipe, self._samples.given(chosen))
            found.append(LabelledBatch(stream, wanted, self._count(wanted), chosen))
        return found


def refuse_itself(target: Modality, inputs: tuple[Modality, ...]) -> None:
    """Raise UserError where an input is made of the same raw values as the target."""
    for m in inputs:
        if m.raw_name == target.raw_name:
            raise UserError(
                f"{m.name} and the target {target.name} are both made of raw {m.raw_name}: there is"
                " nothing to learn"
            )


def drawn_keys(keys: list[str], config: FinetuneConfig) -> list[str]:
    """``labels`` of the samples that have one, those of few among those of many; all if it is 0.

    Raises UserError where there are not as many.
    """
    if config.labels > len(keys):
        raise UserError(
            f"{config.target} is known of {len(keys)} samples of {config.split}:"
            f" labels={config.labels} are too many"
        )
    if not config.labels:
        return keys
    drawn = np.random.default_rng(config.loop.seed).permutation(len(keys))[: config.labels]
    return [keys[i] for i in sorted(drawn)]


# ---- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Reads both splits of a fine-tuning's data."""

    pipe: AnyToAnyPipeline
    inputs: tuple[Modality, ...]  # as the encoder sees them: pixels, where it reads these
    known: ModalitySet  # the set that has the target
    config: FinetuneConfig

    def training(self) -> LabelledSamples:
        """Those that are learned from: ``labels`` of them, drawn by the seed."""
        keys, read = self._labelled(self.config.split)
        return read(drawn_keys(keys, self.config))

    def held_out(self) -> LabelledSamples:
        """Those that are judged, spread evenly over their split."""
        keys, read = self._labelled(self.config.validation_split)
        return read(spread_keys(keys, self.config.eval_samples))

    def _labelled(self, split: str) -> tuple[list[str], Callable[[list[str]], LabelledSamples]]:
        """Keys of samples that have all inputs and a label, and what reads them."""
        c, report = self.config, DamageReport()
        shards = Shards.find(Path(c.data), split)
        columns = columns_of(shards, self.inputs)
        if c.head is not None and c.head.has_places:
            target = self.known[c.target]
            column = shards.raw_of(target)
            if column is None:
                raise UserError(f"{c.data}: split {split} has no raw {target.raw_name} to learn")
            both = {**columns, _TARGET: column}
            return shared_keys(both, report), lambda keys: self._maps(both, keys)
        keys = shared_keys(columns, report)
        find = numbers_of if c.numbers else labels_of
        values = find(c.target, self.known, Path(c.data)).of(keys, split)
        label = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        if not label:
            raise UserError(f"{c.target} is known of no sample of {split}")
        return list(label), lambda keys: self._labels(columns, keys, label)

    def _maps(self, columns: dict[str, Column], keys: list[str]) -> LabelledSamples:
        found, samples = self._read(columns, keys)
        return replace(found, truth=samples.of(_TARGET))

    def _labels(
        self, columns: dict[str, Column], keys: list[str], label: dict[str, Any]
    ) -> LabelledSamples:
        found, _ = self._read(columns, keys)
        return replace(found, truth=[label[key] for key in found.keys])

    def _read(self, columns: dict[str, Column], keys: list[str]) -> tuple[LabelledSamples, Samples]:
        report = DamageReport()
        samples = read_keys(columns, keys, report)
        if report.entries:
            first = report.entries[0]
            print(f"left out what is damaged, first {first.shard}: {first.key}: {first.reason}")
        if not len(samples):
            raise UserError(f"no sample of {self.config.data} can be read")
        inputs = {}
        for m in self.inputs:
            coded = m.kind != "continuous"
            ids = samples.ids(m, self.pipe.codecs) if coded else []
            inputs[m.name] = [Tokens(i) for i in ids] if coded else samples.of(m.name)
        return LabelledSamples(samples.keys, inputs, []), samples
