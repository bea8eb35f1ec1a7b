"""Ranks that are slow are named, a run that hangs ends itself, and what befalls one rank ends all
of them with a line: nothing is lost.
"""

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from ranks import run_ranks, start_ranks, torchrun
from worlds import curve, write_project

from fourm.training.checkpoints import newest_checkpoint
from fourm.training.pretrain import PretrainTask
from fourm.training.ranks import Ranks
from fourm.training.run_folder import hold_folder
from fourm.training.watchdog import Progress, compare

SHORT = ("loop.steps=12", "loop.checkpoint_every=4")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(project) -> list[tuple[int, float]]:
    out = project.parent / "whole"
    run_ranks(2, project, *SHORT, f"out={out}")
    return curve(out)


def slow_down(seconds: float, first: int, last: int) -> None:
    """The second rank sleeps in its forward passes of some steps."""
    forward, calls = PretrainTask.forward, []

    def slow(task, model, batch):
        calls.append(0)
        if os.environ["RANK"] == "1" and first <= len(calls) <= last:
            time.sleep(seconds)
        return forward(task, model, batch)

    PretrainTask.forward = slow  # type: ignore[method-assign]


def a_slow_rank() -> None:
    slow_down(0.7, 1, 100)


def a_rank_that_hangs() -> None:
    slow_down(600, 6, 6)


def test_the_slowest_rank_is_in_the_log_and_named(project, tmp_path):
    told = run_ranks(2, project, "loop.steps=4", f"out={tmp_path}", prepare=a_slow_rank)
    assert re.search(r"rank 1 on \S+ is slow: [\d.]+ s of its own in a step", told[0])
    assert "is slow" not in told[1]  # said once
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    last = [line for line in lines if "loss" in line][-1]
    assert last["slowest_rank"] == 1 and last["slowest_rank_seconds"] > 0.69
    assert last["slowest_rank_seconds"] > last["rank_seconds"]


def test_one_process_has_no_slowest_rank():
    assert compare(Progress(), Ranks(0, 1, 1.0)) == {}


def test_own_time_is_that_of_batches_and_forward_passes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    for step in (1, 2):
        for phase, seconds in (("batches", 1), ("forward", 2), ("backward", 4), ("update", 8)):
            progress.at(phase, step)
            now[0] += seconds
    progress.at("ranks", 3)
    assert progress.own_seconds() == 2.0  # 6 s in the 3 steps that have begun


# both ways hang in a collective, of which only the sharded one is met within a forward pass
@pytest.mark.parametrize("sharding", [pytest.param("none", marks=pytest.mark.slow), "all"])
def test_a_run_that_hangs_names_the_rank_shows_all_stacks_and_ends(project, tmp_path, sharding):
    group = start_ranks(
        2,
        project,
        *SHORT,
        f"loop.sharding={sharding}",
        "loop.hang_timeout=6",
        f"out={tmp_path}",
        prepare=a_rank_that_hangs,
    )
    began = time.monotonic()
    assert group.end(timeout=90) == [1, 1], group.told
    assert time.monotonic() - began < 90
    for told in group.told:
        line = next(line for line in told.splitlines() if "nothing has moved for" in line)
        assert "rank 1 on" in line and "step 6" in line and "rank 0 on" not in line
        assert "most recent call first" in told
    assert "in slow" in group.told[1]  # the function that sleeps
    assert newest_checkpoint(tmp_path / "checkpoints").name == "step_00000004"


def test_one_process_that_hangs_ends_too(project, tmp_path):
    group = start_ranks(
        1,
        project,
        *SHORT,
        "loop.hang_timeout=6",
        f"out={tmp_path}",
        prepare=a_rank_that_hangs,
        RANK="1",
        LOCAL_RANK="-1",
    )
    assert group.end() == [1], group.told
    assert "nothing has moved" in group.told[0] and "in slow" in group.told[0]


def ranks_below(launcher: int) -> list[psutil.Process]:
    """The processes of the training under torchrun, first rank first."""
    found = psutil.Process(launcher).children(recursive=True)
    ranks = [p for p in found if "RANK" in p.environ() and "pretrain" in p.cmdline()]
    return sorted(ranks, key=lambda process: int(process.environ()["RANK"]))


def started(out: Path, steps: int) -> None:
    deadline = time.monotonic() + 100
    while not (out / "log.jsonl").is_file() or len(curve(out)) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONG = ("loop.steps=60", "loop.checkpoint_every=4")


@pytest.fixture(scope="module")
def long(project) -> list[tuple[int, float]]:
    out = project.parent / "long"
    run_ranks(2, project, *LONG, f"out={out}")
    return curve(out)


@pytest.mark.slow
def test_one_of_two_ranks_killed_the_other_ends_with_a_line_and_the_run_goes_on(
    project, long, tmp_path
):
    launcher = torchrun(2, project, *LONG, f"out={tmp_path}")
    started(tmp_path, 6)
    ranks_below(launcher.pid)[1].kill()
    told = launcher.communicate(timeout=100)[1]
    assert launcher.returncode
    assert told.count("error: another rank of this training is gone") == 1, told
    assert "Connection closed" not in told.split("error: another rank")[0]
    run_ranks(2, project, *LONG, f"out={tmp_path}")
    assert curve(tmp_path) == long


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "all"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_two_ranks_saves_and_ends_with_a_line_each(
    project, long, tmp_path, number, sharding
):
    """As a terminal sends Ctrl-C: to the launcher and the ranks, and the launcher sends it on."""
    options = (*LONG[:1], "loop.checkpoint_every=1000", f"loop.sharding={sharding}")
    launcher = torchrun(2, project, *options, f"out={tmp_path}")
    started(tmp_path, 6)
    os.killpg(launcher.pid, number)
    told = launcher.communicate(timeout=100)[1]
    lines = [line for line in told.splitlines() if line.startswith("stopped at step")]
    assert len(lines) == 2 and "the same command goes on" in lines[0], told
    assert newest_checkpoint(tmp_path / "checkpoints") is not None
    run_ranks(2, project, *options, f"out={tmp_path}")
    pairs = zip(curve(tmp_path), long, strict=True)
    assert max(abs(a - b) for (_, a), (_, b) in pairs) <= (0 if sharding == "none" else 1e-3)


def test_ranks_wait_together_for_a_folder_that_is_in_use(project, tmp_path):
    """The first rank asks again and again: the others' patience is never longer than a moment."""
    held = hold_folder(tmp_path, Ranks(0, 1, 60.0))
    assert held is not None
    options = ("loop.steps=2", "loop.group_timeout=3", f"out={tmp_path}")
    group = start_ranks(2, project, *options)
    deadline = time.monotonic() + 60
    while "another process" not in group.told[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3.5)  # longer than a rank waits for another one
    held.close()
    assert group.end() == [0, 0], group.told
    assert "another process" in group.told[0] and "another process" not in group.told[1]


@pytest.mark.parametrize("missing", [0, 1])
def test_a_rank_that_waits_for_one_that_never_comes_ends_with_a_line(project, tmp_path, missing):
    """Whether the first of them, at which all meet, is there or not."""
    options = ("loop.steps=2", "loop.meeting_timeout=3", f"out={tmp_path}")
    group = start_ranks(2, project, *options)
    group.processes[missing].kill()
    assert group.end(timeout=90)[1 - missing] == 1, group.told
    told = group.told[1 - missing]
    assert told.count("error: not all ranks of this training came within 3 s") == 1, told
    assert "Traceback" not in told
