"""One training as several processes: who they are, and that a project starts and ends them all."""

from __future__ import annotations

import sys

import pytest
import torch

from fourm.errors import StageFailed
from fourm.project.project import run_all
from fourm.training.cpu_ranks import num_cpu_ranks, rank_environments

SUM = """
import os, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = torch.tensor(float(dist.get_rank() + 1))
dist.all_reduce(rank)
dist.destroy_process_group()
open(os.path.join(sys.argv[1], os.environ["RANK"]), "w").write(f"{rank.item()}")
"""


def test_as_many_ranks_as_share_a_batch_evenly(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert [num_cpu_ranks(cores, 32) for cores in (1, 2, 3, 64)] == [1, 2, 2, 4]
    assert num_cpu_ranks(4, 9) == 3
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert num_cpu_ranks(64, 32) == 1


def test_one_rank_is_an_ordinary_process():
    assert rank_environments(1) == [{}]


def test_ranks_of_one_command_meet(tmp_path, capfd):
    run_all([[sys.executable, "-c", SUM, str(tmp_path)]], threads=1, ranks=2)
    assert [(tmp_path / name).read_text() for name in "01"] == ["3.0", "3.0"]
    assert capfd.readouterr().out.count("init_process_group") == 1, "the command is shown once"


def test_a_rank_that_fails_ends_the_others():
    code = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    with pytest.raises(StageFailed, match="status 3"):
        run_all([[sys.executable, "-c", code]], ranks=2)
