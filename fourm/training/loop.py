"""The training loop, one for every trained network: FourM, tokenizers, whatever implements
``Task``.

Accelerate places the model, wraps it (DDP or FSDP2) and scales precision; data, order,
normalisation and checkpoints are ours, because the promise is stronger than what it offers: killed
at any moment and started again, the loss curve is bit-identical to one never interrupted, and the
samples are the same on any number of ranks and loader workers with the same global batch.

A task reports each of its loss terms as a sum and a count. Counts are summed over all ranks and
micro-batches *before* the backward pass, so the loss is a true mean over the global batch, however
unevenly its targets fall.
"""

from __future__ import annotations

import functools
import json
import logging
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from fourm.blocks import Block
from fourm.config import at_least
from fourm.errors import Interrupted, UserError
from fourm.training.checkpoints import (
    gather_full,
    load_optimizer_tensors,
    newest_checkpoint,
    optimizer_tensors,
    read_checkpoint,
    save_checkpoint,
    shard_like,
)
from fourm.training.optimizers import OptimizerConfig, build_optimizers
from fourm.training.run_folder import LOG_FILE, append_log, cut_log, hold_folder
from fourm.training.schedules import ScheduleConfig, learning_rate
from fourm.training.task import Adaptive, Task

_log = logging.getLogger(__name__)
_MAX_EMPTY_STEPS = 20  # a run that begins with so many steps without any target is stopped


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a network is trained, whatever it is."""

    steps: int
    batch_size: int  # samples of all ranks and micro-batches together
    micro_batches: int = 1  # gradient accumulation
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    # > 0: an exponential moving average of the weights is kept and is what is evaluated and
    # exported
    ema: float = 0.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    activation_checkpointing: bool = False
    num_workers: int = 1  # loader processes of each rank; 0 = in the training process
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    eval_every: int = 0  # 0 = at the end only
    tracker: str = ""  # name of an Accelerate tracker, e.g. tensorboard
    threads: int = 0  # CPU threads of each rank; 0 = torch's choice

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch_size", "micro_batches")
        at_least(self, 1, "checkpoint_every", "keep_checkpoints", "log_every")
        at_least(self, 0, "ema", "num_workers", "eval_every", "threads")
        if self.ema >= 1:
            raise UserError(f"ema must be below 1, not {self.ema}: nothing would be averaged in")


class Loop:
    """Trains ``model`` on ``task`` in ``out``; picks up where an earlier run in the same folder was
    stopped.
    """

    def __init__(self, model: nn.Module, task: Task, config: LoopConfig, out: Path) -> None:
        self.config, self.task, self.out = config, task, out
        self.adaptive = task if isinstance(task, Adaptive) and task.adapt_every else None
        if config.threads:
            torch.set_num_threads(config.threads)
        tracker = config.tracker or None
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            log_with=tracker,
            project_dir=str(out) if tracker else None,
        )
        self.device = self.accelerator.device
        self.model = model
        if config.activation_checkpointing:
            _checkpoint_activations(model)
        self.optimizers = build_optimizers(model, config.optimizer)
        scale = (
            config.batch_size / config.optimizer.per_samples
            if config.optimizer.per_samples
            else 1.0
        )
        self._peaks = [
            [group["lr"] * scale for group in optimizer.param_groups]
            for optimizer in self.optimizers
        ]
        prepared = self.accelerator.prepare(model, *self.optimizers)
        self.wrapped, self.optimizers = (
            prepared[0],
            [getattr(o, "optimizer", o) for o in prepared[1:]],
        )
        if len(self.optimizers) > 1 and hasattr(next(self.wrapped.parameters()), "device_mesh"):
            raise UserError("Muon needs whole matrices: use optimizer.name=adamw with FSDP")
        self.inner = self.accelerator.unwrap_model(self.wrapped)
        if config.compile:
            self.wrapped = cast(nn.Module, torch.compile(self.wrapped, dynamic=True))
        self.ema = (
            {n: p.detach().clone() for n, p in self.inner.named_parameters()} if config.ema else {}
        )
        self.step = 0
        self.lead = self.accelerator.is_main_process
        if tracker:
            self.accelerator.init_trackers(out.name)
        self._signal = 0

    # ---- running ---------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        """Train to the last step and return the final evaluation.

        Raises Interrupted after saving on SIGTERM or Ctrl-C.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock = hold_folder(self.out) if self.lead else None
        self.resume()
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            with tqdm(
                total=self.config.steps,
                initial=self.step,
                desc=self.out.name,
                unit="step",
                disable=not self.lead,
                mininterval=0.5,
            ) as bar:
                return self._run(bar)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self._lock is not None:
                self._lock.close()

    def _run(self, bar: tqdm) -> dict[str, float]:
        config = self.config
        figures: dict[str, float] = {}
        pending: list[tuple[int, Tensor, np.ndarray, Tensor]] = []
        started, counted = time.perf_counter(), 0.0
        first, learned = self.step, False
        for batches in self._batches():
            sums, counts, norm, stop = self._train_step(batches)
            pending.append((self.step, sums, counts, norm))
            counted += counts.sum()
            self.step += 1
            last = self.step == config.steps
            learned = learned or counts.any()
            if not learned and (last or self.step - first == _MAX_EMPTY_STEPS):
                raise UserError(
                    f"no batch of steps {first + 1} to {self.step} has a target: there is nothing"
                    " to learn; look at the masking and at what the data holds"
                )
            if self.step % config.log_every == 0 or last or stop:
                records = self._records(pending, batches)
                records[-1] |= self.task.watch(self.inner)
                rate = counted / (time.perf_counter() - started)
                pending, started, counted = [], time.perf_counter(), 0.0
                if self.lead:
                    append_log(self.out / LOG_FILE, records)
                    bar.set_postfix_str(
                        f"loss {records[-1]['loss']:.3f}, {rate:,.0f} {self.task.unit}/s"
                    )
                if config.tracker:
                    self.accelerator.log(
                        {**records[-1], f"{self.task.unit}_per_second": rate}, step=self.step
                    )
            bar.update()
            if self.adaptive is not None and self.step % self.adaptive.adapt_every == 0:
                shares = self._adapt()
                if self.lead:
                    append_log(self.out / LOG_FILE, [{"step": self.step, "mixture": shares}])
            if self.step % config.checkpoint_every == 0 or last or stop:
                self.save()
            if stop and not last:
                raise Interrupted(
                    f"stopped at step {self.step} of {config.steps}; the same command goes on from"
                    " here"
                )
            if last or (config.eval_every and self.step % config.eval_every == 0):
                figures = self.evaluate()
                if self.lead and figures:
                    append_log(self.out / LOG_FILE, [{"step": self.step, "eval": figures}])
                started = time.perf_counter()
        bar.close()
        if not figures:
            figures = self.evaluate()
        if config.tracker:
            self.accelerator.end_training()
        return figures

    def _batches(self) -> Iterator[list[Any]]:
        """This rank's batches of all steps to come; a fresh loader wherever the task's batches
        change.
        """
        step, every = self.step, self.adaptive.adapt_every if self.adaptive else self.config.steps
        while step < self.config.steps:
            end = min(self.config.steps, (step // every + 1) * every)
            yield from self._loader(range(step, end))
            step = end

    def _loader(self, steps: range) -> Iterator[list[Any]]:
        data = self.task.batches(self.accelerator.process_index, self.accelerator.num_processes)
        workers = self.config.num_workers
        return iter(
            torch.utils.data.DataLoader(
                data,
                batch_size=None,
                sampler=steps,
                num_workers=workers,
                pin_memory=self.device.type == "cuda",
                prefetch_factor=4 if workers else None,
            )
        )

    def _adapt(self) -> dict[str, Any]:
        assert self.adaptive is not None
        self.inner.eval()
        with torch.no_grad():
            figures = self.adaptive.adapt(self.inner, self.device, self.step, self._mean_of_ranks)
        self.inner.train()
        return figures

    def _mean_of_ranks(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(tensor, "mean"))

    def _train_step(self, batches: list[Any]) -> tuple[Tensor, np.ndarray, Tensor, bool]:
        config, accelerator = self.config, self.accelerator
        # what layers draw (dropout, noise, revived codes) is a function of seed, step and rank: a
        # resumed run draws the same
        torch.manual_seed(
            zlib.crc32(f"{config.seed} {self.step} {accelerator.process_index}".encode())
        )
        counts = np.sum([self.task.counts(batch) for batch in batches], axis=0)
        stop = bool(self._signal)
        if accelerator.num_processes > 1:
            shared = torch.tensor([*counts, float(stop)], dtype=torch.float64, device=self.device)
            shared = accelerator.reduce(shared, "sum").cpu().numpy()  # type: ignore[union-attr]
            counts, stop = shared[:-1], shared[-1] > 0
        weights = torch.tensor(self.task.weights(counts), dtype=torch.float32, device=self.device)
        factor = learning_rate(config.schedule, self.step, config.steps)
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        total = torch.zeros(len(counts), device=self.device)
        for i, batch in enumerate(batches):
            sync = i == len(batches) - 1
            with accelerator.autocast():
                if sync or accelerator.num_processes == 1:
                    sums = self._backward(batch, weights)
                else:
                    with accelerator.no_sync(self.wrapped):
                        sums = self._backward(batch, weights)
            total += sums.detach()
        norm = torch.tensor(0.0)
        if config.optimizer.clip:
            clipped = accelerator.clip_grad_norm_(self.wrapped.parameters(), config.optimizer.clip)
            assert clipped is not None
            norm = clipped
            if self.device.type == "cpu" and not torch.isfinite(norm):
                self._broken(batches, float(norm))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema:
            parameters = dict(self.inner.named_parameters())
            latest = [parameters[n].detach() for n in self.ema]
            averages = list(self.ema.values())
            torch._foreach_lerp_(averages, latest, 1 - config.ema)  # pyright: ignore[reportPrivateImportUsage]
        return total, counts, norm, stop

    def _backward(self, batch: Any, weights: Tensor) -> Tensor:
        sums = self.task.forward(self.wrapped, batch.to(self.device))
        # DDP averages gradients over ranks; the weights already divide by the global counts
        self.accelerator.backward((sums * weights).sum() * self.accelerator.num_processes)
        return sums

    def _records(
        self, pending: list[tuple[int, Tensor, np.ndarray, Tensor]], batches: list[Any]
    ) -> list[dict[str, Any]]:
        """Log lines of the steps since the last ones: losses of the global batch, one transfer for
        all of them.
        """
        stacked = torch.stack([sums.float() for _, sums, _, _ in pending])
        stacked = self.accelerator.reduce(stacked, "sum").cpu().double().numpy()  # type: ignore[union-attr]
        records = []
        for (step, _, counts, norm), sums in zip(pending, stacked, strict=True):
            loss = float((sums * self.task.weights(counts)).sum())
            if not np.isfinite(loss):
                self._broken(batches, loss)
            means = {
                n: s / c
                for n, s, c in zip(self.task.terms, sums.tolist(), counts.tolist(), strict=True)
                if c
            }
            records.append(
                {"step": step + 1, "loss": loss, "grad_norm": float(norm), "terms": means}
            )
        return records

    def _broken(self, batches: list[Any], value: float) -> None:
        path = self.out / "broken_step.json"
        if self.lead:
            described = {
                "step": self.step,
                "value": str(value),
                "batches": [self.task.describe(b) for b in batches],
            }
            path.write_text(json.dumps(described, indent=1) + "\n")
        raise UserError(
            f"the loss or gradient of step {self.step + 1} is not finite; its samples are listed"
            f" in {path}."
            " The last checkpoint is intact: lower the learning rate or remove the samples and"
            " start again"
        )

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal:
            sys.exit(128 + number)
        self._signal = number

    # ---- state -----------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """The task's held-out figures, with the averaged weights where there are any."""
        held = {n: p.detach().clone() for n, p in self.inner.named_parameters()} if self.ema else {}
        self._load(self.ema)
        self.inner.eval()
        with torch.no_grad():
            figures = self.task.evaluate(self.inner, self.device)
        self.inner.train()
        self._load(held)
        return figures

    def _load(self, weights: dict[str, Tensor]) -> None:
        parameters = dict(self.inner.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(value)

    def save(self) -> None:
        """Checkpoint of this step (all ranks must call)."""
        weights = {name: gather_full(t) for name, t in self.inner.state_dict().items()}
        tensors = optimizer_tensors(self.optimizers)
        if self.ema:
            # the model file holds the average
            tensors |= {f"weights.{n}": weights[n] for n in self.ema}
            weights = weights | {n: gather_full(t) for n, t in self.ema.items()}
        if self.lead:
            save_checkpoint(
                self.out / "checkpoints",
                self.step,
                lambda folder: self.task.save(self.inner, weights, folder),
                tensors,
                {
                    "seed": self.config.seed,
                    "batch_size": self.config.batch_size,
                    **({"task": self.adaptive.state()} if self.adaptive else {}),
                },
                self.config.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Load the newest whole checkpoint, if there is one, and cut the log back to it."""
        path = newest_checkpoint(self.out / "checkpoints")
        if path is not None:
            from fourm.weights import load_weights

            tensors, state = read_checkpoint(path)
            if (state["seed"], state["batch_size"]) != (self.config.seed, self.config.batch_size):
                raise UserError(
                    f"{path} was trained with seed {state['seed']} and batch size"
                    f" {state['batch_size']}, the config says"
                    f" {self.config.seed} and {self.config.batch_size}: use another output folder"
                )
            parameters = dict(self.inner.named_parameters())
            if hasattr(next(iter(parameters.values())), "device_mesh"):
                from safetensors.torch import load_file

                loaded = load_file(path / "model.safetensors")
                self._load({n: shard_like(loaded[n], p) for n, p in parameters.items()})
            else:
                load_weights(self.inner, path / "model.safetensors")
            if self.ema:
                self.ema = {n: p.detach().clone() for n, p in parameters.items()}
                self._load(
                    {n: shard_like(tensors[f"weights.{n}"], p) for n, p in parameters.items()}
                )
            load_optimizer_tensors(self.optimizers, tensors)
            self.step = state["step"]
            if self.adaptive is not None and "task" in state:
                self.adaptive.restore(state["task"])
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
