"""Adapt frozen contrastive latents to an unlabelled domain: UniMoS, "Split to Merge" (2403.06946).

    fourm fusion adapt CONFIG [key=value ...]

Each picture's vector is separated into a language-associated and a vision-associated part; the
first is read by the class prompts, the second by a small classifier; a learned weight merges them.
Pseudo-labels of the target alternate between the merged opinion and class centroids; a
discriminator, trained on the source, tells the target's parts where to lie. Labels of the target
are no input: the task reads labels of source keys only, and no setting can select by them.
``accuracy`` compares with them afterwards.

The two phases of the published step (all parts on both domains; then the separators alone against
the discriminator) are two steps of the loop. AdamW instead of SGD, squares of the parts' product
averaged instead of summed, logits at the contrastive model's own temperature.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from fourm.alignment.latents import Latents, open_latents
from fourm.commands import run_command
from fourm.config import dump, load
from fourm.data.order import SampleOrder
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.training.loop import Loop, LoopConfig
from fourm.weights import WEIGHTS_FILE, load_weights

_HIDDEN = 256
# of the vision head in the test-time ensemble, by epoch
_FIRST_SHARE, _SHARE_STEP, _LAST_SHARE = 0.8, 0.05, 0.3
_DEBIAS, _DEBIAS_MOMENTUM = 0.5, 0.99
_RESET = 0.5  # probability that a tensor of the weight network starts anew in an epoch


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Everything an adaptation is made of."""

    out: str
    source: str  # latents of labelled pictures, in the contrastive model's space
    target: str  # latents of unlabelled pictures
    prompts: str  # latents of the class prompts, one for each class; keys are the class names
    labels: str  # CSV with columns file (or key) and class; rows of the source are used
    loop: LoopConfig
    temperature: float = 0.05  # of the contrastive model
    labels_per_class: int = 0  # 0 = all
    method: Literal["unimos", "source_only"] = "unimos"
    learn_weight: bool = True  # False: both opinions count half
    discriminator: bool = True
    orthogonality: bool = True
    pseudo_labels: bool = True
    # which epoch: no choice here sees the target's labels
    select: Literal["last", "information"] = "last"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"temperature {self.temperature} must be above 0")


@dataclass(frozen=True)
class Domain:
    """Vectors of one domain, of length 1, and labels where they are known."""

    keys: list[str]
    vectors: Tensor  # (n, d)
    labels: Tensor  # (n,); -1 = unknown


@dataclass(frozen=True)
class DomainBatch:
    """As many samples of each domain."""

    source: Tensor
    labels: Tensor
    target: Tensor
    target_samples: np.ndarray
    source_samples: np.ndarray
    step: int

    def to(self, device: torch.device | str) -> DomainBatch:
        return replace(
            self,
            source=self.source.to(device),
            labels=self.labels.to(device),
            target=self.target.to(device),
        )

    def pin_memory(self) -> DomainBatch:
        return replace(
            self,
            source=self.source.pin_memory(),
            labels=self.labels.pin_memory(),
            target=self.target.pin_memory(),
        )


def read_classes(path: str | Path) -> dict[str, str]:
    """Class of each key of a CSV. Raises UserError without the two columns."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        names = {(n or "").lower(): n for n in reader.fieldnames or []}
        key = names.get("key") or names.get("file")
        if key is None or "class" not in names:
            raise UserError(
                f"{path} needs the columns file (or key) and class; it has {', '.join(names)}"
            )
        return {Path(row[key]).stem: row[names["class"]] for row in reader}


def open_domain(
    latents: Latents, classes: list[str], labels: dict[str, str], labelled: bool
) -> Domain:
    number = {name: i for i, name in enumerate(classes)}
    found = [number.get(labels.get(key, ""), -1) if labelled else -1 for key in latents.keys]
    vectors = F.normalize(torch.from_numpy(latents.rows(np.arange(len(latents)))), dim=-1)
    return Domain(latents.keys, vectors, torch.tensor(found))


class UniMoS(nn.Module):
    """Separators, two heads, their weight, and the discriminator, over vectors of length 1
    (B, d).
    """

    pseudo: Tensor
    bias: Tensor

    def __init__(self, prompts: Tensor, config: AdaptConfig, num_target: int) -> None:
        super().__init__()
        self.config = config
        num_classes, d = prompts.shape
        self.register_buffer("prompts", F.normalize(prompts, dim=-1))
        self.register_buffer("pseudo", torch.full((num_target,), -1))
        self.register_buffer(
            "bias", torch.full((num_classes,), 1.0 / num_classes)
        )  # mean opinion of the text head on the target
        self.vision, self.language = nn.Linear(d, d), nn.Linear(d, d)
        for separator in (self.vision, self.language):
            nn.init.eye_(separator.weight)
            nn.init.zeros_(separator.bias)
        self.bottleneck = nn.Linear(d, _HIDDEN)
        nn.init.xavier_normal_(self.bottleneck.weight)
        self.norm = nn.BatchNorm1d(_HIDDEN)
        self.classify = nn.utils.parametrizations.weight_norm(nn.Linear(_HIDDEN, num_classes))
        self.weigh = nn.Sequential(nn.Linear(d, _HIDDEN), nn.Linear(_HIDDEN, 1))
        self.discriminate = nn.Sequential(
            nn.Linear(d, _HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(_HIDDEN, 1)
        )

    prompts: Tensor

    def features(self, z: Tensor) -> Tensor:
        return self.norm(self.bottleneck(self.vision(z)))

    def vision_logits(self, z: Tensor) -> Tensor:
        return self.classify(self.features(z))

    def text_logits(self, z: Tensor) -> Tensor:
        return self.language(z) @ self.prompts.T / self.config.temperature

    def zero_shot_logits(self, z: Tensor) -> Tensor:
        return z @ self.prompts.T / self.config.temperature

    def weight(self, z: Tensor) -> Tensor:
        """Share of the vision head, one number for the batch."""
        if not self.config.learn_weight:
            return z.new_tensor(0.5)
        return self.weigh(self.vision(z)).sigmoid().mean()

    def ensemble(self, z: Tensor, epoch: int) -> Tensor:
        """Probabilities at test time (B, classes): the text head's opinion freed of its bias, the
        vision head's fading in share.
        """
        if self.config.method == "source_only":
            return self.vision_logits(z).softmax(-1)
        share = max(_LAST_SHARE, _FIRST_SHARE - _SHARE_STEP * epoch)
        text = self.text_logits(z) - _DEBIAS * self.bias.clamp_min(1e-6).log()
        return (share * self.vision_logits(z) + (1 - share) * text).softmax(-1)

    def reset_weight(self, generator: torch.Generator) -> None:
        """Start anew, tensor by tensor, by a coin: the weight must not settle on one head."""
        for layer in self.weigh:
            assert isinstance(layer, nn.Linear)
            for tensor in (layer.weight, layer.bias):
                if torch.rand((), generator=generator) < _RESET:
                    bound = layer.in_features**-0.5
                    with torch.no_grad():
                        tensor.copy_(
                            (torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound
                        )

    def forward(self, batch: DomainBatch) -> Tensor:
        """Sum of the losses of this step over its rows: phase one in even steps, two in odd
        ones.
        """
        c, num = self.config, len(batch.source)
        if c.method == "source_only":
            return (F.cross_entropy(self.vision_logits(batch.source), batch.labels) * num)[None]
        if batch.step % 2 and c.discriminator:
            return (0.01 * self._tell_apart(batch.target, frozen=True) * num)[None]
        both = torch.cat([batch.source, batch.target])
        vision = self.vision_logits(both)
        text = self.text_logits(both)
        loss = F.cross_entropy(vision[:num], batch.labels) + F.cross_entropy(
            text[:num], batch.labels
        )
        weight = self.weight(batch.target)
        merged = weight * vision[num:] + (1 - weight) * text[num:].detach()
        if c.pseudo_labels:
            known = self.pseudo[torch.as_tensor(batch.target_samples)]
            loss = loss + F.cross_entropy(merged, known)
        teacher = self.zero_shot_logits(batch.target)
        teacher = (teacher - teacher.mean(1, keepdim=True)).log_softmax(-1)
        student = text[num:].log_softmax(-1)
        loss = loss + (student.exp() * (student - teacher)).sum(1).mean()
        loss = loss - information(merged.softmax(-1))
        if c.orthogonality:
            loss = (
                loss
                + 0.01
                * (self.vision(both) * self.language(both)).sum(1).square().mean()
                * both.shape[1]
            )
        if c.discriminator:
            loss = loss + 0.01 * self._tell_apart(batch.source, frozen=False)
        if self.training:
            self.bias.lerp_(student.exp().detach().mean(0), 1 - _DEBIAS_MOMENTUM)
        return (loss * num)[None]

    def _tell_apart(self, z: Tensor, frozen: bool) -> Tensor:
        """Cross-entropy of telling vision parts (0) from language parts (1); ``frozen`` moves the
        separators alone.
        """
        parts = torch.cat([self.vision(z), self.language(z)])
        wanted = torch.cat([torch.zeros(len(z)), torch.ones(len(z))]).to(z)
        if frozen:
            values = {name: p.detach() for name, p in self.discriminate.named_parameters()}
            logits = torch.func.functional_call(self.discriminate, values, (parts,))
        else:
            logits = self.discriminate(parts)
        return F.binary_cross_entropy_with_logits(logits[:, 0], wanted)


def information(probabilities: Tensor) -> Tensor:
    """Mutual information of samples and classes: sure of each, alike over all. Larger is better;
    needs no labels.
    """
    mean = probabilities.mean(0)
    each = -(probabilities * probabilities.clamp_min(1e-8).log()).sum(1).mean()
    return -(mean * mean.clamp_min(1e-8).log()).sum() - each


@torch.no_grad()
def refresh_pseudo(model: UniMoS, target: Tensor, epoch: int) -> None:
    """Pseudo-labels of a new epoch: zero-shot first, then by turns the ensemble's opinion and the
    nearest class centroid.
    """
    was = model.training
    model.eval()
    if epoch == 0:
        labels = model.zero_shot_logits(target).argmax(1)
    else:
        opinion = model.ensemble(target, epoch)
        labels = opinion.argmax(1)
        if epoch % 2:
            features = F.normalize(model.features(target), dim=-1)
            centroids = F.normalize(opinion.T @ features, dim=-1)
            labels = (features @ centroids.T).argmax(1)
    model.pseudo.copy_(labels)
    model.train(was)


class AdaptTask:
    """UniMoS (or training on the source alone) as a task of the loop."""

    terms = ("loss",)
    unit = "samples"

    def __init__(self, config: AdaptConfig) -> None:
        self.config = config
        source, target, prompts = (
            open_latents(path) for path in (config.source, config.target, config.prompts)
        )
        if not source.info.dim == target.info.dim == prompts.info.dim:
            raise UserError(
                f"source, target and prompts are of different spaces: {source.info.dim},"
                f" {target.info.dim}, {prompts.info.dim} numbers"
            )
        self.classes = prompts.keys
        labels = read_classes(config.labels)
        both = set(source.keys) & set(target.keys)
        if both:
            raise UserError(
                f"{len(both)} samples are in the source and in the target, the first is"
                f" {min(both)!r}: use disjoint ones"
            )
        found = open_domain(source, self.classes, labels, True)
        kept = choose_labelled(found.labels.numpy(), config.labels_per_class, config.loop.seed)
        if not len(kept):
            raise UserError(
                f"no sample of {config.source} has a class of {config.prompts} in {config.labels}"
            )
        self.source = Domain([found.keys[i] for i in kept], found.vectors[kept], found.labels[kept])
        self.target = open_domain(target, self.classes, labels, False)
        self.prompts = torch.from_numpy(prompts.rows(np.arange(len(prompts))))
        phases = 2 if config.method == "unimos" and config.discriminator else 1
        self.epoch_steps = phases * max(
            1, min(len(self.source.keys), len(self.target.keys)) // config.loop.batch_size
        )

    def model(self) -> UniMoS:
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
        if batch.step % self.epoch_steps == 0 and self.config.method == "unimos":
            epoch = batch.step // self.epoch_steps
            refresh_pseudo(model, self.target.vectors.to(batch.source.device), epoch)
            if epoch:
                model.reset_weight(
                    torch.Generator().manual_seed(self.config.loop.seed * 100_003 + epoch)
                )
        return model(batch)

    def weights(self, counts: np.ndarray) -> np.ndarray:
        return 1.0 / np.maximum(counts, 1.0)

    def watch(self, model: nn.Module) -> dict[str, float]:
        return {}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Unsupervised figures of the target."""
        assert isinstance(model, UniMoS)
        opinion = model.ensemble(
            self.target.vectors.to(device), self.config.loop.steps // self.epoch_steps
        )
        agree = opinion.argmax(1) == model.zero_shot_logits(self.target.vectors.to(device)).argmax(
            1
        )
        return {
            "information": float(information(opinion)),
            "agreement with zero-shot": float(agree.float().mean()),
        }

    def save(self, model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
        dump(self.config, folder / "adapt.yaml")
        save_file(
            {n: t.detach().cpu().contiguous() for n, t in weights.items()}, folder / WEIGHTS_FILE
        )

    def describe(self, batch: DomainBatch) -> dict[str, Any]:
        return {
            "source": [self.source.keys[i] for i in batch.source_samples],
            "target": [self.target.keys[i] for i in batch.target_samples],
        }


class DomainBatches(torch.utils.data.Dataset):
    """Step number -> equal numbers of source and target samples."""

    def __init__(self, source: Domain, target: Domain, config: LoopConfig) -> None:
        self.source, self.target, self.size = source, target, config.batch_size
        self._orders = [
            SampleOrder([len(d.keys)], [1.0], config.seed + i)
            for i, d in enumerate((source, target))
        ]

    def __getitem__(self, step: int) -> list[DomainBatch]:
        slots = np.arange(step * self.size, (step + 1) * self.size)
        s, t = (order(slots).sample for order in self._orders)
        return [
            DomainBatch(
                self.source.vectors[s], self.source.labels[s], self.target.vectors[t], t, s, step
            )
        ]


def choose_labelled(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Samples with a label, at most ``per_class`` of each class (0 = all), by the seed."""
    rng = np.random.default_rng(seed)
    kept = []
    for c in np.unique(labels[labels >= 0]):
        members = np.nonzero(labels == c)[0]
        kept.append(rng.permutation(members)[:per_class] if per_class else members)
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)


def adapt(config: AdaptConfig) -> dict[str, float]:
    """Train to the end; returns unsupervised figures. ``select: information`` keeps the checkpoint
    that is surest.
    """
    task, out = AdaptTask(config), Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    loop = Loop(task.model(), task, config.loop, out)
    dump(config, out / "config.yaml")
    figures = loop.run()
    write_json_atomic(out / "done.json", {"step": loop.step, **figures})
    return figures


@torch.no_grad()
def accuracy(folder: str | Path, labels: str | Path) -> dict[str, float]:
    """Accuracy on the target, with its labels, of a finished adaptation and of the zero-shot
    classifier.
    """
    config = load(AdaptConfig, Path(folder) / "config.yaml")
    task = AdaptTask(config)
    target = open_domain(open_latents(config.target), task.classes, read_classes(labels), True)
    known = target.labels >= 0
    if not known.any():
        raise UserError(f"{labels} has no class for any sample of {config.target}")
    model, step = _selected(task, Path(folder))
    opinion = model.ensemble(target.vectors, step // task.epoch_steps)[known]
    zero = model.zero_shot_logits(target.vectors)[known]
    truth = target.labels[known]
    return {
        "accuracy": float((opinion.argmax(1) == truth).float().mean()),
        "zero_shot": float((zero.argmax(1) == truth).float().mean()),
        "samples": float(known.sum()),
    }


def _selected(task: AdaptTask, folder: Path) -> tuple[UniMoS, int]:
    """The last checkpoint, or the one with the most information about the unlabelled target."""
    paths = sorted((folder / "checkpoints").glob("step_*"))
    if not paths:
        raise UserError(f"no checkpoint in {folder}")
    best: tuple[float, UniMoS, int] | None = None
    for path in paths if task.config.select == "information" else paths[-1:]:
        model, step = task.model(), int(path.name.split("_")[1])
        load_weights(model, path / WEIGHTS_FILE)
        model.eval()
        score = float(information(model.ensemble(task.target.vectors, step // task.epoch_steps)))
        if best is None or score > best[0]:
            best = (score, model, step)
    assert best is not None
    return best[1], best[2]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Adapt contrastive latents to an unlabelled domain."
    )
    parser.add_argument("--config", required=True, help="YAML file, see configs/alignment")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    options = parser.parse_args(arguments)
    run_command(lambda: adapt(load(AdaptConfig, options.config, options.overrides)))


if __name__ == "__main__":
    main()
