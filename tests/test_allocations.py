"""Memory of a step is mapped once, not anew in every step."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from fourm.training.allocations import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
torch.set_num_threads(1)
def step():
    return (torch.ones(1 << 23) + 1).sum()
for _ in range(8):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    command = [sys.executable, "-c", STEPS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


def test_a_step_touches_the_pages_of_the_step_before():
    default = page_faults("default")
    assert default > 20_000  # 4 steps of two tensors of 8,192 pages
    # once in a while the heap still grows by a tensor
    assert page_faults("keep") < default / 3
