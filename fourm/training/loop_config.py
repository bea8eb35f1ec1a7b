"""What a training of any network is told: how long, how large its steps are, how it is held in
memory, when it is saved and looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fourm.config import at_least
from fourm.errors import UserError
from fourm.training.optimizers import OptimizerConfig
from fourm.training.schedules import ScheduleConfig, check_length, steps_of
from fourm.training.sharding import Sharding


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a network is trained, whatever it is."""

    steps: int = 0
    # instead of steps, for pretraining: slots of the budget (``schedules.py``)
    total_tokens: float = 0
    batch_size: int  # samples of all ranks and micro-batches together
    micro_batches: int = 1  # gradient accumulation
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    # > 0: an exponential moving average of the weights is kept and is what is evaluated and
    # exported
    ema: float = 0.0
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    activation_checkpointing: bool = False
    num_workers: int = 1  # loader processes of each rank; 0 = in the training process
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    eval_every: int = 0  # 0 = at the end only
    tracker: str = ""  # name of an Accelerate tracker, e.g. tensorboard
    threads: int = 0  # CPU threads of each rank; 0 = torch's choice
    # with several ranks: each has all of the model, or rows of it, shared out over all ranks or
    # over those of its machine
    sharding: Sharding = "none"
    group_timeout: float = 1800.0  # seconds that ranks wait for each other at most
    meeting_timeout: float = 300.0  # the same until all have come
    # seconds without a move of any kind after which the run ends itself; 0 = never
    hang_timeout: float = 1200.0

    @staticmethod
    def upgrade(given: dict[str, Any]) -> dict[str, Any]:
        """YAML 1.1 reads an unquoted ``precision: no`` as false: what was meant is plain. Up to
        0.5.0 there was fp16, without the scaling of gradients that it needs.
        """
        if given.get("precision") == "fp16":
            raise UserError(
                "precision fp16 overflows without scaled gradients and is no more: bf16 has"
                " float32's range and the same speed"
            )
        return {**given, "precision": "no"} if given.get("precision") is False else given

    def __post_init__(self) -> None:
        at_least(self, 0, "ema", "num_workers", "eval_every", "threads", "hang_timeout")
        at_least(self, 1, "batch_size", "micro_batches", "group_timeout", "meeting_timeout")
        at_least(self, 1, "checkpoint_every", "keep_checkpoints", "log_every")
        check_length(self.steps, self.total_tokens, self.schedule)
        if self.batch_size % self.micro_batches:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of micro_batches"
                f" {self.micro_batches}"
            )
        if self.ema >= 1:
            raise UserError(f"ema must be below 1, not {self.ema}: nothing would be averaged in")

    def in_steps(self, tokens_per_sample: int) -> LoopConfig:
        """The same with all lengths in steps, for samples of so many slots of the budget."""
        each = tokens_per_sample * self.batch_size
        steps = steps_of(self.total_tokens, each) if self.total_tokens else self.steps
        schedule = self.schedule.in_steps(each)
        return replace(self, steps=steps, total_tokens=0, schedule=schedule)
