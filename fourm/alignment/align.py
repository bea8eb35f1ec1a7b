"""Align frozen encoders on cached latents: FuseMix (2312.10144) and Alt-MoE (2409.05929), one
trainer, in the loop that trains FourM.

    fourm align CONFIG [KEY=VALUE]...          (or accelerate launch -m fourm align CONFIG)

FuseMix is ``connect.kind: heads`` with shared mixup; Alt-MoE is ``experts`` with regression beside
contrast and a schedule over directions. Their parts combine freely. Held-out figures are recalls
over the whole validation gallery; the test subjects are only looked at by ``fourm
evaluate-alignment``. Batches of any size fit in memory: with ``chunk`` embeddings are recomputed
chunk by chunk in the backward pass, which gives the exact gradient of the whole batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.alignment.aligner import AlignConfig, Aligner
from fourm.alignment.latents import (
    Latents,
    grouped_by,
    hash_keys,
    open_latents,
    paired,
    write_latents,
)
from fourm.alignment.pairs import LatentBatch, LatentBatches, of_split, split_subjects
from fourm.alignment.prepare import Prepare
from fourm.alignment.retrieval import recall
from fourm.cli import door
from fourm.config import dump, load
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.files.weights import WEIGHTS_FILE, load_weights
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.loop import Loop


class AlignTask:
    """Alignment as a task of the loop."""

    terms = ("contrast", "regression", "balance")
    unit = "pairs"

    def __init__(self, config: AlignConfig) -> None:
        self.config = config
        self.latents = open_all(config, config.latents)
        self.split = split_subjects(next(iter(self.latents.values())), config.split)
        if config.loop.batch_size > len(self.split.train):
            raise UserError(
                f"batch size {config.loop.batch_size} is more than the {len(self.split.train)}"
                " training samples"
            )

    def model(self) -> Aligner:
        """A fresh aligner, its weights a function of the config's seed; means and axes of the
        latents are those of the training part.
        """
        dims = {name: held.info.dim for name, held in self.latents.items()}
        with torch.random.fork_rng():
            torch.manual_seed(self.config.loop.seed)
            model = Aligner(self.config, dims)
        for name, held in self.latents.items():
            prepare = model.prepare[name]
            assert isinstance(prepare, Prepare)
            prepare.fit(torch.from_numpy(held.rows(self.split.train)))
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

    def write_description(self, model: nn.Module, folder: Path) -> None:
        dump(self.config, folder / "align.yaml")
        dims = {name: held.info.dim for name, held in self.latents.items()}
        made_by = {name: held.info.fingerprint for name, held in self.latents.items()}
        write_json_atomic(folder / "latents.json", {"dims": dims, "fingerprints": made_by})

    def describe(self, batch: LatentBatch) -> dict[str, Any]:
        keys = next(iter(self.latents.values())).keys
        return {"samples": batch.samples.tolist(), "keys": [keys[i] for i in batch.samples]}


def open_all(config: AlignConfig, folders: Mapping[str, str]) -> dict[str, Latents]:
    """Latents of the same samples, with the groups that the config names."""
    latents = paired({name: open_latents(folder) for name, folder in folders.items()})
    return grouped_by(latents, config.groups or next(iter(latents)))


def entropy_share(use: Tensor) -> float:
    """Entropy of the use of experts, 1 = all alike, 0 = one alone."""
    share = use.double() / use.sum().clamp_min(1)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return float(entropy / np.log(max(len(use), 2)))


@torch.no_grad()
def retrieval_figures(
    model: Aligner, latents: dict[str, Latents], samples: np.ndarray, device: torch.device | str
) -> dict[str, float]:
    """R@1, R@5 and R@10 of every direction over the gallery of all these samples, and their
    means.
    """
    figures: dict[str, float] = {}
    values = {name: torch.from_numpy(held.rows(samples)) for name, held in latents.items()}
    values = {name: rows.to(device) for name, rows in values.items()}
    groups = next(iter(latents.values())).group_ids[samples]
    for source, target in model.config.directions:
        queries = model.predict(source, target, values[source]).cpu().numpy()
        gallery = model.targets(target, values[target]).cpu().numpy()
        for name, value in recall(queries, gallery, groups, groups).items():
            figures[f"{source}>{target}/{name}"] = value
    for k in (1, 5, 10):
        each = [value for name, value in figures.items() if name.endswith(f"/R@{k}")]
        figures[f"R@{k}"] = float(np.mean(each))
    return figures


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
    folder = _newest(folder)
    if not (folder / "latents.json").is_file():
        raise UserError(f"no aligner in {folder}")
    config = load(AlignConfig, folder / "align.yaml")
    model = Aligner(config, json.loads((folder / "latents.json").read_text())["dims"])
    load_weights(model, folder / WEIGHTS_FILE)
    return model.eval().requires_grad_(False)


def _newest(folder: str | Path) -> Path:
    """The newest checkpoint of a run's folder; the folder itself if it is no run."""
    return newest_checkpoint(Path(folder) / "checkpoints") or Path(folder)


def figures_on_test(
    folder: str | Path, others: Mapping[str, str] | None = None, split: str = ""
) -> dict[str, float]:
    """Recalls of a trained aligner on the test subjects.

    Args:
        others: folders of other latents, one for each modality: all of their samples are asked, or
            those of a ``split`` of the data.

    Raises:
        UserError: for latents of another encoder than it was trained on.
    """
    model = load_aligner(folder)
    folders = dict(others) if others else model.config.latents
    if set(folders) != set(model.names):
        raise UserError(f"{folder} aligns {', '.join(model.names)}, not {', '.join(folders)}")
    latents = open_all(model.config, {name: folders[name] for name in model.names})
    trained_on = json.loads((_newest(folder) / "latents.json").read_text())["fingerprints"]
    for name, made_by in trained_on.items():
        if latents[name].info.fingerprint != made_by:
            raise UserError(
                f"latents {folders[name]} are of encoder {latents[name].info.encoder}"
                f" ({latents[name].info.fingerprint}),"
                f" {folder} was trained on {made_by}"
            )
    first = next(iter(latents.values()))
    if split:
        samples = np.nonzero(of_split(first, split))[0]
    elif others:
        samples = np.arange(len(first))
    else:
        samples = split_subjects(first, model.config.split).test
    return retrieval_figures(model, latents, samples, "cpu")


@torch.no_grad()
def embed_latents(
    folder: str | Path, modality: str, latents: str | Path, out: str | Path, to: str = ""
) -> int:
    """Latents of a modality -> unit vectors in the alignment's space, as latents again.

    A shared connector (Alt-MoE) has a space for each modality that is searched: ``to`` names whose
    space it is; left out, the modality's own, where its samples are found. Returns how many.
    """
    model, held = load_aligner(folder), open_latents(latents)
    for name in (modality, to or modality):
        if name not in model.names:
            raise UserError(f"{folder} aligns {', '.join(model.names)}, not {name}")

    def moved(rows: torch.Tensor) -> torch.Tensor:
        if to and to != modality:
            return model.predict(modality, to, rows)
        return model.targets(modality, rows)

    rows = [
        F.normalize(moved(torch.from_numpy(held.rows(part))), dim=-1)
        for part in np.array_split(np.arange(len(held)), -(-len(held) // 4096))
    ]
    write_latents(
        Path(out),
        torch.cat(rows).numpy(),
        held.keys,
        encoder=f"{held.info.encoder} aligned",
        modality=held.info.modality,
        fingerprint=hash_keys([held.info.fingerprint, str(folder)]),
        groups=None if held.groups == held.keys else held.groups,
        splits=held.splits,
    )
    return len(held)


# door of earlier releases: python -m fourm.alignment.align is fourm align
main = door("align")

if __name__ == "__main__":
    main()
