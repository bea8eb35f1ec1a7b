"""One training as several processes of a machine without an accelerator.

Small networks use two cores better as two ranks of one thread than as one process of two threads:
threads wait for each other at every operation, ranks once a step. Samples, masks and losses are
those of one process (``fourm/training/loop.py``).
"""

from __future__ import annotations

import socket

import torch

_MOST = 4  # each rank has a copy of everything


def num_cpu_ranks(cores: int, batch_size: int) -> int:
    """How many ranks share a batch: a divisor of it; 1 where an accelerator does the work."""
    if torch.accelerator.is_available():
        return 1
    return max(n for n in range(1, min(cores, _MOST) + 1) if batch_size % n == 0)


def rank_environments(num: int) -> list[dict[str, str]]:
    """What the environment of each of ``num`` ranks says: where they meet, and who is who."""
    if num == 1:
        return [{}]
    with socket.socket() as meeting:
        meeting.bind(("127.0.0.1", 0))
        port = meeting.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    return [{**shared, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(num)]
