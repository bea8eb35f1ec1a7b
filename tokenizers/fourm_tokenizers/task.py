"""Training a learned tokenizer in the same loop as pretraining: batches of raw values, losses,
held-out figures.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourm.data.columns import ChunkedColumn, open_column
from fourm.data.order import SampleOrder
from fourm.data.shards import DamageReport, shard_paths
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.raw import Raw
from fourm.training.loop_config import LoopConfig
from fourm_tokenizers.code_use import CodeUse
from fourm_tokenizers.losses import TrainedTokenizer
from fourm_tokenizers.picture import from_values, to_values, write_description
from fourm_tokenizers.settings import TokenizerConfig

_log = logging.getLogger(__name__)
_EVAL_SAMPLES, _EVAL_BATCH = 256, 64


@dataclass(frozen=True)
class ValueBatch:
    """Raw values of one micro-batch as a tokenizer reads them."""

    values: Tensor  # (B, C, H, W), class ids (B, H, W) or vectors (B, C)
    samples: np.ndarray
    step: int

    def to(self, device: torch.device | str) -> ValueBatch:
        """The batch on a device."""
        return ValueBatch(self.values.to(device, non_blocking=True), self.samples, self.step)

    def pin_memory(self) -> ValueBatch:
        """The batch in page-locked memory."""
        return ValueBatch(self.values.pin_memory(), self.samples, self.step)


class ValueBatches(torch.utils.data.Dataset):
    """Step number -> this rank's micro-batches of raw values."""

    def __init__(
        self,
        column: ChunkedColumn,
        modality: Modality,
        config: LoopConfig,
        rank: int,
        world_size: int,
    ) -> None:
        each, odd = divmod(config.batch_size, world_size * config.micro_batches)
        if odd:
            raise UserError(
                f"batch size {config.batch_size} is not a multiple of {world_size} ranks x"
                f" {config.micro_batches}"
            )
        self._column, self._modality, self._config = column, modality, config
        self._order = SampleOrder([len(column)], [1.0], config.seed)
        self._rank, self._world, self._each = rank, world_size, each

    def __getitem__(self, step: int) -> list[ValueBatch]:
        result = []
        for micro in range(self._config.micro_batches):
            first = step * self._config.batch_size + (micro * self._world + self._rank) * self._each
            samples = self._order(np.arange(first, first + self._each)).sample
            values = self._column.ragged(samples).padded()[:, 0]
            result.append(ValueBatch(to_values(values, self._modality), samples, step))
        return result


class TokenizerTask:
    """An autoencoder on the raw shards of its modality."""

    terms = ("reconstruction", "adversarial")
    unit = "samples"

    def __init__(self, modality: Modality, config: TokenizerConfig, raw: Path, cache: Path) -> None:
        self.modality, self.config = modality, config
        self._train = raw_column(modality, raw, "train", cache)
        self._held_out = raw_column(modality, raw, "val", cache)
        self._warned = False

    def batches(self, rank: int, world_size: int) -> ValueBatches:
        return ValueBatches(self._train, self.modality, self.config.train, rank, world_size)

    def counts(self, batch: ValueBatch) -> np.ndarray:
        return np.full(2, float(len(batch.samples)))

    def forward(self, model: nn.Module, batch: ValueBatch) -> Tensor:
        losses = model(batch.values, batch.step)
        return torch.stack([losses.reconstruction, losses.adversarial]) * len(batch.samples)

    def weights(self, counts: np.ndarray) -> np.ndarray:
        return 1.0 / np.maximum(counts, 1.0)

    def watch(self, model: nn.Module) -> dict[str, float]:
        """Use of the codebook over the last batches; warns if it is under 10 % once many ids were
        seen.
        """
        assert isinstance(model, TrainedTokenizer)
        if not self.config.quantize or not model.recent_ids:
            return {}
        ids = torch.cat([part.reshape(-1) for part in model.recent_ids])
        use = CodeUse.of(ids, self.config.codebook.size)
        advice = use.advice(self.modality.name, self.config.codebook.remedy)
        if advice and not self._warned and len(ids) >= 4 * self.config.codebook.size:
            _log.warning("%s", advice)
            self._warned = True
        return {"usage": use.usage, "perplexity": use.perplexity, "dead_codes": float(use.dead)}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Quality of reconstructions of held-out values, and how the codebook is used."""
        assert isinstance(model, TrainedTokenizer)
        raw = self._held_out.ragged(np.arange(min(_EVAL_SAMPLES, len(self._held_out)))).padded()[
            :, 0
        ]
        made: list[np.ndarray] = []
        ids: list[Tensor] = []
        for start in range(0, len(raw), _EVAL_BATCH):
            result = model.tokenizer(
                to_values(raw[start : start + _EVAL_BATCH], self.modality).to(device)
            )
            made += from_values(result.output.cpu(), self.modality)
            ids.append(result.ids.cpu())
        use = CodeUse.of(torch.cat(ids), self.config.codebook.size)
        advice = use.advice(self.modality.name, self.config.codebook.remedy)
        if advice and self.config.quantize:
            _log.warning("%s", advice)
        figures = self.modality.raw.figures(np.stack(made).reshape(raw.shape), raw)
        return {
            **figures,
            **baseline_figures(self.modality.raw, raw),
            "usage": use.usage,
            "perplexity": use.perplexity,
            "dead_codes": float(use.dead),
        }

    def write_description(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, TrainedTokenizer)
        write_description(model.tokenizer.config, folder)

    def describe(self, batch: ValueBatch) -> dict[str, Any]:
        samples = batch.samples.tolist()
        return {"samples": samples, "keys": [self._train.name(sample) for sample in samples]}


def baseline_figures(raw: Raw, values: np.ndarray) -> dict[str, float]:
    """``baseline_<figure>``: the figures of the one value that fits stacked values best (the mean,
    the most frequent class), which any tokenizer should leave far behind.
    """
    guess = raw.baseline(list(values))
    if guess is None:
        return {}
    found = raw.figures(np.broadcast_to(guess, values.shape), values)
    return {f"baseline_{name}": value for name, value in found.items()}


def raw_column(modality: Modality, raw: Path, split: str, cache: Path) -> ChunkedColumn:
    """All raw values of a dense or vector modality in a split, memory-mapped."""
    shards = shard_paths(raw, split, modality.raw_name)
    if not shards:
        raise UserError(f"no shards in {raw / split / modality.raw_name}")
    spec = modality.raw
    report = DamageReport()
    column = open_column(
        shards,
        lambda data, ext: spec.read(data, ext)[None],
        spec.extensions,
        f"raw {spec}",
        cache,
        report,
    )
    report.check(cache / f"damage-{split}-{modality.raw_name}.json")
    return column
