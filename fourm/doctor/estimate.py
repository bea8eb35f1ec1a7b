"""What a pretraining would cost here: arithmetic first, then a few real steps where they fit."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fourm.doctor.machine import memory_bytes
from fourm.doctor.made_up import with_made_up_data
from fourm.doctor.needs import Needs, needs
from fourm.modalities import ModalitySet
from fourm.training.device import peak_flops
from fourm.training.pretrain import PretrainConfig, PretrainTask, build_model, open_loop
from fourm.training.speed import GIB, Speed

_USUAL_MFU = 0.3  # what a step is guessed with before it is tried
_LONGEST = 10.0  # seconds of a step that is tried; the batch is made smaller until it fits
_MANY = 1 << 20  # steps: time is what ends a trial
_ROOM = 0.9  # share of the memory that may be needed


@dataclass(frozen=True)
class Estimate:
    """Figures of a whole run on one device."""

    needs: Needs
    on_made_up_data: bool
    tried_batch: int  # samples of a step that was tried; 0 = none was
    speed: Speed | None
    why_not: str  # tried
    steps: int
    batch_size: int

    @property
    def step_seconds(self) -> float | None:
        """Of the whole batch: a smaller one that was tried counts in proportion."""
        if self.speed is None:
            return None
        return self.speed.seconds * self.batch_size / self.tried_batch

    @property
    def hours(self) -> float | None:
        """Of the whole run, without evaluations and checkpoints."""
        return None if self.step_seconds is None else self.step_seconds * self.steps / 3600

    def lines(self) -> list[str]:
        """For a reader."""
        n = self.needs
        memory = ", ".join(
            f"{name} {getattr(n, name) / GIB:.2f}"
            for name in ("weights", "gradients", "optimizer", "average", "activations")
        )
        lines = [
            f"parameters             {n.parameters:,}, of these in tables {n.tables:,}",
            f"memory                 {n.memory / GIB:.2f} GiB: {memory}",
            f"a step                 {n.units:,.0f} tokens, {n.flops / 1e12:.3g} TFLOP",
        ]
        if self.speed is None:
            return [*lines, f"not tried              {self.why_not}"]
        data = "made-up data" if self.on_made_up_data else "the config's data"
        return [
            *lines,
            f"tried                  {self.tried_batch} samples a step of {data}: {self.speed}",
            f"the run                {self.step_seconds:.3g} s a step, {self.steps:,} steps:"
            f" {self.hours:.3g} hours",
        ]

    def to_mapping(self) -> dict[str, object]:
        """For a program."""
        derived = {"step_seconds": self.step_seconds, "hours": self.hours}
        return {**dataclasses.asdict(self), **derived}


def estimate(config: PretrainConfig, seconds: float) -> Estimate:
    """Of a config on this machine's first device, from steps of ``seconds`` all together.

    Raises UserError for what is wrong with the config.
    """
    modalities = ModalitySet.load(config.modalities)
    with tempfile.TemporaryDirectory() as folder:
        tried = replace(config, out=str(Path(folder, "run")))
        made_up = not _has_data(config)
        if made_up:
            tried = with_made_up_data(tried, modalities, Path(folder))
        task = PretrainTask(tried, modalities)
        wanted = needs(config.model, config.loop, modalities, task.batches(0, 1)[0])
        smaller, why_not = _smaller(tried, wanted)
        speed = None if why_not else _tried(smaller, modalities, seconds)
    return Estimate(
        needs=wanted,
        on_made_up_data=made_up,
        tried_batch=0 if why_not else smaller.loop.batch_size,
        speed=speed,
        why_not=why_not,
        steps=config.loop.steps,
        batch_size=config.loop.batch_size,
    )


def _has_data(config: PretrainConfig) -> bool:
    """Whether any shard of the first source is there."""
    source = config.data.sources[0]
    folders = [Path(root, config.data.split) for root in (source.tokens, source.raw) if root]
    return any(any(folder.rglob("*.tar")) for folder in folders)


def _smaller(config: PretrainConfig, wanted: Needs) -> tuple[PretrainConfig, str]:
    """The config with as large a batch as can be tried, or why none can."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    room = _ROOM * memory_bytes(device)
    if wanted.memory > room:
        return config, (
            f"{wanted.memory / GIB:.1f} GiB are needed and {room / GIB:.1f} GiB are there: shard"
            " the model (FSDP), or take more micro_batches or activation_checkpointing"
        )
    loop = replace(config.loop, tracker="", num_workers=0, steps=_MANY)
    peak = peak_flops(device, config.loop.precision)
    if peak is None:
        return replace(config, loop=loop), ""
    guessed = wanted.flops / (peak * _USUAL_MFU)
    share = min(1.0, _LONGEST / guessed)
    each = int(loop.batch_size * share)
    if not each:
        return config, f"a step of one sample would take {guessed / loop.batch_size:.0f} s here"
    if share < 1:
        loop = replace(loop, batch_size=each, micro_batches=1)
    return replace(config, loop=loop), ""


def _tried(config: PretrainConfig, modalities: ModalitySet, seconds: float) -> Speed:
    task = PretrainTask(config, modalities)
    start = build_model(config, modalities, task.teacher, task.fingerprints)
    return open_loop(start, task, config).trial(seconds)
