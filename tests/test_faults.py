"""What a machine does to a run: folders that nothing can be written to, loader
workers that the system kills. Kills of ranks and full disks: ``test_watchdog.py``,
``test_training.py``; all of them together: ``benchmarks/chaos.py``.
"""

import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from chaos import says_a_traceback
from ranks import start_ranks
from source import PACKAGES
from worlds import curve, write_project

from fourm.cli import main

STEPS = ("loop.steps=60", "loop.checkpoint_every=4")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(project) -> list[tuple[int, float]]:
    out = project.parent / "whole"
    main(["pretrain", str(project), *STEPS, f"out={out}"])
    return curve(out)


def test_nothing_is_measured_by_a_clock_that_can_jump():
    """Time-outs, rates and waits are those of ``time.monotonic`` and ``time.perf_counter``."""
    asked = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(")
    wrong = [
        path
        for folder in PACKAGES.values()
        for path in folder.rglob("*.py")
        if asked.search(path.read_text())
    ]
    assert not wrong


@pytest.fixture
def read_only(tmp_path):
    """A folder in which not even the superuser can write."""
    folder = tmp_path / "kept"
    folder.mkdir()
    if subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
        pytest.skip("this file system has no attribute for it")
    yield folder
    subprocess.run(["chattr", "-i", folder], check=True)


@pytest.mark.parametrize("option", ["out={}", "data.cache={}"])
def test_a_folder_that_is_read_only_is_one_line_and_status_2(project, read_only, capsys, option):
    with pytest.raises(SystemExit) as ending:
        main(
            [
                "pretrain",
                str(project),
                *STEPS,
                "out=" + str(read_only.parent / "run"),
                option.format(read_only / "below"),
            ]
        )
    told = capsys.readouterr().err
    assert ending.value.code == 2
    assert told.count("error:") == 1 and str(read_only) in told and "Traceback" not in told


def test_a_loader_worker_that_is_killed_ends_the_run_with_a_line_and_nothing_is_lost(
    project, whole, tmp_path
):
    options = (*STEPS, "loop.num_workers=1", f"out={tmp_path}")
    group = start_ranks(1, project, *options)
    (rank,) = group.processes
    log = tmp_path / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    for child in psutil.Process(rank.pid).children():
        if "resource_tracker" not in " ".join(child.cmdline()):
            child.kill()
    assert group.end() == [1]
    told = group.files[0].read_text()
    assert told.count("error: a process that loads data is gone") == 1
    assert not says_a_traceback(told)
    main(["pretrain", str(project), *options])
    assert curve(tmp_path) == whole
