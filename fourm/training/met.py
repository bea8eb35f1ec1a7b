"""Where the processes of a training come together: as Accelerate has it, but whoever waits in vain
for another one is told so in a line, and soon. Starting takes minutes at most, an evaluation that
others wait for may take longer: so the two have a patience of their own.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from fourm.training.loop_config import LoopConfig
from fourm.training.ranks import meeting
from fourm.training.run_log import checked_tracker
from fourm.training.sharding import running_figures


def met(model: nn.Module, config: LoopConfig, out: Path) -> Accelerator:
    """Once all ranks have come. Raises ProcessesLost where one has not."""
    first = timedelta(seconds=config.meeting_timeout)
    with meeting(config.meeting_timeout):
        accelerator = Accelerator(
            # said where there is no other device: else ranks would not know of each other
            cpu=not torch.accelerator.is_available(),
            mixed_precision=config.precision,
            log_with=checked_tracker(config.tracker) or None,
            project_dir=str(out) if config.tracker else None,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=first),
                # tables that never change need not be sent in every forward pass
                DistributedDataParallelKwargs(broadcast_buffers=bool(running_figures(model))),
            ],
        )
    if dist.group.WORLD is not None:
        dist.group.WORLD.set_timeout(timedelta(seconds=config.group_timeout))
    return accelerator
