"""Probes: what is trained on frozen features to tell classes.

``linear`` is ridge regression to classes with its strength chosen by leave-one-out, which is closed
form and has no learning rate to be unfair with; ``knn`` trains nothing; ``attentive`` learns which
tokens to look at (one query of a cross-attention, as in CAE and V-JEPA). The first two see the mean
of a sample's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.alignment.latents import Latents
from fourm.model.roles import PROJECTION, state_roles

_NEIGHBOURS = 10
_ALPHAS = np.logspace(-1, 5, 7)
_STEPS, _BATCH, _RATE, _DECAY = 200, 64, 1e-3, 0.05
_HEADS = 4


@dataclass(frozen=True)
class Frozen:
    """Features of N samples."""

    latents: Latents

    @cached_property
    def means(self) -> np.ndarray:
        """(N, D) float32."""
        return self.latents.rows(np.arange(len(self.latents)))

    @property
    def have_tokens(self) -> bool:
        """More is known than a vector a sample."""
        return self.latents.offsets is not None


class Head(Protocol):
    """One kind of probe."""

    name: str
    needs_tokens: bool

    def predict(
        self, train: Frozen, chosen: np.ndarray, classes: np.ndarray, test: Frozen, seed: int
    ) -> np.ndarray:
        """Classes of all test samples (M,), learnt from samples ``chosen`` (n,) of ``train`` and
        their ``classes`` (n,).
        """
        ...


class Linear(Head):
    """Ridge regression to one-hot classes."""

    name, needs_tokens = "linear", False

    def predict(
        self, train: Frozen, chosen: np.ndarray, classes: np.ndarray, test: Frozen, seed: int
    ) -> np.ndarray:
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), RidgeClassifierCV(_ALPHAS))
        return model.fit(train.means[chosen], classes).predict(test.means)


class Neighbours(Head):
    """The nearest ten by cosine, the nearer the weightier."""

    name, needs_tokens = "knn", False

    def predict(
        self, train: Frozen, chosen: np.ndarray, classes: np.ndarray, test: Frozen, seed: int
    ) -> np.ndarray:
        from sklearn.neighbors import KNeighborsClassifier

        num = min(_NEIGHBOURS, len(chosen))
        model = KNeighborsClassifier(num, weights="distance", metric="cosine")
        return model.fit(train.means[chosen], classes).predict(test.means)


class Attentive(Head):
    """One query over a sample's tokens, then a linear layer."""

    name, needs_tokens = "attentive", True

    def predict(
        self, train: Frozen, chosen: np.ndarray, classes: np.ndarray, test: Frozen, seed: int
    ) -> np.ndarray:
        names, wanted = np.unique(classes, return_inverse=True)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            pool = _fitted(train.latents, chosen, torch.from_numpy(wanted), len(names))
        found = []
        with torch.no_grad():
            for part in _parts(np.arange(len(test.latents))):
                found.append(pool(*_tokens(test.latents, part)).argmax(1).numpy())
        return names[np.concatenate(found)]


HEADS: dict[str, Head] = {head.name: head for head in (Linear(), Neighbours(), Attentive())}


class AttentivePool(nn.Module):
    """Tokens (B, L, D), scaled by the training set's mean and deviation, -> logits (B, C)."""

    def __init__(self, mean: Tensor, deviation: Tensor, num_classes: int) -> None:
        super().__init__()
        dim = len(mean)
        self.mean, self.deviation = nn.Buffer(mean), nn.Buffer(deviation)
        self.query = nn.Parameter(torch.randn(dim) * 0.02)
        num_heads = next(num for num in range(_HEADS, 0, -1) if dim % num == 0)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        state_roles(self.attention, in_proj_weight=PROJECTION)
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, num_classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``mask`` (B, L), True = a token."""
        tokens = (tokens - self.mean) / self.deviation
        query = self.query.expand(len(tokens), 1, -1)
        seen, _ = self.attention(query, tokens, tokens, ~mask, need_weights=False)
        return self.out(self.norm(seen[:, 0]))


def _fitted(latents: Latents, chosen: np.ndarray, wanted: Tensor, num: int) -> AttentivePool:
    """AdamW for a fixed number of small batches, rate falling to zero."""
    some, mask = _tokens(latents, chosen[: 4 * _BATCH])
    rows = some[mask]
    pool = AttentivePool(rows.mean(0), rows.std(0).clamp_min(1e-6), num)
    optimizer = torch.optim.AdamW(pool.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        at = torch.randperm(len(chosen))[:_BATCH]
        loss = F.cross_entropy(pool(*_tokens(latents, chosen[at.numpy()])), wanted[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return pool.eval()


def _tokens(latents: Latents, samples: np.ndarray) -> tuple[Tensor, Tensor]:
    """(B, L, D) and its mask (B, L), True = a token; of a sample without any, one of zeros."""
    tokens, mask = latents.tokens(samples)
    mask[:, 0] = True
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def _parts(numbers: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers), 4 * _BATCH):
        yield numbers[start : start + 4 * _BATCH]
