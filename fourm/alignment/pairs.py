"""Paired latents as training data: splits by subject, and batches that are a pure function of the
step.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fourm.alignment.latents import Latents
from fourm.alignment.subset import best_quality, greedy_dpp
from fourm.data.order import SampleOrder
from fourm.errors import UserError
from fourm.training.loop_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Subjects for training, for choosing settings, and for the final test; never one subject in
    two of them. ``test`` names a split of the data whose samples are the final test: groups are
    then what is as right as the sample itself (equal captions), and the data says what is apart.
    """

    num_val: int
    num_test: int  # with ``test`` samples of it, 0 = all
    test: str = ""
    num_train: int = 0  # 0 = all others
    choose: Literal["random", "diverse", "best"] = (
        "random"  # which of the others; diverse: by a greedy k-DPP of the first modality's latents
    )
    # CSV with columns key and quality (> 0; of a caption's agreement, say): what best goes by, and
    # diverse is weighted by
    quality: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Numbers of samples."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_subjects(latents: Latents, config: SplitConfig) -> Split:
    """Samples by subject. Raises UserError if there are too few."""
    subjects = latents.group_ids
    own = of_split(latents, config.test) if config.test else np.zeros(len(latents), bool)
    rest = np.nonzero(~own)[0]
    pool, first = np.unique(subjects[rest], return_index=True)
    away = config.num_val + (0 if config.test else config.num_test)
    if away + max(config.num_train, 1) > len(pool):
        raise UserError(
            f"{len(pool)} subjects are too few for {config.num_train or 1} + {config.num_val} +"
            f" {away - config.num_val}"
        )
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(pool))
    chosen = order[away : away + config.num_train] if config.num_train else order[away:]
    if config.num_train and config.choose != "random":
        others = order[away:]
        quality = read_quality(config.quality, latents)[pool[others]] if config.quality else None
        if config.choose == "best":
            if quality is None:
                raise UserError(
                    "split: choose best needs quality, a CSV with columns key and quality"
                )
            picked = best_quality(quality, config.num_train)
        else:  # by a sample of each subject
            picked = greedy_dpp(latents.rows(rest[first[others]]), config.num_train, quality)
        chosen = others[picked]
    parts = (chosen, order[: config.num_val], order[config.num_val : away])
    train, val, test = (rest[np.isin(subjects[rest], pool[part])] for part in parts)
    if config.test:
        test = np.nonzero(own)[0]
        if config.num_test:
            test = np.sort(rng.permutation(test)[: config.num_test])
    return Split(train, val, test)


def of_split(latents: Latents, name: str) -> np.ndarray:
    """Which samples are of a split of the data. Raises UserError where none is."""
    if latents.splits is None:
        raise UserError(
            f"split: test: {name}: these latents do not say of which split their samples are: make"
            " them again (`fourm latents`)"
        )
    of = np.array(latents.splits) == name
    if not of.any() or of.all():
        known = ", ".join(sorted(set(latents.splits)))
        raise UserError(f"split: test: {name} must be some of the latents' splits, {known}")
    return of


def read_quality(path: str, latents: Latents) -> np.ndarray:
    """Mean quality of each subject's samples (subjects,) from a CSV.

    Raises UserError where a sample has none or one that is not positive.
    """
    if not Path(path).is_file():
        raise UserError(f"no file {path} of qualities")
    with open(path, newline="") as stream:
        table = csv.DictReader(stream)
        if not {"key", "quality"} <= set(table.fieldnames or ()):
            raise UserError(f"{path} needs the columns key and quality")
        try:
            given = {row["key"]: float(row["quality"]) for row in table}
        except (TypeError, ValueError):
            raise UserError(f"{path}: a quality is not a number") from None
    lacking = [key for key in latents.keys if key not in given]
    if lacking:
        raise UserError(
            f"{path} has no quality of {len(lacking)} samples, the first is {lacking[0]}"
        )
    values = np.array([given[key] for key in latents.keys])
    if not (values > 0).all():
        raise UserError(f"{path}: qualities must be positive")
    subjects = latents.group_ids
    return np.bincount(subjects, values) / np.bincount(subjects)


@dataclass(frozen=True)
class LatentBatch:
    """Latents of the same samples from every modality."""

    values: tuple[Tensor, ...]  # (B, d) each
    groups: Tensor  # (B,)
    samples: np.ndarray
    step: int

    def to(self, device: torch.device | str) -> LatentBatch:
        """The batch on a device."""
        return LatentBatch(
            tuple(v.to(device) for v in self.values),
            self.groups.to(device),
            self.samples,
            self.step,
        )

    def pin_memory(self) -> LatentBatch:
        """The batch in page-locked memory."""
        return LatentBatch(
            tuple(v.pin_memory() for v in self.values),
            self.groups.pin_memory(),
            self.samples,
            self.step,
        )


class LatentBatches(torch.utils.data.Dataset):
    """Step number -> this rank's micro-batches; every epoch shows each sample once."""

    def __init__(
        self,
        latents: dict[str, Latents],
        samples: np.ndarray,
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
        self._latents, self._samples, self._config = list(latents.values()), samples, config
        self._order = SampleOrder([len(samples)], [1.0], config.seed)
        self._rank, self._world, self._each = rank, world_size, each

    def __getitem__(self, step: int) -> list[LatentBatch]:
        result = []
        for micro in range(self._config.micro_batches):
            first = step * self._config.batch_size + (micro * self._world + self._rank) * self._each
            chosen = self._samples[self._order(np.arange(first, first + self._each)).sample]
            result.append(batch_of(self._latents, chosen, step))
        return result


def batch_of(latents: list[Latents], samples: np.ndarray, step: int = 0) -> LatentBatch:
    """The latents of samples number ``samples`` (B,) in every modality."""
    values = tuple(torch.from_numpy(held.rows(samples)) for held in latents)
    return LatentBatch(values, torch.from_numpy(latents[0].group_ids[samples]), samples, step)
