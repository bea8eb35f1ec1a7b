"""How a network is trained, whatever it is: what the loop reads (``loop.py``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fourm.config import at_least
from fourm.errors import UserError
from fourm.training.optimizers import OptimizerConfig
from fourm.training.schedules import ScheduleConfig
from fourm.training.sharding import Sharding


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
        at_least(self, 1, "steps", "batch_size", "micro_batches")
        at_least(self, 1, "checkpoint_every", "keep_checkpoints", "log_every")
        at_least(self, 0, "ema", "num_workers", "eval_every", "threads", "hang_timeout")
        at_least(self, 1, "group_timeout")
        if self.ema >= 1:
            raise UserError(f"ema must be below 1, not {self.ema}: nothing would be averaged in")
