"""What ``align.py`` trains: prepared latents, heads or a shared connector, and their losses. Its
config is here too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fourm.alignment.augment import AugmentConfig, augment
from fourm.alignment.connectors import ConnectorConfig, ResidualHead, SharedConnector
from fourm.alignment.contrast import Temperature, info_nce
from fourm.alignment.pairs import LatentBatch, SplitConfig
from fourm.errors import UserError
from fourm.training.loop import LoopConfig

# batches of a direction after which its recall is forgotten by two thirds (adaptive schedule)
_PASSES = 50.0


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What is done to latents before anything is trained; means and axes are those of the training
    latents.
    """

    center: bool = False
    unit: bool = False  # of length 1, after centring
    pca: int = 0  # > 0: leading axes kept


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Directions and their order."""

    schedule: Literal["joint", "round_robin", "weighted", "adaptive"] = "joint"
    # weighted: of ``image>text``; 1 if not named
    weights: dict[str, float] = field(default_factory=dict)
    regression: float = 0.0  # share of the regression loss; the rest is contrast
    temperature: float = 0.07
    learn_temperature: bool = True


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Everything an alignment is made of; YAML files under ``configs/alignment`` are this tree."""

    out: str
    latents: dict[str, str]  # modality -> folder of its latents
    split: SplitConfig
    loop: LoopConfig
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    connect: ConnectorConfig = field(default_factory=ConnectorConfig)
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(mixup="none"))
    tasks: TaskConfig = field(default_factory=TaskConfig)
    chunk: int = 0  # > 0: rows embedded at a time
    # heads: this modality's latents are the space itself, so that others can stand in for them
    anchor: str = ""

    def __post_init__(self) -> None:
        if len(self.latents) < 2:
            raise UserError("there must be at least two modalities to align")
        if self.connect.kind == "heads" and self.tasks.regression and not self.anchor:
            raise UserError(
                "regression needs connect.kind experts or dense, or an anchor: heads have no"
                " target to regress"
            )
        if self.anchor and (
            self.anchor not in self.latents
            or self.connect.kind != "heads"
            or self.prepare != PrepareConfig()
        ):
            raise UserError(
                "anchor must name one of the latents, for connect.kind heads without any prepare"
            )

    @property
    def directions(self) -> list[tuple[str, str]]:
        return list(permutations(self.latents, 2))


class Prepare(nn.Module):
    """Centred, normalised, rotated latents; what it needs is stored with the weights."""

    mean: Tensor
    axes: Tensor

    def __init__(self, dim: int, config: PrepareConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.pca or dim
        if self.dim > dim:
            raise UserError(f"pca {config.pca} is more than the latents' {dim}")
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer(
            "axes", torch.eye(dim)[:, : self.dim].contiguous() if config.pca else torch.zeros(0)
        )

    def fit(self, rows: Tensor) -> None:
        if self.config.center:
            self.mean.copy_(rows.mean(0))
        if self.config.pca:
            ready = self._unit(rows - self.mean)
            values, vectors = torch.linalg.eigh(ready.double().T @ ready.double())
            axes = vectors[:, values.argsort(descending=True)[: self.dim]]
            # eigenvectors have no sign of their own
            signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
            self.axes.copy_((axes * signs).float())

    def _unit(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1) if self.config.unit else rows

    def forward(self, rows: Tensor) -> Tensor:
        ready = self._unit(rows - self.mean)
        return ready @ self.axes if self.config.pca else ready


class Aligner(nn.Module):
    """Latents of all modalities -> one space (heads), or each other's (shared connector)."""

    recalls: Tensor

    def __init__(self, config: AlignConfig, dims: dict[str, int]) -> None:
        super().__init__()
        self.config, self.names = config, list(dims)
        self.prepare = nn.ModuleDict(
            {name: Prepare(dim, config.prepare) for name, dim in dims.items()}
        )
        ready = {name: int(self.prepare[name].dim) for name in dims}  # type: ignore[arg-type]
        c = config.connect
        if config.anchor:
            c = replace(c, dim_out=ready[config.anchor])
        self.heads = (
            nn.ModuleDict(
                {
                    n: nn.Identity() if n == config.anchor else ResidualHead(d, c)
                    for n, d in ready.items()
                }
            )
            if c.kind == "heads"
            else None
        )
        self.shared = SharedConnector(ready, config.directions, c) if c.kind != "heads" else None
        self.temperature = Temperature(config.tasks.temperature)
        self.temperature.requires_grad_(config.tasks.learn_temperature)
        self.register_buffer(
            "recalls", torch.full((len(config.directions),), 0.5)
        )  # of recent batches, for the adaptive schedule
        self.last_use: dict[str, Tensor] = {}

    # ---- use -------------------------------------------------------------------------------------

    def embed(self, name: str, rows: Tensor) -> Tensor:
        """Latents (B, d) of a modality in the shared space (B, dim_out).

        Raises UserError without heads or for a wrong width.
        """
        if self.heads is None:
            raise UserError(
                "a shared connector has no common space: use predict(source, target, rows)"
            )
        return self.heads[name](self._ready(name, rows))

    def predict(self, source: str, target: str, rows: Tensor) -> Tensor:
        """Latents (B, d) of one modality as the other's, in the space that ``targets`` gives."""
        if self.heads is not None:
            return self.embed(source, rows)
        assert self.shared is not None
        moved, _, _ = self.shared.embed(self._ready(source, rows), (source, target), 0)
        return self.shared.contrast[target](moved)

    def targets(self, target: str, rows: Tensor) -> Tensor:
        """What predictions of a modality are compared with."""
        if self.heads is not None:
            return self.embed(target, rows)
        assert self.shared is not None
        return self.shared.target[target](self._ready(target, rows))

    def _ready(self, name: str, rows: Tensor) -> Tensor:
        wanted = len(self.prepare[name].mean)  # type: ignore[arg-type]
        if rows.shape[-1] != wanted:
            raise UserError(
                f"latents of {name} have {rows.shape[-1]} numbers, this connector was trained on"
                f" {wanted}"
            )
        return self.prepare[name](rows)

    # ---- training --------------------------------------------------------------------------------

    def forward(self, batch: LatentBatch) -> Tensor:
        """Sums of the loss terms (contrast, regression, balance) over the batch's rows."""
        generator = torch.Generator().manual_seed(
            zlib.crc32(f"{self.config.loop.seed} {batch.samples[0]} {batch.step}".encode())
        )
        ready = [self._ready(name, v) for name, v in zip(self.names, batch.values, strict=True)]
        ready = augment(ready, self.config.augment, generator)
        mixed = self.config.augment.mixup != "none"
        groups = (
            None if mixed or len(torch.unique(batch.groups)) == len(batch.groups) else batch.groups
        )
        return (
            self._with_heads(ready, groups)
            if self.heads is not None
            else self._shared(ready, groups, batch)
        )

    def _with_heads(self, ready: list[Tensor], groups: Tensor | None) -> Tensor:
        assert self.heads is not None
        embedded = [
            self._chunked(self.heads[name], z) for name, z in zip(self.names, ready, strict=True)
        ]
        tau, total, num = self.temperature(), ready[0].new_zeros(()), len(embedded)
        for i in range(num):
            for j in range(i):
                total = total + info_nce(embedded[i], embedded[j], tau, groups)
        contrast, regression, alpha = (
            total / (num * (num - 1) / 2),
            total.new_zeros(()),
            self.config.tasks.regression,
        )
        if self.config.anchor:
            wanted = ready[self.names.index(self.config.anchor)]
            made = [
                e
                for name, e in zip(self.names, embedded, strict=True)
                if name != self.config.anchor
            ]
            regression = sum((F.mse_loss(e, wanted, reduction="sum") for e in made), regression) / (
                len(made) * wanted.var() * wanted.shape[1]
            )
        return torch.stack([(1 - alpha) * contrast, alpha * regression, total.new_zeros(())])

    def _chunked(self, head: nn.Module, rows: Tensor) -> Tensor:
        """Exact embeddings and gradients of a batch whose activations would not fit."""
        if not self.config.chunk or len(rows) <= self.config.chunk:
            return head(rows)
        parts = [
            checkpoint(head, part, use_reentrant=False) for part in rows.split(self.config.chunk)
        ]
        return torch.cat([p for p in parts if p is not None])

    def _shared(self, ready: list[Tensor], groups: Tensor | None, batch: LatentBatch) -> Tensor:
        assert self.shared is not None
        tau, alpha = self.temperature(), self.config.tasks.regression
        sums = ready[0].new_zeros(3)
        for pair in self.active(batch.step):
            source, target = (ready[self.names.index(name)] for name in pair)
            made = self.shared(source, target, pair)
            contrast = info_nce(made.contrast, made.target, tau, groups)
            regression = (
                F.smooth_l1_loss(made.regression, target.detach(), reduction="sum")
                / target.shape[1]
            )
            balance = made.balance * len(source)
            sums = sums + torch.stack(
                [(1 - alpha) * contrast, alpha * regression, self.config.connect.balance * balance]
            )
            self.last_use[">".join(pair)] = made.use.detach()
            if self.training:
                hit = (made.contrast.detach() @ made.target.detach().T).argmax(1) == torch.arange(
                    len(source), device=source.device
                )
                i = self.config.directions.index(pair)
                self.recalls[i].lerp_(hit.float().mean(), 1 / _PASSES)
        return sums / len(self.active(batch.step))

    def active(self, step: int) -> list[tuple[str, str]]:
        """Directions of a step: all, or one that the schedule chooses; a pure function of step,
        seed and the stored recalls.
        """
        directions, tasks = self.config.directions, self.config.tasks
        if tasks.schedule == "joint":
            return directions
        if tasks.schedule == "round_robin":
            return [directions[step % len(directions)]]
        rng = np.random.default_rng(zlib.crc32(f"{self.config.loop.seed} {step}".encode()))
        if tasks.schedule == "weighted":
            weights = np.array([tasks.weights.get(">".join(d), 1.0) for d in directions])
        else:  # those that are retrieved worst are trained most
            weights = 1.05 - self.recalls.cpu().numpy().astype(np.float64)
        return [directions[rng.choice(len(directions), p=weights / weights.sum())]]


def gradient_cosines(model: Aligner, batch: LatentBatch) -> dict[str, float]:
    """Cosine between the gradients that two directions give the shared parameters: below 0 they
    pull apart.
    """
    assert model.shared is not None
    trunk = list(model.shared.trunk.parameters())
    ready = [model._ready(name, v) for name, v in zip(model.names, batch.values, strict=True)]
    gradients = {}
    for pair in model.config.directions:
        source, target = (ready[model.names.index(name)] for name in pair)
        made = model.shared(source, target, pair)
        loss = info_nce(made.contrast, made.target, model.temperature()) / len(source)
        parts = torch.autograd.grad(loss, trunk, allow_unused=True)
        gradients[">".join(pair)] = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1)
                for g, p in zip(parts, trunk, strict=True)
            ]
        )
    names = list(gradients)
    return {
        f"{a} | {b}": float(F.cosine_similarity(gradients[a], gradients[b], dim=0))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
