"""What a pretraining would cost: arithmetic first, then a few real steps where they fit."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fourm.batches.batch import MaskedBatch
from fourm.data.remote.fetching import is_remote
from fourm.data.remote.folder import RemoteFolder
from fourm.doctor.activations import Rows
from fourm.doctor.machine import memory_bytes
from fourm.doctor.made_up import with_made_up_data
from fourm.doctor.needs import Sizes
from fourm.doctor.plan import ROOM, USUAL_MFU, Gpu, Plan, check_divides, plan
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.flops import training_flops
from fourm.records.hub import fetched_model, is_hub_id
from fourm.training.device import peak_flops
from fourm.training.pretrain import PretrainConfig, PretrainTask, build_model, open_loop
from fourm.training.speed import GIB, Speed

_DRAWS = 128  # samples that are masked for the figures of a mean one
_GUESSED_MFU = 0.3  # what a step is guessed with before it is tried
_LONGEST = 10.0  # seconds of a step that is tried; the batch is made smaller until it fits
_MANY = 1 << 20  # steps: time is what ends a trial


@dataclass(frozen=True)
class Cluster:
    """Where a run is planned to be: so many equal GPUs, and the share of their peak assumed."""

    num_ranks: int = 1
    gpu: str = ""  # as ``Gpu.of`` reads it; empty = this machine's
    mfu: float = USUAL_MFU

    @property
    def is_here(self) -> bool:
        """Whether the run is to be on one device of this machine, where it can be tried."""
        return self.num_ranks == 1 and not self.gpu


@dataclass(frozen=True)
class Estimate:
    """Figures of a whole run."""

    parameters: int
    tables: int  # of these, rows that are looked up or asked for
    units: float  # rows of both streams in a step
    flops: float  # of a step, forward and backward
    missing: tuple[str, ...]  # what is not there yet, and what was done instead
    plan: Plan
    tried_batch: int  # samples of a step that was tried; 0 = none was
    speed: Speed | None
    why_not: str  # tried
    steps: int
    batch_size: int

    @property
    def on_made_up_data(self) -> bool:
        """Whether any of the config's data is not there."""
        return any(line.startswith("data") for line in self.missing)

    @property
    def step_seconds(self) -> float | None:
        """Of the whole batch: a smaller one that was tried counts in proportion."""
        if self.speed is None:
            return None
        return self.speed.seconds * self.batch_size / self.tried_batch

    @property
    def hours(self) -> float | None:
        """Of the whole run, without evaluations and checkpoints: as it was tried, else planned."""
        if self.step_seconds is None:
            return self.plan.hours
        return self.step_seconds * self.steps / 3600

    def lines(self) -> list[str]:
        """For a reader."""
        lines = [
            *self.missing,
            f"parameters             {self.parameters:,}, of these in tables {self.tables:,}",
            f"a step                 {self.units:,.0f} tokens, {self.flops / 1e12:.3g} TFLOP",
            *self.plan.lines(),
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
        derived = {
            "on_made_up_data": self.on_made_up_data,
            "step_seconds": self.step_seconds,
            "hours": self.hours,
        }
        return {**dataclasses.asdict(self), **derived}


def estimate(config: PretrainConfig, seconds: float, cluster: Cluster | None = None) -> Estimate:
    """Of a config on a cluster, by default this machine's first device, where steps of ``seconds``
    all together are tried too.

    Raises UserError for what is wrong with the config.
    """
    cluster, modalities = cluster or Cluster(), ModalitySet.load(config.modalities)
    check_divides(config.loop, cluster.num_ranks)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = Gpu("this device", memory_bytes(device), None)
    if cluster.gpu:
        gpu = Gpu.of(cluster.gpu, config.loop.precision)
    with tempfile.TemporaryDirectory() as folder:
        tried, missing = _with_what_is_there(config, modalities, Path(folder))
        draws = min(_DRAWS, config.loop.batch_size)
        batch = _drawn(tried, modalities, draws)
        sizes = Sizes(config.model, modalities)
        sample, more = Rows.of(batch).times(1 / draws), config.loop.batch_size / draws
        flops = more * training_flops(config.model, modalities, batch)
        planned = plan(sizes, config.loop, sample, flops, cluster.num_ranks, gpu, cluster.mfu)
        speed, smaller = None, tried
        why_not = "it is planned for other machines" if not cluster.is_here else _why_not(planned)
        if not why_not:
            smaller, why_not = _smaller(tried, flops, device)
        if not why_not:
            speed = _tried(smaller, modalities, seconds)
    return Estimate(
        parameters=sizes.parameters,
        tables=sizes.tables,
        units=(sample.inputs + sample.targets) * config.loop.batch_size,
        flops=flops,
        missing=missing,
        plan=planned,
        tried_batch=0 if why_not else smaller.loop.batch_size,
        speed=speed,
        why_not=why_not,
        steps=config.loop.steps,
        batch_size=config.loop.batch_size,
    )


def _with_what_is_there(
    config: PretrainConfig, modalities: ModalitySet, folder: Path
) -> tuple[PretrainConfig, tuple[str, ...]]:
    """The config in a folder of its own, with what it lacks made up; and a line for each such."""
    tried, missing = replace(config, out=str(folder / "run")), []
    roots = [root for s in config.data.sources for root in (s.tokens, s.raw) if root]
    told = _lacks(list(dict.fromkeys(roots)), config.data.split)
    if told:
        missing.append(f"data                   {told}: random tokens instead")
        tried = with_made_up_data(tried, modalities, folder)
    if config.init and not Path(config.init).exists():
        fetched = fetched_model(config.init) if is_hub_id(config.init) else None
        if fetched is not None:
            tried = replace(tried, init=str(fetched))
        else:
            told = "not fetched from the hub yet" if is_hub_id(config.init) else "not there"
            missing.append(f"init                   {config.init} is {told}: fresh weights instead")
            tried = replace(tried, init="", warm_start=None, lora=None)
    return tried, tuple(missing)


def _lacks(roots: list[str], split: str) -> str:
    """Which of these folders and addresses have no shards to train on, or why; empty if all have
    some.
    """
    empty, refused = [], []
    for root in roots:
        try:
            has_shards = any(name.endswith((".tar", ".chunk")) for name in _names(root, split))
        except UserError as error:
            refused.append(str(error))
        else:
            if not has_shards:
                empty.append(str(Path(root, split)) if not is_remote(root) else f"{root}/{split}")
    return "; ".join([*([f"no shards in {', '.join(empty)}"] if empty else []), *refused])


def _names(root: str, split: str) -> Iterator[str]:
    """Files and folders below a split, and those that lie in an address's folders."""
    if not is_remote(root):
        yield from map(str, Path(root, split).rglob("*"))
        return
    for name in RemoteFolder(root).names(f"{split}/"):
        yield name
        yield name.rpartition("/")[0]


def _drawn(config: PretrainConfig, modalities: ModalitySet, num: int) -> MaskedBatch:
    """The first draws of the run, masked, as one batch."""
    loop = replace(config.loop, batch_size=num, micro_batches=1)
    return PretrainTask(replace(config, loop=loop), modalities).batches(0, 1)[0][0]


def _why_not(planned: Plan) -> str:
    """Why nothing is tried here for want of memory; empty if nothing speaks against it."""
    if planned.as_it_is.fits:
        return ""
    room = ROOM * planned.gpu.memory
    return (
        f"{planned.as_it_is.needs.memory / GIB:.1f} GiB are needed and {room / GIB:.1f} GiB are"
        " there; --ranks and --gpu plan for other machines"
    )


def _smaller(
    config: PretrainConfig, flops: float, device: torch.device
) -> tuple[PretrainConfig, str]:
    """The config with as large a batch as can be tried, or why none can."""
    loop = replace(config.loop, tracker="", num_workers=0, steps=_MANY)
    peak = peak_flops(device, loop.precision) or peak_flops(device, "no")
    if peak is None:
        return replace(config, loop=loop), ""
    guessed = flops / (peak * _GUESSED_MFU)
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
