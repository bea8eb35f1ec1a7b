"""Adaptation as a task of the loop: what it reads, its epochs, its pseudo-labels, its figures.

Labels of the target are no input: the task reads labels of source keys only, and no setting can
select by them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.alignment.domains import (
    Domain,
    DomainBatch,
    DomainBatches,
    choose_labelled,
    open_domain,
    read_classes,
)
from fourm.alignment.latents import Latents, open_latents
from fourm.alignment.unimos import AdaptConfig, UniMoS
from fourm.alignment.unimos_losses import information
from fourm.config import dump
from fourm.errors import UserError

_EPOCH_SEED = 100_003  # a prime: seeds of runs and epochs do not meet


class AdaptTask:
    """UniMoS (or training on the source alone) as a task of the loop."""

    terms = ("loss",)
    unit = "samples"

    def __init__(self, config: AdaptConfig) -> None:
        self.config = config
        source = open_latents(config.source)
        target = open_latents(config.target)
        prompts = open_latents(config.prompts)
        _check(source, target, prompts)
        labels = read_classes(config.labels)
        self.classes = prompts.keys
        self.source = _labelled_part(open_domain(source, self.classes, labels, True), config)
        self.target = open_domain(target, self.classes, labels, False)
        self.prompts = torch.from_numpy(prompts.rows(np.arange(len(prompts))))
        smaller = min(len(self.source.keys), len(self.target.keys))
        self.epoch_steps = config.num_phases * max(1, smaller // config.loop.batch_size)

    def model(self) -> UniMoS:
        """A fresh UniMoS, its weights a function of the config's seed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.loop.seed)
            return UniMoS(self.prompts, self.config, len(self.target.keys))

    def batches(self, rank: int, world_size: int) -> DomainBatches:
        if world_size > 1:
            raise UserError("adaptation runs in one process: its data are a few thousand vectors")
        return DomainBatches(self.source, self.target, self.config.loop)

    def counts(self, batch: DomainBatch) -> np.ndarray:
        return np.array([float(len(batch.source))])

    def forward(self, model: nn.Module, batch: DomainBatch) -> Tensor:
        assert isinstance(model, UniMoS)
        epoch, since = divmod(batch.step, self.epoch_steps)
        if since == 0 and self.config.method == "unimos":
            refresh_pseudo(model, self.target.vectors.to(batch.source.device), epoch)
            if epoch:
                seed = self.config.loop.seed * _EPOCH_SEED + epoch
                model.reset_weight(torch.Generator().manual_seed(seed))
        return model(batch)

    def weights(self, counts: np.ndarray) -> np.ndarray:
        return 1.0 / np.maximum(counts, 1.0)

    def watch(self, model: nn.Module) -> dict[str, float]:
        return {}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Unsupervised figures of the target."""
        assert isinstance(model, UniMoS)
        target = self.target.vectors.to(device)
        opinion = model.ensemble(target, self.config.loop.steps // self.epoch_steps)
        agree = opinion.argmax(1) == model.zero_shot_logits(target).argmax(1)
        return {
            "information": float(information(opinion)),
            "agreement with zero-shot": float(agree.float().mean()),
        }

    def write_description(self, model: nn.Module, folder: Path) -> None:
        dump(self.config, folder / "adapt.yaml")

    def describe(self, batch: DomainBatch) -> dict[str, Any]:
        return {
            "source": [self.source.keys[i] for i in batch.source_samples],
            "target": [self.target.keys[i] for i in batch.target_samples],
        }


@torch.no_grad()
def refresh_pseudo(model: UniMoS, target: Tensor, epoch: int) -> None:
    """Pseudo-labels of a new epoch for the target (n, d): zero-shot first, then by turns the
    nearest class centroid and the ensemble's opinion.
    """
    was_training = model.training
    model.eval()
    if epoch == 0:
        labels = model.zero_shot_logits(target).argmax(1)
    else:
        opinion = model.ensemble(target, epoch)
        labels = opinion.argmax(1)
        if epoch % 2:
            # a class's centroid: features weighted by how much they are thought to be of it
            features = F.normalize(model.features(target), dim=-1)
            centroids = F.normalize(opinion.T @ features, dim=-1)
            labels = (features @ centroids.T).argmax(1)
    model.pseudo.copy_(labels)
    model.train(was_training)


def _check(source: Latents, target: Latents, prompts: Latents) -> None:
    """Raises UserError for latents of different spaces or a sample in both domains."""
    if not source.info.dim == target.info.dim == prompts.info.dim:
        raise UserError(
            f"source, target and prompts are of different spaces: {source.info.dim},"
            f" {target.info.dim}, {prompts.info.dim} numbers"
        )
    both = set(source.keys) & set(target.keys)
    if both:
        raise UserError(
            f"{len(both)} samples are in the source and in the target, the first is"
            f" {min(both)!r}: use disjoint ones"
        )


def _labelled_part(domain: Domain, config: AdaptConfig) -> Domain:
    """Samples with labels, as many as the config asks for. Raises UserError if there are none."""
    kept = choose_labelled(domain.labels.numpy(), config.labels_per_class, config.loop.seed)
    if not len(kept):
        raise UserError(
            f"no sample of {config.source} has a class of {config.prompts} in {config.labels}"
        )
    return domain.take(kept)
