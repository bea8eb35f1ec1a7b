"""What ``align.py`` trains: prepared latents, heads or a shared connector, and their losses. Its
config is here too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fourm.alignment.augment import AugmentConfig, augment
from fourm.alignment.connectors import CONTRAST, ConnectorConfig, ResidualHead, SharedConnector
from fourm.alignment.contrast import Temperature, info_nce
from fourm.alignment.pairs import LatentBatch, SplitConfig
from fourm.alignment.prepare import Prepare, PrepareConfig
from fourm.errors import UserError
from fourm.training.loop_config import LoopConfig

# batches of a direction after which its recall is forgotten by two thirds (adaptive schedule)
_PASSES = 50.0


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
    # the modality whose groups count (latents made with --equal-as-one); left out: the first
    groups: str = ""

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
        """All (from, to) pairs of two different modalities."""
        return list(permutations(self.latents, 2))


class Aligner(nn.Module):
    """Latents of all modalities -> one space (heads), or each other's (shared connector)."""

    recalls: Tensor

    def __init__(self, config: AlignConfig, dims: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.names = list(dims)
        prepare = {name: Prepare(dim, config.prepare) for name, dim in dims.items()}
        ready = {name: part.dim for name, part in prepare.items()}
        self.prepare = nn.ModuleDict(prepare)
        connect = config.connect
        if config.anchor:
            connect = replace(connect, dim_out=ready[config.anchor])
        self.heads: nn.ModuleDict | None = None
        self.shared: SharedConnector | None = None
        if connect.kind == "heads":
            self.heads = nn.ModuleDict()
            for name, dim in ready.items():
                anchored = name == config.anchor
                self.heads[name] = nn.Identity() if anchored else ResidualHead(dim, connect)
        else:
            self.shared = SharedConnector(ready, config.directions, connect)
        self.temperature = Temperature(config.tasks.temperature)
        self.temperature.requires_grad_(config.tasks.learn_temperature)
        # share of hits of each direction in recent batches, for the adaptive schedule
        self.register_buffer("recalls", torch.full((len(config.directions),), 0.5))
        self.last_use: dict[str, Tensor] = {}  # of experts by the last batch of each direction

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
        moved = self.shared.embed(self._ready(source, rows), (source, target), CONTRAST)
        return self.shared.contrast[target](moved.rows)

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
        # the first sample tells ranks and micro-batches of a step from each other
        named = f"{self.config.loop.seed} {batch.samples[0]} {batch.step}"
        generator = torch.Generator().manual_seed(zlib.crc32(named.encode()))
        ready = [self._ready(name, v) for name, v in zip(self.names, batch.values, strict=True)]
        ready = augment(ready, self.config.augment, generator)
        mixed = self.config.augment.mixup != "none"
        distinct = len(torch.unique(batch.groups)) == len(batch.groups)
        # a mixture of two pairs is of no group; without repeats there is nothing to mask
        groups = None if mixed or distinct else batch.groups
        if self.heads is not None:
            return self._with_heads(ready, groups)
        return self._shared(ready, groups, batch)

    def _with_heads(self, ready: list[Tensor], groups: Tensor | None) -> Tensor:
        """FuseMix: contrast of every two modalities, averaged over the pairs of them."""
        assert self.heads is not None
        embedded = {
            name: self._chunked(self.heads[name], z)
            for name, z in zip(self.names, ready, strict=True)
        }
        temperature = self.temperature()
        contrast = ready[0].new_zeros(())
        for i, name in enumerate(self.names):
            for other in self.names[:i]:
                pair = info_nce(embedded[name], embedded[other], temperature, groups)
                contrast = contrast + pair
        num = len(self.names)
        contrast = contrast / (num * (num - 1) / 2)
        regression = contrast.new_zeros(())
        if self.config.anchor:
            regression = self._to_anchor(embedded, ready[self.names.index(self.config.anchor)])
        alpha = self.config.tasks.regression
        return torch.stack([(1 - alpha) * contrast, alpha * regression, contrast.new_zeros(())])

    def _to_anchor(self, embedded: dict[str, Tensor], wanted: Tensor) -> Tensor:
        """Squared error of all other modalities' embeddings against the anchor's latents (B, d),
        in variances of these and summed over rows.
        """
        made = [rows for name, rows in embedded.items() if name != self.config.anchor]
        total = wanted.new_zeros(())
        for rows in made:
            total = total + F.mse_loss(rows, wanted, reduction="sum")
        return total / (len(made) * wanted.var() * wanted.shape[1])

    def _chunked(self, head: nn.Module, rows: Tensor) -> Tensor:
        """Exact embeddings and gradients of a batch whose activations would not fit."""
        if not self.config.chunk or len(rows) <= self.config.chunk:
            return head(rows)
        parts = []
        for part in rows.split(self.config.chunk):
            embedded = checkpoint(head, part, use_reentrant=False)
            assert isinstance(embedded, Tensor)
            parts.append(embedded)
        return torch.cat(parts)

    def _shared(self, ready: list[Tensor], groups: Tensor | None, batch: LatentBatch) -> Tensor:
        """Alt-MoE: contrast, regression and balance of the step's directions, averaged over
        them.
        """
        assert self.shared is not None
        temperature = self.temperature()
        alpha = self.config.tasks.regression
        active = self.active(batch.step)
        sums = ready[0].new_zeros(3)
        for pair in active:
            source, target = (ready[self.names.index(name)] for name in pair)
            made = self.shared(source, target, pair)
            contrast = info_nce(made.contrast, made.target, temperature, groups)
            error = F.smooth_l1_loss(made.regression, target.detach(), reduction="sum")
            regression = error / target.shape[1]
            balance = self.config.connect.balance * (made.balance * len(source))
            terms = torch.stack([(1 - alpha) * contrast, alpha * regression, balance])
            sums = sums + terms
            self.last_use[">".join(pair)] = made.use.detach()
            if self.training:
                self._remember(pair, made.contrast.detach(), made.target.detach())
        return sums / len(active)

    def _remember(self, pair: tuple[str, str], queries: Tensor, gallery: Tensor) -> None:
        """Follow the recall of a direction: row i (B, dim_out) should find row i of the batch."""
        own = torch.arange(len(queries), device=queries.device)
        hit = (queries @ gallery.T).argmax(1) == own
        index = self.config.directions.index(pair)
        self.recalls[index].lerp_(hit.float().mean(), 1 / _PASSES)

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
        # an expert that no row chose has no gradient
        parts = torch.autograd.grad(loss, trunk, allow_unused=True, materialize_grads=True)
        gradients[">".join(pair)] = torch.cat([part.reshape(-1) for part in parts])
    return {
        f"{a} | {b}": float(F.cosine_similarity(gradients[a], gradients[b], dim=0))
        for a, b in combinations(gradients, 2)
    }
