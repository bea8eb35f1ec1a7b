"""Latents of two domains, one with labels and one without, and batches of both."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourm.alignment.latents import Latents
from fourm.data.order import SampleOrder
from fourm.errors import UserError
from fourm.training.loop_config import LoopConfig

UNKNOWN = -1  # label of a sample without one


@dataclass(frozen=True)
class Domain:
    """Vectors of one domain, of length 1, and labels where they are known."""

    keys: list[str]
    vectors: Tensor  # (n, d)
    labels: Tensor  # (n,) int64; UNKNOWN where there is none

    def take(self, samples: np.ndarray) -> Domain:
        """These samples alone."""
        keys = [self.keys[i] for i in samples]
        return Domain(keys, self.vectors[samples], self.labels[samples])


@dataclass(frozen=True)
class DomainBatch:
    """As many samples of each domain."""

    source: Tensor  # (B, d)
    labels: Tensor  # (B,), of the source
    target: Tensor  # (B, d)
    target_samples: np.ndarray  # (B,), rows of the domain
    source_samples: np.ndarray
    step: int

    def to(self, device: torch.device | str) -> DomainBatch:
        """The batch on a device."""
        return replace(
            self,
            source=self.source.to(device),
            labels=self.labels.to(device),
            target=self.target.to(device),
        )

    def pin_memory(self) -> DomainBatch:
        """The batch in page-locked memory."""
        return replace(
            self,
            source=self.source.pin_memory(),
            labels=self.labels.pin_memory(),
            target=self.target.pin_memory(),
        )


class DomainBatches(torch.utils.data.Dataset):
    """Step number -> equal numbers of source and target samples."""

    def __init__(self, source: Domain, target: Domain, config: LoopConfig) -> None:
        self.source, self.target, self.size = source, target, config.batch_size
        # orders of their own: the pairing of the two domains means nothing
        self._source_order = SampleOrder([len(source.keys)], [1.0], config.seed)
        self._target_order = SampleOrder([len(target.keys)], [1.0], config.seed + 1)

    def __getitem__(self, step: int) -> list[DomainBatch]:
        slots = np.arange(step * self.size, (step + 1) * self.size)
        of_source = self._source_order(slots).sample
        of_target = self._target_order(slots).sample
        batch = DomainBatch(
            source=self.source.vectors[of_source],
            labels=self.source.labels[of_source],
            target=self.target.vectors[of_target],
            target_samples=of_target,
            source_samples=of_source,
            step=step,
        )
        return [batch]


def read_classes(path: str | Path) -> dict[str, str]:
    """Class of each key of a CSV. Raises UserError without the two columns."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        names = {(name or "").lower(): name for name in reader.fieldnames or []}
        key = names.get("key") or names.get("file")
        if key is None or "class" not in names:
            raise UserError(
                f"{path} needs the columns file (or key) and class; it has {', '.join(names)}"
            )
        return {Path(row[key]).stem: row[names["class"]] for row in reader}


def open_domain(
    latents: Latents, classes: list[str], labels: dict[str, str], labelled: bool
) -> Domain:
    """All latents as a domain; ``labelled`` False leaves every label unknown, whatever is known."""
    number = {name: i for i, name in enumerate(classes)}
    found = [UNKNOWN] * len(latents)
    if labelled:
        found = [number.get(labels.get(key, ""), UNKNOWN) for key in latents.keys]
    rows = latents.rows(np.arange(len(latents)))
    return Domain(latents.keys, F.normalize(torch.from_numpy(rows), dim=-1), torch.tensor(found))


def choose_labelled(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Samples with a label, at most ``per_class`` of each class (0 = all), by the seed."""
    rng = np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels[labels != UNKNOWN]):
        members = np.nonzero(labels == label)[0]
        kept.append(rng.permutation(members)[:per_class] if per_class else members)
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
