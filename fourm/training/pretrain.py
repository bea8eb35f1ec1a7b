"""Pretraining: masked modelling of any modality set.

    fourm pretrain configs/pretrain/<x>.yaml [KEY=VALUE]...
    torchrun --nproc-per-node 8 -m fourm pretrain CONFIG ...    (several GPUs or machines)

One process or many (DDP, FSDP2), from a laptop to a cluster: the same command. Started again after
any stop, it goes on from its last checkpoint. Each checkpoint folder is a model folder:
``FourM.from_pretrained(<out>/checkpoints/step_...)``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fourm.batches.batch import MaskedBatch
from fourm.batches.masking import Masker, MaskingConfig
from fourm.cli import door
from fourm.codecs import CodecSet
from fourm.config import at_least, dump
from fourm.data.masked_batches import MaskedBatches, fixed_batch
from fourm.data.shards import write_json_atomic
from fourm.data.store import DataConfig, Source, open_sources
from fourm.errors import UserError
from fourm.files.model_memory import refuse_beyond_memory
from fourm.files.weights import WeightFiles
from fourm.modalities import ModalitySet
from fourm.model.flops import training_flops
from fourm.model.model import FourM, ModelConfig
from fourm.model.objectives import CrossEntropy, Objective
from fourm.model.prepared import Budget, Preparation, PreparedBatches
from fourm.training.checkpoints import list_checkpoints
from fourm.training.differences import by_vocabulary, refuse_to_resume, write_vocabularies
from fourm.training.distill import DistillConfig, Teacher
from fourm.training.loop import Loop
from fourm.training.loop_config import LoopConfig
from fourm.training.lora import (
    LoraConfig,
    add_adapters,
    num_trained,
    refuse_other_adapters,
    write_adapters,
)
from fourm.training.mixture import AdaptiveConfig, Mixture
from fourm.training.sharding import made_once
from fourm.training.task import Work
from fourm.training.transplant import TRANSPLANT_FILE
from fourm.training.warm_start import (
    Stages,
    Start,
    WarmStartConfig,
    resumed,
    start_from,
    warn_of_other_sizes,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything a pretraining run is made of; YAML files under ``configs/pretrain`` are this
    tree.
    """

    out: str
    modalities: str  # YAML file of the modality set
    data: DataConfig
    loop: LoopConfig
    masking: MaskingConfig | None = None  # of the sources that have none of their own
    model: ModelConfig = field(default_factory=ModelConfig)
    # mean over all targets, or mean of the modalities' means
    loss: Literal["token", "modality"] = "token"
    objective: Objective = field(default_factory=CrossEntropy)  # what targets are scored by
    tokenizers: str = ""  # folder of the tokenizers in use: token shards made by others are refused
    # model folder or hub id to start from: of this modality set, or of one that shares some of it
    init: str = ""
    warm_start: WarmStartConfig | None = None  # how what is new joins what ``init`` knows
    lora: LoraConfig | None = None  # train adapters of ``init`` and what is new, nothing else
    # what masking leaves of its budget is filled with rows that nothing sees and no loss counts, so
    # that all steps have the same shapes
    constant_shapes: bool = False
    eval_samples: int = 256
    distill: DistillConfig | None = None  # learn from a trained model too
    # shares of sources and mask components follow what is being learned
    adaptive: AdaptiveConfig | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "eval_samples")
        for name in ("warm_start", "lora"):
            if getattr(self, name) is not None and not self.init:
                raise UserError(f"{name} needs init: the model folder or hub id to start from")
        for source in self.data.sources:
            if self.masking is None and source.masking is None:
                raise UserError(
                    f"missing key 'masking': nothing says how {source.name} is masked; give it to"
                    " the run, or to the source"
                )
        # from here on all lengths are in steps; what was given in tokens is a function of the masks
        object.__setattr__(self, "loop", self.loop.in_steps(sum(self.most_rows)))

    @property
    def maskings(self) -> list[MaskingConfig]:
        """How each source is masked."""
        own = (source.masking or self.masking for source in self.data.sources)
        return [masking for masking in own if masking is not None]

    @property
    def most_rows(self) -> tuple[int, int]:
        """Most input and most target tokens of a sample, whatever its source."""
        inputs, targets = zip(*(masking.most_rows for masking in self.maskings), strict=True)
        return max(inputs), max(targets)


class PretrainTask:
    """FourM on masked batches."""

    unit = "tokens"

    def __init__(self, config: PretrainConfig, modalities: ModalitySet) -> None:
        self.config, self.modalities = config, modalities
        self.terms = tuple(m.name for m in modalities)
        self.fingerprints = {}
        if config.tokenizers:
            codecs = CodecSet(modalities, config.tokenizers)
            self.fingerprints = {
                m.name: codecs[m.name].fingerprint for m in modalities if m.tokenizer is not None
            }
        self.sources = open_sources(config.data, config.data.split, modalities, self.fingerprints)
        self.held_out = open_sources(
            config.data, config.data.validation_split, modalities, self.fingerprints
        )
        self.mixture = Mixture(
            [s.num_samples for s in self.sources],
            [s.weight for s in config.data.sources],
            config.maskings,
            config.loop.seed,
            config.loop.batch_size,
            config.adaptive,
            [s.blocks for s in self.sources],
        )
        self.teacher = Teacher(config.distill, modalities) if config.distill is not None else None
        self._factor = np.array([m.loss_weight for m in modalities])
        self._preparation: Preparation | None = None
        self.start: Start | None = None  # the model's, and what of it learns when
        self.stages: Stages | None = None

    def train_from(self, start: Start) -> None:
        """Learn in the stages that the model's start asks for."""
        c, self.start = self.config, start
        fresh = start.moved.learners if start.moved is not None else {}
        if c.warm_start is not None or (c.lora is not None and fresh):
            stages = c.warm_start or WarmStartConfig()
            self.stages = Stages(stages, fresh, c.lora is not None or stages.hold)

    def prepare_for(self, model: FourM) -> None:
        """From now on batches are made ready, where they are made, for a model where it is and
        under the autocast that is on.
        """
        budget = Budget(*self.config.most_rows) if self.config.constant_shapes else None
        self._preparation = model.preparation(budget)

    def batches(self, rank: int, world_size: int) -> Dataset:
        c = self.config
        masker = Masker(self.modalities, self.mixture.masks(), c.loop.seed)
        batches = MaskedBatches(
            self.sources,
            self.mixture.order(),
            masker,
            c.loop.batch_size,
            c.loop.micro_batches,
            rank,
            world_size,
            c.data.read_ahead,
        )
        return PreparedBatches(batches, self._preparation) if self._preparation else batches

    def counts(self, batch: MaskedBatch) -> np.ndarray:
        return np.array(batch.decoder.counts, dtype=np.float64)

    def work(self, model: nn.Module, batch: MaskedBatch) -> Work:
        """Rows of both streams, and the operations that they cost the model."""
        assert isinstance(model, FourM)
        flops = training_flops(model.config, self.modalities, batch)
        return Work(batch.num_rows, flops, batch.num_unreadable)

    def forward(self, model: nn.Module, batch: MaskedBatch) -> Tensor:
        objective = self.config.objective
        if self.teacher is not None:
            objective = self.teacher.objective(objective, batch)
        return model(batch, objective).sums

    def weights(self, counts: np.ndarray) -> np.ndarray:
        if self.config.loss == "token":
            return self._factor / max((self._factor * counts).sum(), 1.0)
        present = counts > 0
        return np.where(present, self._factor / np.maximum(counts, 1), 0.0) / max(
            (self._factor * present).sum(), 1e-9
        )

    def watch(self, model: nn.Module) -> dict[str, float]:
        return {}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Cross-entropy (nats a token) under fixed masks on the validation split: of the first
        source, of each modality in the first source that asks for it, of each other source, all
        under their own masks.
        """
        num = self.config.eval_samples
        of_modalities: dict[str, float] = {}
        of_sources: list[float] = []
        for source, masking in zip(self.held_out, self.config.maskings, strict=True):
            sums, counts = self._held_out_losses(model, device, source, masking, num)
            of_sources.append(_mean(sums, counts))
            for name, total, count in zip(self.terms, sums, counts, strict=True):
                if count:
                    of_modalities.setdefault(f"loss/{name}", float(total / count))
        others = zip(self.held_out[1:], of_sources[1:], strict=True)
        return {
            "loss": of_sources[0],
            **of_modalities,
            **{f"loss of {source.name}": loss for source, loss in others},
        }

    def _held_out_losses(
        self,
        model: nn.Module,
        device: torch.device,
        source: Source,
        masking: MaskingConfig,
        num: int,
    ) -> tuple[Tensor, Tensor]:
        """Sums of cross-entropies and numbers of targets of each modality (modalities,) under masks
        that are always the same.
        """
        num = min(num, source.num_samples)
        sums, counts = torch.zeros(len(self.modalities)), torch.zeros(len(self.modalities))
        for start in range(0, num, 64):
            samples = np.arange(start, min(start + 64, num))
            losses = model(fixed_batch(source, self.modalities, masking, 0, samples).to(device))
            sums, counts = sums + losses.sums.cpu(), counts + losses.counts.cpu()
        return sums, counts

    # ---- adaptive mixture (the loop's Adaptive protocol) -----------------------------------------

    @property
    def adapt_every(self) -> int:
        """Steps between two probes of the mixture; 0 = it is fixed."""
        return self.config.adaptive.every if self.config.adaptive is not None else 0

    def adapt(
        self, model: nn.Module, device: torch.device, step: int, agreed: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """Probe the mixture's members and move its shares."""
        a, mixture = self.config.adaptive, self.mixture
        assert a is not None
        probes: list[tuple[Source, MaskingConfig]] = []
        if mixture.moves_sources:
            probes += zip(self.held_out, self.config.maskings, strict=True)
        num_sources = len(probes)
        if mixture.moves_components:
            probes += [(self.held_out[member.source], member.alone) for member in mixture.members]
        losses = [
            _mean(*self._held_out_losses(model, device, source, masking, a.probe_samples))
            for source, masking in probes
        ]
        found = agreed(torch.tensor(losses, dtype=torch.float64, device=device)).tolist()
        mixture.update(step, found[:num_sources], found[num_sources:])
        return {
            "sources": mixture.source_shares,
            "components": mixture.component_shares,
            "probe": found,
        }

    def state(self) -> dict[str, Any]:
        return self.mixture.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Take the mixture of a checkpoint. Raises UserError where it had other sources."""
        self.mixture.restore(state)

    def write_description(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, FourM)
        model.write_description(folder)
        if self.fingerprints:
            write_vocabularies(folder, by_vocabulary(self.modalities, self.fingerprints))
        if self.config.lora is not None:
            files = WeightFiles.open(folder)  # what was saved, whole: of all ranks
            weights = {name: files.read(name) for name in files}
            write_adapters(model, self.start.moved if self.start else None, folder, weights)
        dump(self.config, folder / "pretrain.yaml")

    def describe(self, batch: MaskedBatch) -> dict[str, Any]:
        return {
            "samples": batch.samples.tolist(),
            "keys": self.sources[0].keys(batch.samples) if len(self.sources) == 1 else [],
        }


def _mean(sums: Tensor, counts: Tensor) -> float:
    return float(sums.sum() / counts.sum().clamp_min(1))


def build_model(
    config: PretrainConfig,
    modalities: ModalitySet,
    teacher: Teacher | None = None,
    fingerprints: Mapping[str, str] | None = None,
) -> Start:
    """Fresh weights from the config's seed, or what fits of those of ``init``, or of the teacher's.

    What became of the weights of ``init``, if it was made for another modality set, is logged and
    stored in the run's folder.

    Args:
        fingerprints: of the tokenizers in use by modality, as far as they are known.
    """
    if config.init:
        return _build_from_init(config, modalities, by_vocabulary(modalities, fingerprints or {}))
    refuse_beyond_memory(lambda: FourM(config.model, modalities), "model")
    # weights are a function of the seed; the global generator stays as it was
    with torch.random.fork_rng():
        torch.manual_seed(config.loop.seed)
        model = FourM(config.model, modalities)
    if teacher is not None and config.distill is not None and config.distill.start:
        fresh = teacher.start(model)
        _log.info(
            "starting from %s; fresh: %s", config.distill.teacher, ", ".join(fresh) or "nothing"
        )
    return Start(model)


def _build_from_init(
    config: PretrainConfig, modalities: ModalitySet, known: Mapping[str, str]
) -> Start:
    out, seed = Path(config.out), config.loop.seed
    begins = not list_checkpoints(out / "checkpoints")
    # adapters lie on weights that no checkpoint of theirs holds
    found = None if begins or config.lora is not None else resumed(out, modalities)
    start = found or start_from(config.init, modalities, known, seed, config.warm_start)
    if begins:
        warn_of_other_sizes(config.init, start.model, config.model)
    if begins and start.moved is not None:
        _log.info("starting from %s:\n%s", config.init, start.moved.table())
        start.moved.write(out / TRANSPLANT_FILE, config.init)
    if config.lora is not None:
        add_adapters(start.model, config.lora, config.init, start.moved, seed)
        trained, of_all = num_trained(start.model)
        _log.info("lora: %s of %s numbers are trained", f"{trained:,}", f"{of_all:,}")
    start.model.train()
    return start


def open_loop(start: Start, task: PretrainTask, config: PretrainConfig) -> Loop:
    """The loop, and batches that are made ready for what it makes of the model."""
    task.train_from(start)
    loop = Loop(start.model, task, config.loop, Path(config.out))
    with loop.accelerator.autocast():
        task.prepare_for(start.model)
    return loop


def pretrain(config: PretrainConfig) -> dict[str, float]:
    """Train to the end (or go on where an earlier run stopped) and return held-out losses."""
    modalities = ModalitySet.load(config.modalities)
    task = PretrainTask(config, modalities)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with made_once(config.loop.sharding):
        start = build_model(config, modalities, task.teacher, task.fingerprints)
    for checkpoint in list_checkpoints(out / "checkpoints"):  # a damaged one says nothing
        known = by_vocabulary(modalities, task.fingerprints)
        refuse_to_resume(out, checkpoint, start.model, modalities, known)
        refuse_other_adapters(checkpoint, config.lora)
    loop = open_loop(start, task, config)
    if loop.lead:
        dump(config, out / "config.yaml")
    figures = loop.run()
    if loop.lead:
        sizes = {
            "num_samples": sum(source.num_samples for source in task.sources),
            "num_held_out": sum(source.num_samples for source in task.held_out),
        }
        write_json_atomic(out / "done.json", {"step": loop.step, **sizes, **figures})
        _log.info(
            "held out: %s", ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        )
    return figures


# door of earlier releases: python -m fourm.training.pretrain is fourm pretrain
main = door("pretrain")

if __name__ == "__main__":
    main()
