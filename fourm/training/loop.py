"""The training loop, one for every trained network: FourM, tokenizers, whatever implements
``Task``.

Accelerate places the model, wraps it (DDP or FSDP2) and scales precision; data, order,
normalisation and checkpoints are ours, because the promise is stronger than what it offers: killed
at any moment and started again, the loss curve is bit-identical to one never interrupted, and the
samples are the same on any number of ranks and loader workers with the same global batch.

A task reports each of its loss terms as a sum and a count. Counts are summed over all ranks and
micro-batches *before* the backward pass, so the loss is a true mean over the global batch, however
unevenly its targets fall.

A model too large for one device is sharded (``sharding.py``), checkpoints are written while the
training goes on (``saving.py``), and a run that hangs ends itself (``watchdog.py``).

The host never waits for the device within a step: it queues the next one while this one runs, and
reads what came of it when a line of the log is due (``finite.py`` for what cannot wait that long,
``ranks.py`` for what the ranks must know before a step).
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from fourm.errors import Interrupted, UserError
from fourm.model.blocks import Block
from fourm.training.allocations import keep_freed_memory
from fourm.training.checkpoints import agreed_checkpoint, read_state
from fourm.training.compiled import compile_blocks
from fourm.training.feed import Feed, StepBatches
from fourm.training.finite import FiniteCheck
from fourm.training.loop_config import LoopConfig
from fourm.training.met import met
from fourm.training.optimizers import build_optimizers, parameter_groups
from fourm.training.ranks import Ranks, telling_lost_processes
from fourm.training.run_folder import LOG_FILE, cut_log, hold_folder
from fourm.training.run_log import RunLog, StepLosses
from fourm.training.saving import Saver, Snapshot
from fourm.training.schedules import learning_rate
from fourm.training.sharding import (
    Sharding,
    chosen_sharding,
    shard_model,
)
from fourm.training.speed import Meter, Speed
from fourm.training.state import TrainingState
from fourm.training.task import Adaptive, Staged, Task
from fourm.training.watchdog import Progress, Watchdog

_log = logging.getLogger(__name__)
_MAX_EMPTY_STEPS = 20  # from the first one on, without a single target
# a launcher hands on the signal that its ranks had from the terminal as well: both are one
_SAME_SIGNAL = 5.0  # seconds


class Loop:
    """Trains ``model`` on ``task`` in ``out``; picks up where an earlier run in the same folder was
    stopped.
    """

    def __init__(self, model: nn.Module, task: Task, config: LoopConfig, out: Path) -> None:
        if config.total_tokens or config.schedule.warmup_tokens:
            raise UserError("only a pretraining counts in tokens: give steps and schedule.warmup")
        self.config, self.task, self.out = config, task, out
        self.adaptive = task if isinstance(task, Adaptive) and task.adapt_every else None
        self.stages = task.stages if isinstance(task, Staged) else None
        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.accelerator = met(model, config, out)
        self.device = self.accelerator.device
        self.lead = self.accelerator.is_main_process
        if config.compile:
            compile_blocks(model, self.device)
        if config.activation_checkpointing:
            _checkpoint_activations(model)
        if self.lead:
            for group in parameter_groups(model, config.optimizer):
                _log.info("%s: %s", out.name, group)
        self.sharding: Sharding = "none"
        if dist.is_initialized():
            self.sharding = chosen_sharding(config.sharding)
        self.wrapped, optimizers = self._prepared(model)
        per_samples = config.optimizer.per_samples
        scale = config.batch_size / per_samples if per_samples else 1.0
        self._peaks = [
            [group["lr"] * scale for group in optimizer.param_groups] for optimizer in optimizers
        ]
        self.state = TrainingState(model, optimizers, config.ema)
        rank, num_ranks = self.accelerator.process_index, self.accelerator.num_processes
        patience = config.group_timeout, config.meeting_timeout
        self.ranks, writers = (Ranks(rank, num_ranks, *patience) for _ in range(2))
        self.progress = Progress()
        self._watchdog = Watchdog(self.progress, self.ranks, config.hang_timeout)
        self._saver = Saver(out / "checkpoints", config.keep_checkpoints, writers)
        self.log = RunLog(out, task, self.accelerator, config.tracker, self.ranks, self.progress)
        self.meter = Meter.of(task.unit, self.device, config.precision, num_ranks)
        told = self.meter, self.ranks, self.progress
        self._feed = Feed(task, self.accelerator, config.num_workers, *told, self._stops)
        self._check = FiniteCheck(self.accelerator, late=self.device.type != "cpu")
        if config.tracker:
            self.accelerator.init_trackers(out.name)
        self._signal, self._signalled = 0, 0.0

    def _prepared(self, model: nn.Module) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        """The model as Accelerate wraps it, and its optimizers."""
        config = self.config
        if self.sharding != "none":
            shard_model(model, self.sharding, self.device, config.precision)
            return model, build_optimizers(model, config.optimizer)
        built = build_optimizers(model, config.optimizer)
        wrapped, *optimizers = self.accelerator.prepare(model, *built)
        return wrapped, [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state.step

    # ---- running ---------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        """Train to the last step and return the final evaluation.

        Raises Interrupted after saving on SIGTERM or Ctrl-C, ProcessesLost where others are gone.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with telling_lost_processes(), self._watchdog.watching():
            lock = hold_folder(self.out, self.ranks)
            self.resume()
            previous = {
                s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)
            }
            try:
                with self.log.bar(self.step, self.config.steps, self.out.name) as bar:
                    figures = self._run(bar)
                self._saver.wait()
            finally:
                self._saver.finish()
                for number, handler in previous.items():
                    signal.signal(number, handler)
                if lock is not None:
                    lock.close()
        if self.config.tracker:
            self.accelerator.end_training()
        return figures

    def _run(self, bar: tqdm) -> dict[str, float]:
        config, state = self.config, self.state
        figures: dict[str, float] = {}
        first, learned = state.step, False
        self.meter.restart()
        for given in self._batches():
            losses, stop = self._train_step(given)
            self.log.add(losses)
            state.step += 1
            last = state.step == config.steps
            learned = learned or bool(losses.counts.any())
            if not learned and (last or state.step - first == _MAX_EMPTY_STEPS):
                raise UserError(
                    f"no batch of steps {first + 1} to {state.step} has a target: there is nothing"
                    " to learn; look at the masking and at what the data holds"
                )
            if state.step % config.log_every == 0 or last or stop:
                self._stop_if_broken()
                self.log.write(bar, self.task.watch(state.model), self.meter)
            bar.update()
            if self.adaptive is not None and state.step % self.adaptive.adapt_every == 0:
                with self.meter.aside():
                    self.log.note(step=state.step, mixture=self._adapt(self.adaptive))
            if state.step % config.checkpoint_every == 0 or last or stop:
                self.save()
            if stop and not last:
                self._saver.wait()
                raise Interrupted(
                    f"stopped at step {state.step} of {config.steps}; the same command goes on"
                    " from here"
                )
            if last or (config.eval_every and state.step % config.eval_every == 0):
                with self.meter.aside():
                    figures = self.evaluate()
                if figures:
                    self.log.note(step=state.step, eval=figures)
        return figures or self.evaluate()

    def _batches(self) -> Iterator[StepBatches]:
        """This rank's batches of all steps to come; a fresh loader wherever the task's batches
        change.
        """
        step, every = self.step, self.adaptive.adapt_every if self.adaptive else self.config.steps
        while step < self.config.steps:
            end = min(self.config.steps, (step // every + 1) * every)
            yield from self._feed.steps(range(step, end), self.state.model)
            step = end

    def _adapt(self, adaptive: Adaptive) -> dict[str, Any]:
        with self.progress.during("evaluating"), self.state.evaluating() as model:
            return adaptive.adapt(model, self.device, self.step, self._mean)

    def _mean(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(tensor, "mean"))

    def evaluate(self) -> dict[str, float]:
        """The task's held-out figures, with the averaged weights where there are any."""
        with self.progress.during("evaluating"), self.state.averaged() as model:
            return self.task.evaluate(model, self.device)

    def trial(self, seconds: float) -> Speed:
        """How fast steps are, from a first one for as long as this and at least once more; nothing
        is written.
        """
        started = None
        for given in self._batches():
            self._train_step(given)
            self.state.step += 1
            if started is None:  # the first one makes what the others use
                self._stop_if_broken()
                self.meter.restart()
                started = time.perf_counter()
            elif time.perf_counter() - started > seconds:
                break
        self._stop_if_broken()  # and what is queued is done
        return self.meter.speed()

    # ---- one step --------------------------------------------------------------------------------

    def _train_step(self, given: StepBatches) -> tuple[StepLosses, bool]:
        """What the step found, and whether some rank was asked to stop."""
        # what layers draw (dropout, noise, revived codes) is a function of seed, step and rank: a
        # resumed run draws the same
        named = f"{self.config.seed} {self.step} {self.accelerator.process_index}"
        torch.manual_seed(zlib.crc32(named.encode()))
        self.progress.at("ranks", self.step + 1)
        shared = given.asked.answer()
        self.meter.add(shared.work)
        self._set_rates()
        sums = self._gradients(given.batches, self.task.weights(shared.counts))
        if self.stages is not None:
            self.stages.restrict(self.step, self.state.model)
        norm = self.state.gradients.norm()
        scale = self.state.gradients.clip(norm, self.config.optimizer.clip)
        broken = self._check.judge(self.step + 1, given.batches, torch.stack(sums), norm)
        self.progress.at("update")
        if self._check.late:
            self.state.update(broken, scale)
            self._stop_if_broken(behind=1)  # this one is still on its way
        else:
            self._stop_if_broken()
            self.state.update(None, scale)
        total, damaged = functools.reduce(torch.add, sums), shared.work.unreadable
        losses = StepLosses(self.step + 1, total, shared.counts, norm, damaged)
        return losses, shared.stop

    def _set_rates(self) -> None:
        factor = learning_rate(self.config.schedule, self.step, self.config.steps)
        if self.stages is not None:
            factor *= self.stages.begin(self.step, self.state.model, self.state.optimizers)
        for optimizer, peaks in zip(self.state.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def _gradients(self, batches: list[Any], weights: np.ndarray) -> list[Tensor]:
        """Sums of the terms (K,) of each of this rank's micro-batches; gradients are left
        behind.
        """
        accelerator = self.accelerator
        factors = self._on_device(torch.from_numpy(weights.astype(np.float32)))
        found = []
        for i, batch in enumerate(batches):
            is_last = i == len(batches) - 1
            with accelerator.autocast():
                # sharded gradients are summed at once: keeping whole ones is what sharding spares
                if is_last or accelerator.num_processes == 1 or self.sharding != "none":
                    sums = self._backward(batch, factors)
                else:
                    with accelerator.no_sync(self.wrapped):
                        sums = self._backward(batch, factors)
            found.append(sums.detach())
        return found

    def _on_device(self, tensor: Tensor) -> Tensor:
        """A small tensor of the host, copied while the host goes on."""
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)

    def _backward(self, batch: Any, factors: Tensor) -> Tensor:
        self.progress.at("forward")
        sums = self.task.forward(self.wrapped, batch.to(self.device))
        self.progress.at("backward")
        # DDP and FSDP average gradients over ranks; the factors already divide by the global counts
        self.accelerator.backward((sums * factors).sum() * self.accelerator.num_processes)
        return sums

    def _stop_if_broken(self, behind: int = 0) -> None:
        """Raise UserError if a step was not finite, the newest ``behind`` not asked yet; its
        samples, of all ranks, are written beside the log.
        """
        step = self._check.broken(behind)
        if step is None:
            return
        path = self.out / "broken_step.json"
        step.write_report(path, self.task, self.accelerator)
        raise UserError(
            f"the loss or gradient of step {step.step} is not finite; its samples are listed in"
            f" {path}. The last checkpoint is intact: lower the learning rate or remove the samples"
            " and start again"
        )

    def _stops(self) -> bool:
        """True once this rank was asked to stop, or could not write a checkpoint."""
        return bool(self._signal) or self._saver.failed

    def _on_signal(self, number: int, frame: Any) -> None:
        alone = self.ranks.num == 1
        if self._signal and (alone or time.monotonic() - self._signalled > _SAME_SIGNAL):
            sys.exit(128 + number)
        if not self._signal:
            self._signal, self._signalled = number, time.monotonic()

    # ---- checkpoints -----------------------------------------------------------------------------

    def save(self) -> None:
        """Checkpoint of this step, written while the training goes on (all ranks must call).

        Raises UserError, with nothing written, if the step or the one before was broken; OSError or
        UserError if the checkpoint before could not be written.
        """
        self._stop_if_broken()
        with self.meter.aside(), self.progress.during("saving"):
            self._saver.start(self._snapshot())

    def _snapshot(self) -> Snapshot:
        weights, others = self.state.tensors()
        described: dict[str, Any] = {
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
        }
        if self.adaptive is not None:
            described["task"] = self.adaptive.state()
        describe = functools.partial(self.task.write_description, self.state.model)
        return Snapshot(self.step, weights, others, described, describe)

    def resume(self) -> None:
        """Load the newest whole checkpoint, if there is one, and cut the log back to it.

        Raises UserError where the ranks do not see the same checkpoints.
        """
        path = agreed_checkpoint(self.out / "checkpoints", self.ranks)
        if path is not None:
            described = read_state(path)
            was = described["seed"], described["batch_size"]
            if was != (self.config.seed, self.config.batch_size):
                raise UserError(
                    f"{path} was trained with seed {was[0]} and batch size {was[1]}, the config"
                    f" says {self.config.seed} and {self.config.batch_size}: use another output"
                    " folder"
                )
            self.state.take_over(path, described["step"])
            if self.adaptive is not None and "task" in described:
                self.adaptive.restore(described["task"])
            if self.lead and self.step:
                _log.info("resuming %s from step %d", self.out, self.step)
        if self.lead:
            cut_log(self.out / LOG_FILE, self.step)
        self.accelerator.wait_for_everyone()


def _checkpoint_activations(model: nn.Module) -> None:
    """Recompute each block in the backward pass instead of keeping its activations."""
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
