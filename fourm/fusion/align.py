"""Align frozen encoders on cached latents: FuseMix (2312.10144) and Alt-MoE (2409.05929), one trainer, in the loop that trains FourM.

    fourm fusion align CONFIG [key=value ...]          (or accelerate launch -m fourm.fusion.align --config CONFIG)

FuseMix is ``connect.kind: heads`` with shared mixup; Alt-MoE is ``experts`` with regression beside contrast and a schedule over directions.
Their parts combine freely. Held-out figures are recalls over the whole validation gallery; the test subjects are only looked at by
``fourm fusion evaluate``. Batches of any size fit in memory: with ``chunk`` embeddings are recomputed chunk by chunk in the backward pass,
which gives the exact gradient of the whole batch.
"""

from __future__ import annotations

import argparse
import json
import zlib
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fourm.commands import run_command
from fourm.config import dump, load
from fourm.data.order import SampleOrder
from fourm.data.shards import write_json_atomic
from fourm.fusion.augment import AugmentConfig, augment
from fourm.fusion.connectors import ConnectorConfig, ResidualHead, SharedConnector
from fourm.fusion.contrast import Temperature, info_nce
from fourm.fusion.latents import Latents, hash_keys, open_latents, paired, write_latents
from fourm.fusion.retrieval import recall
from fourm.training.loop import Loop, LoopConfig
from fourm.weights import WEIGHTS_FILE

_PASSES = 50.0  # batches of a direction after which its recall is forgotten by two thirds (adaptive schedule)


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Subjects for training, for choosing settings, and for the final test; never one subject in two of them."""

    num_val: int
    num_test: int
    num_train: int = 0  # 0 = all others
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What is done to latents before anything is trained; means and axes are those of the training latents."""

    center: bool = False
    unit: bool = False  # of length 1, after centring
    pca: int = 0  # > 0: leading axes kept


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Directions and their order."""

    schedule: Literal["joint", "round_robin", "weighted", "adaptive"] = "joint"
    weights: dict[str, float] = field(default_factory=dict)  # weighted: of ``image>text``; 1 if not named
    regression: float = 0.0  # share of the regression loss; the rest is contrast
    temperature: float = 0.07
    learn_temperature: bool = True


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Everything an alignment is made of; YAML files under ``configs/fusion`` are this tree."""

    out: str
    latents: dict[str, str]  # modality -> folder of its latents
    split: SplitConfig
    loop: LoopConfig
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    connect: ConnectorConfig = field(default_factory=ConnectorConfig)
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(mixup="none"))
    tasks: TaskConfig = field(default_factory=TaskConfig)
    chunk: int = 0  # > 0: rows embedded at a time
    anchor: str = ""  # heads: this modality's latents are the space itself, so that others can stand in for them

    def __post_init__(self) -> None:
        if len(self.latents) < 2:
            raise ValueError("there must be at least two modalities to align")
        if self.connect.kind == "heads" and self.tasks.regression and not self.anchor:
            raise ValueError("regression needs connect.kind experts or dense, or an anchor: heads have no target to regress")
        if self.anchor and (self.anchor not in self.latents or self.connect.kind != "heads" or self.prepare != PrepareConfig()):
            raise ValueError("anchor must name one of the latents, for connect.kind heads without any prepare")

    @property
    def directions(self) -> list[tuple[str, str]]:
        return list(permutations(self.latents, 2))


@dataclass(frozen=True)
class Split:
    """Numbers of samples."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_subjects(latents: Latents, config: SplitConfig) -> Split:
    """Samples by subject. Raises ValueError if there are too few."""
    subjects = latents.group_ids
    num = int(subjects.max()) + 1
    away = config.num_val + config.num_test
    if away + max(config.num_train, 1) > num:
        raise ValueError(f"{num} subjects are too few for {config.num_train or 1} + {config.num_val} + {config.num_test}")
    order = np.random.default_rng(config.seed).permutation(num)
    parts = (
        order[away : away + config.num_train] if config.num_train else order[away:],
        order[: config.num_val],
        order[config.num_val : away],
    )
    return Split(*(np.nonzero(np.isin(subjects, part))[0] for part in parts))


@dataclass(frozen=True)
class LatentBatch:
    """Latents of the same samples from every modality."""

    values: tuple[Tensor, ...]  # (B, d) each
    groups: Tensor  # (B,)
    samples: np.ndarray
    step: int

    def to(self, device: torch.device | str) -> LatentBatch:
        return LatentBatch(tuple(v.to(device) for v in self.values), self.groups.to(device), self.samples, self.step)

    def pin_memory(self) -> LatentBatch:
        return LatentBatch(tuple(v.pin_memory() for v in self.values), self.groups.pin_memory(), self.samples, self.step)


class LatentBatches(torch.utils.data.Dataset):
    """Step number -> this rank's micro-batches; every epoch shows each sample once."""

    def __init__(
        self, latents: dict[str, Latents], samples: np.ndarray, config: LoopConfig, rank: int, world_size: int
    ) -> None:
        each, odd = divmod(config.batch_size, world_size * config.micro_batches)
        if odd:
            raise ValueError(f"batch size {config.batch_size} is not a multiple of {world_size} ranks x {config.micro_batches}")
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
    values = tuple(torch.from_numpy(held.rows(samples)) for held in latents)
    return LatentBatch(values, torch.from_numpy(latents[0].group_ids[samples]), samples, step)


class Prepare(nn.Module):
    """Centred, normalised, rotated latents; what it needs is stored with the weights."""

    mean: Tensor
    axes: Tensor

    def __init__(self, dim: int, config: PrepareConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.pca or dim
        if self.dim > dim:
            raise ValueError(f"pca {config.pca} is more than the latents' {dim}")
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", torch.eye(dim)[:, : self.dim].contiguous() if config.pca else torch.zeros(0))

    def fit(self, rows: Tensor) -> None:
        if self.config.center:
            self.mean.copy_(rows.mean(0))
        if self.config.pca:
            ready = self._unit(rows - self.mean)
            values, vectors = torch.linalg.eigh(ready.double().T @ ready.double())
            axes = vectors[:, values.argsort(descending=True)[: self.dim]]
            signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # eigenvectors have no sign of their own
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
        self.prepare = nn.ModuleDict({name: Prepare(dim, config.prepare) for name, dim in dims.items()})
        ready = {name: int(self.prepare[name].dim) for name in dims}  # type: ignore[arg-type]
        c = config.connect
        if config.anchor:
            c = replace(c, dim_out=ready[config.anchor])
        self.heads = (
            nn.ModuleDict({n: nn.Identity() if n == config.anchor else ResidualHead(d, c) for n, d in ready.items()})
            if c.kind == "heads" else None
        )  # fmt: skip
        self.shared = SharedConnector(ready, config.directions, c) if c.kind != "heads" else None
        self.temperature = Temperature(config.tasks.temperature)
        self.temperature.requires_grad_(config.tasks.learn_temperature)
        self.register_buffer(
            "recalls", torch.full((len(config.directions),), 0.5)
        )  # of recent batches, for the adaptive schedule
        self.last_use: dict[str, Tensor] = {}

    # ---- use -------------------------------------------------------------------------------------------------------------

    def embed(self, name: str, rows: Tensor) -> Tensor:
        """Latents (B, d) of a modality in the shared space (B, dim_out). Raises ValueError without heads or for a wrong width."""
        if self.heads is None:
            raise ValueError("a shared connector has no common space: use predict(source, target, rows)")
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
            raise ValueError(f"latents of {name} have {rows.shape[-1]} numbers, this connector was trained on {wanted}")
        return self.prepare[name](rows)

    # ---- training --------------------------------------------------------------------------------------------------------

    def forward(self, batch: LatentBatch) -> Tensor:
        """Sums of the loss terms (contrast, regression, balance) over the batch's rows."""
        generator = torch.Generator().manual_seed(
            zlib.crc32(f"{self.config.loop.seed} {batch.samples[0]} {batch.step}".encode())
        )
        ready = [self._ready(name, v) for name, v in zip(self.names, batch.values, strict=True)]
        ready = augment(ready, self.config.augment, generator)
        mixed = self.config.augment.mixup != "none"
        groups = None if mixed or len(torch.unique(batch.groups)) == len(batch.groups) else batch.groups
        return self._with_heads(ready, groups) if self.heads is not None else self._shared(ready, groups, batch)

    def _with_heads(self, ready: list[Tensor], groups: Tensor | None) -> Tensor:
        assert self.heads is not None
        embedded = [self._chunked(self.heads[name], z) for name, z in zip(self.names, ready, strict=True)]
        tau, total, num = self.temperature(), ready[0].new_zeros(()), len(embedded)
        for i in range(num):
            for j in range(i):
                total = total + info_nce(embedded[i], embedded[j], tau, groups)
        contrast, regression, alpha = total / (num * (num - 1) / 2), total.new_zeros(()), self.config.tasks.regression
        if self.config.anchor:
            wanted = ready[self.names.index(self.config.anchor)]
            made = [e for name, e in zip(self.names, embedded, strict=True) if name != self.config.anchor]
            regression = sum((F.mse_loss(e, wanted, reduction="sum") for e in made), regression) / (
                len(made) * wanted.var() * wanted.shape[1]
            )
        return torch.stack([(1 - alpha) * contrast, alpha * regression, total.new_zeros(())])

    def _chunked(self, head: nn.Module, rows: Tensor) -> Tensor:
        """Exact embeddings and gradients of a batch whose activations would not fit."""
        if not self.config.chunk or len(rows) <= self.config.chunk:
            return head(rows)
        parts = [checkpoint(head, part, use_reentrant=False) for part in rows.split(self.config.chunk)]
        return torch.cat([p for p in parts if p is not None])

    def _shared(self, ready: list[Tensor], groups: Tensor | None, batch: LatentBatch) -> Tensor:
        assert self.shared is not None
        tau, alpha = self.temperature(), self.config.tasks.regression
        sums = ready[0].new_zeros(3)
        for pair in self.active(batch.step):
            source, target = (ready[self.names.index(name)] for name in pair)
            made = self.shared(source, target, pair)
            contrast = info_nce(made.contrast, made.target, tau, groups)
            regression = F.smooth_l1_loss(made.regression, target.detach(), reduction="sum") / target.shape[1]
            balance = made.balance * len(source)
            sums = sums + torch.stack([(1 - alpha) * contrast, alpha * regression, self.config.connect.balance * balance])
            self.last_use[">".join(pair)] = made.use.detach()
            if self.training:
                hit = (made.contrast.detach() @ made.target.detach().T).argmax(1) == torch.arange(
                    len(source), device=source.device
                )
                i = self.config.directions.index(pair)
                self.recalls[i].lerp_(hit.float().mean(), 1 / _PASSES)
        return sums / len(self.active(batch.step))

    def active(self, step: int) -> list[tuple[str, str]]:
        """Directions of a step: all, or one that the schedule chooses; a pure function of step, seed and the stored recalls."""
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


class AlignTask:
    """Alignment as a task of the loop."""

    terms = ("contrast", "regression", "balance")
    unit = "pairs"

    def __init__(self, config: AlignConfig) -> None:
        self.config = config
        self.latents = paired({name: open_latents(folder) for name, folder in config.latents.items()})
        self.split = split_subjects(next(iter(self.latents.values())), config.split)
        if config.loop.batch_size > len(self.split.train):
            raise ValueError(f"batch size {config.loop.batch_size} is more than the {len(self.split.train)} training samples")

    def model(self) -> Aligner:
        with torch.random.fork_rng():
            torch.manual_seed(self.config.loop.seed)
            model = Aligner(self.config, {name: held.info.dim for name, held in self.latents.items()})
        for name, held in self.latents.items():
            model.prepare[name].fit(torch.from_numpy(held.rows(self.split.train)))  # type: ignore[operator]
        return model

    def batches(self, rank: int, world_size: int) -> LatentBatches:
        return LatentBatches(self.latents, self.split.train, self.config.loop, rank, world_size)

    def counts(self, batch: LatentBatch) -> np.ndarray:
        return np.full(3, float(len(batch.samples)))

    def forward(self, model: nn.Module, batch: LatentBatch) -> Tensor:
        return model(batch)

    def weights(self, counts: np.ndarray) -> np.ndarray:
        return 1.0 / np.maximum(counts, 1.0)

    def watch(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Aligner)
        figures = {"temperature": float(model.temperature().detach())}
        if model.last_use and self.config.connect.kind == "experts":
            use = torch.stack(list(model.last_use.values())).sum(0)
            figures["expert_entropy"] = entropy_share(use)
        return figures

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        assert isinstance(model, Aligner)
        return retrieval_figures(model, self.latents, self.split.val, device)

    def save(self, model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
        dump(self.config, folder / "align.yaml")
        dims = {name: held.info.dim for name, held in self.latents.items()}
        made_by = {name: held.info.fingerprint for name, held in self.latents.items()}
        write_json_atomic(folder / "latents.json", {"dims": dims, "fingerprints": made_by})
        save_file({n: t.detach().cpu().contiguous() for n, t in weights.items()}, folder / WEIGHTS_FILE)

    def describe(self, batch: LatentBatch) -> dict[str, Any]:
        keys = next(iter(self.latents.values())).keys
        return {"samples": batch.samples.tolist(), "keys": [keys[i] for i in batch.samples]}


def entropy_share(use: Tensor) -> float:
    """Entropy of the use of experts, 1 = all alike, 0 = one alone."""
    p = use.double() / use.sum().clamp_min(1)
    return float(-(p * p.clamp_min(1e-12).log()).sum() / np.log(max(len(use), 2)))


@torch.no_grad()
def retrieval_figures(
    model: Aligner, latents: dict[str, Latents], samples: np.ndarray, device: torch.device | str
) -> dict[str, float]:
    """R@1, R@5 and R@10 of every direction over the gallery of all these samples, and their means."""
    figures: dict[str, float] = {}
    values = {name: torch.from_numpy(held.rows(samples)).to(device) for name, held in latents.items()}
    groups = next(iter(latents.values())).group_ids[samples]
    for source, target in model.config.directions:
        queries = model.predict(source, target, values[source]).cpu().numpy()
        gallery = model.targets(target, values[target]).cpu().numpy()
        for name, value in recall(queries, gallery, groups, groups).items():
            figures[f"{source}>{target}/{name}"] = value
    for k in (1, 5, 10):
        figures[f"R@{k}"] = float(np.mean([v for name, v in figures.items() if name.endswith(f"/R@{k}")]))
    return figures


def gradient_cosines(model: Aligner, batch: LatentBatch) -> dict[str, float]:
    """Cosine between the gradients that two directions give the shared parameters: below 0 they pull apart."""
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
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(parts, trunk, strict=True)]
        )
    names = list(gradients)
    return {
        f"{a} | {b}": float(F.cosine_similarity(gradients[a], gradients[b], dim=0))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }


def align(config: AlignConfig) -> dict[str, float]:
    """Train to the end, or go on where an earlier run stopped; returns the validation figures."""
    task, out = AlignTask(config), Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    loop = Loop(task.model(), task, config.loop, out)
    if loop.lead:
        dump(config, out / "config.yaml")
    figures = loop.run()
    if loop.lead:
        write_json_atomic(out / "done.json", {"step": loop.step, **figures})
    return figures


def load_aligner(folder: str | Path) -> Aligner:
    """A trained aligner from a checkpoint folder (or the newest one of a run's folder)."""
    from fourm.training.checkpoints import newest_checkpoint
    from fourm.weights import load_weights

    folder = Path(folder)
    folder = newest_checkpoint(folder / "checkpoints") or folder
    if not (folder / "latents.json").is_file():
        raise ValueError(f"no aligner in {folder}")
    config = load(AlignConfig, folder / "align.yaml")
    model = Aligner(config, json.loads((folder / "latents.json").read_text())["dims"])
    load_weights(model, folder / WEIGHTS_FILE)
    return model.eval().requires_grad_(False)


def figures_on_test(folder: str | Path) -> dict[str, float]:
    """Recalls of a trained aligner on the test subjects. Raises ValueError for latents of another encoder than it was trained on."""
    from fourm.training.checkpoints import newest_checkpoint

    model = load_aligner(folder)
    latents = paired({name: open_latents(path) for name, path in model.config.latents.items()})
    at = newest_checkpoint(Path(folder) / "checkpoints") or Path(folder)
    for name, made_by in json.loads((at / "latents.json").read_text())["fingerprints"].items():
        if latents[name].info.fingerprint != made_by:
            raise ValueError(
                f"latents {model.config.latents[name]} are of encoder {latents[name].info.encoder} ({latents[name].info.fingerprint}),"
                f" {folder} was trained on {made_by}"
            )
    split = split_subjects(next(iter(latents.values())), model.config.split)
    return retrieval_figures(model, latents, split.test, "cpu")


@torch.no_grad()
def embed_latents(folder: str | Path, modality: str, latents: str | Path, out: str | Path) -> int:
    """Latents of a modality -> unit vectors in the alignment's space, as latents again. Returns how many."""
    model, held = load_aligner(folder), open_latents(latents)
    if modality not in model.names:
        raise ValueError(f"{folder} aligns {', '.join(model.names)}, not {modality}")
    rows = [
        F.normalize(model.embed(modality, torch.from_numpy(held.rows(part))), dim=-1)
        for part in np.array_split(np.arange(len(held)), -(-len(held) // 4096))
    ]
    write_latents(
        Path(out), torch.cat(rows).numpy(), held.keys, encoder=f"{held.info.encoder} aligned", modality=held.info.modality,
        fingerprint=hash_keys([held.info.fingerprint, str(folder)]), groups=None if held.groups == held.keys else held.groups,
    )  # fmt: skip
    return len(held)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Align frozen encoders on cached latents.")
    parser.add_argument("--config", required=True, help="YAML file, see configs/fusion")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config, e.g. loop.steps=1000")
    options = parser.parse_args(arguments)
    run_command(lambda: align(load(AlignConfig, options.config, options.overrides)))


if __name__ == "__main__":
    main()
