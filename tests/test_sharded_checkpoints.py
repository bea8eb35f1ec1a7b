"""Checkpoints are written while the training goes on, in parts where it is sharded; killed at any
moment of a save, the one before is used; ranks that see different ones do not begin.
"""

import errno
import itertools
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from ranks import run_ranks, start_ranks
from safetensors.torch import load_file, save_file
from torch import nn
from worlds import curve, write_project

from fourm.config import load
from fourm.errors import UserError
from fourm.files.tensor_file import save_tensors, write_tensors
from fourm.files.weights import ROWS, WeightFiles, part_name
from fourm.training import saving
from fourm.training.checkpoints import (
    MANIFEST,
    STATE,
    agreed_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    sha256,
)
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.ranks import Ranks
from fourm.training.saving import Saver, Snapshot

SHORT = ("loop.steps=9", "loop.checkpoint_every=3", "loop.keep_checkpoints=9")
SHARDED = "loop.sharding=all"
ALONE = Ranks(0, 1, 60.0)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(project) -> list[tuple[int, float]]:
    """The curve of two sharded ranks that nothing disturbs."""
    out = project.parent / "whole"
    run_ranks(2, project, *SHORT, SHARDED, f"out={out}")
    return curve(out)


# ---- files ---------------------------------------------------------------------------------------


def test_a_streamed_file_is_what_safetensors_reads_and_its_hash_is_true(tmp_path):
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.arange(7),
        "c": torch.randn(4, 2).bfloat16(),
        "d": torch.tensor(2.5),
        "e": torch.zeros(0, 4),
        "f": torch.randn(6, 4).T,
        "g": torch.tensor([True, False, True]),
    }
    digest = write_tensors(tmp_path / "x.safetensors", tensors, {"k": "v"})
    assert digest == sha256(tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert WeightFiles.open(tmp_path / "x.safetensors").metadata == {"k": "v"}


def test_a_saved_file_is_readable_by_whom_the_umask_allows_and_takes_a_mapped_one_s_place(tmp_path):
    path = tmp_path / "x.safetensors"
    kept = os.umask(0o027)
    try:
        save_tensors(path, {"a": torch.arange(5.0)})
        mapped = load_file(path)
        save_tensors(path, {name: t + 1 for name, t in mapped.items()})
    finally:
        os.umask(kept)
    assert path.stat().st_mode & 0o777 == 0o640
    assert mapped["a"].tolist() == [0, 1, 2, 3, 4]
    assert load_file(path)["a"].tolist() == [1, 2, 3, 4, 5]
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def write_parts(folder: Path, table: torch.Tensor, cuts: list[int]) -> None:
    num = len(cuts) - 1
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        rows = {ROWS: json.dumps({"table": [start, len(table)]})}
        name = folder / part_name("model.safetensors", i, num)
        save_file({"table": table[start:stop].contiguous()}, name, rows)


def test_any_rows_are_read_from_any_parts(tmp_path):
    table = torch.randn(10, 3)
    write_parts(tmp_path, table, [0, 4, 8, 10])
    files = WeightFiles.open(tmp_path)
    assert files.shapes["table"] == (10, 3) and torch.equal(files.read("table"), table)
    for start in range(10):
        for stop in range(start, 11):
            assert torch.equal(files.read_rows("table", start, stop), table[start:stop])


def test_a_part_that_is_missing_is_named(tmp_path):
    write_parts(tmp_path, torch.randn(10, 3), [0, 4, 8, 10])
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors is missing"):
        WeightFiles.open(tmp_path)


# ---- while the training goes on ------------------------------------------------------------------


def snapshot(step: int, weight: torch.Tensor) -> Snapshot:
    return Snapshot(step, {"w": weight}, {}, {}, lambda folder: None)


def slow_writes(monkeypatch, seconds: float) -> None:
    def slow(*given):
        time.sleep(seconds)
        return write_tensors(*given)

    monkeypatch.setattr(saving, "write_tensors", slow)


def test_a_save_keeps_what_was_at_its_step_and_returns_before_it_is_written(tmp_path, monkeypatch):
    slow_writes(monkeypatch, 0.4)
    saver, weight = Saver(tmp_path, 2, ALONE), torch.zeros(4)
    began = time.perf_counter()
    saver.start(snapshot(1, weight))
    assert time.perf_counter() - began < 0.3 and newest_checkpoint(tmp_path) is None
    weight += 1  # the training goes on
    saver.wait()
    path = newest_checkpoint(tmp_path)
    assert path is not None
    assert torch.equal(load_file(path / "model.safetensors")["w"], torch.zeros(4))


def test_the_next_save_waits_for_the_one_before(tmp_path, monkeypatch):
    slow_writes(monkeypatch, 0.3)
    saver = Saver(tmp_path, 5, ALONE)
    saver.start(snapshot(1, torch.zeros(4)))
    saver.start(snapshot(2, torch.ones(4)))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000001"]
    saver.wait()
    assert len(list_checkpoints(tmp_path)) == 2


def fill_the_disk() -> None:
    """The second save of the second rank fails."""
    write, calls = saving.write_tensors, []

    def full(path, *given):
        calls.append(path)
        if os.environ["RANK"] == "1" and "step_00000006" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *given)

    saving.write_tensors = full


def test_a_write_that_fails_on_one_rank_stops_all_with_its_message(project, whole, tmp_path):
    out = f"out={tmp_path}"
    group = start_ranks(2, project, *SHORT, SHARDED, out, prepare=fill_the_disk)
    assert group.end() == [2, 2]
    assert all("No space left on device" in told for told in group.told), group.told
    assert not list(tmp_path.rglob("*.partial*"))
    assert newest_checkpoint(tmp_path / "checkpoints").name == "step_00000003"
    run_ranks(2, project, *SHORT, SHARDED, out)
    assert curve(tmp_path) == whole


# ---- killed at any moment of a save --------------------------------------------------------------


def _die_at(step: int) -> bool:
    """True in the first rank, if its save of ``step`` is on its way."""
    return os.environ["RANK"] == "0" and any(
        Path(os.environ["OUT"], "checkpoints").glob(f"step_{step:08d}.partial*")
    )


def killed_while_staging() -> None:
    staged = saving.Saver._copied

    def copied(self, name, tensor):
        before = Path(os.environ["OUT"], "checkpoints", "step_00000003")
        if os.environ["RANK"] == "0" and before.is_dir():
            os.kill(os.getpid(), signal.SIGKILL)
        return staged(self, name, tensor)

    saving.Saver._copied = copied


def killed_while_writing() -> None:
    blocks = saving.write_tensors

    def write(path, *given):
        digest = blocks(path, *given)
        if _die_at(6):
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return digest

    saving.write_tensors = write


def killed_before_renaming() -> None:
    replace = os.replace

    def renamed(source, target):
        if _die_at(6) and str(target).endswith("step_00000006"):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = renamed


def killed_after_renaming() -> None:
    sync = saving._sync

    def synced(path):
        if path.name == "checkpoints" and (path / "step_00000006").is_dir():
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)

    saving._sync = synced


@pytest.mark.parametrize(
    ("kill", "newest"),
    [
        (killed_while_staging, 3),
        (killed_while_writing, 3),
        (killed_before_renaming, 3),
        (killed_after_renaming, 6),
    ],
)
def test_killed_in_a_save_the_newest_whole_checkpoint_is_used(
    project, whole, tmp_path, kill, newest
):
    out = f"out={tmp_path}"
    group = start_ranks(2, project, *SHORT, SHARDED, out, prepare=kill, OUT=str(tmp_path))
    assert group.end() == [-signal.SIGKILL, 1], group.told
    assert "another rank of this training is gone" in group.told[1]
    assert "Traceback" not in group.told[1]
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None and found.name == f"step_{newest:08d}"
    told = run_ranks(2, project, *SHORT, SHARDED, out)
    assert f"from step {newest}" in told[0]
    assert curve(tmp_path) == whole


# ---- agreement -----------------------------------------------------------------------------------


def go_to_own_disk() -> None:
    """Two machines that share no disk."""
    os.chdir(os.environ["DISKS"].split(":")[int(os.environ["RANK"])])
    saving.VISIBLE = 0.5


@pytest.mark.parametrize("sharding", ["all", "none"])
def test_ranks_that_see_different_checkpoints_are_refused_with_one_message(
    project, tmp_path, sharding
):
    here, elsewhere = tmp_path / "a", tmp_path / "b"
    pretrain(load(PretrainConfig, project, ["loop.steps=3", f"out={here / 'run'}"]))
    (elsewhere / "run").mkdir(parents=True)
    group = start_ranks(
        2,
        project,
        *SHORT,
        "out=run",
        f"loop.sharding={sharding}",
        prepare=go_to_own_disk,
        DISKS=f"{here}:{elsewhere}",
    )
    assert group.end() == [2, 2], group.told
    lines = [
        [line for line in told.splitlines() if line.startswith("error:")] for told in group.told
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 1
    assert "rank 0" in lines[0][0] and "step_00000003" in lines[0][0] and "none" in lines[0][0]
    assert curve(here / "run")[-1][0] == 3


def test_sharded_ranks_without_a_shared_disk_say_so_at_the_first_save(project, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    disks = f"{tmp_path / 'a'}:{tmp_path / 'b'}"
    group = start_ranks(2, project, *SHORT, SHARDED, "out=run", prepare=go_to_own_disk, DISKS=disks)
    assert group.end() == [2, 2], group.told
    assert all("all machines share" in told for told in group.told), group.told


def test_each_rank_checks_a_share_of_the_files(project, tmp_path, caplog):
    run_ranks(2, project, *SHORT, SHARDED, f"out={tmp_path}")
    folder = tmp_path / "checkpoints"
    part = folder / "step_00000009" / "training-00002-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-4] + b"0123")
    found = agreed_checkpoint(folder, ALONE)
    assert found is not None and found.name == "step_00000006"
    assert "training-00002-of-00002.safetensors does not match" in caplog.text
    told = run_ranks(2, project, *SHORT, SHARDED, f"out={tmp_path}")
    assert "from step 6" in told[0] and "damaged" in told[0]


def test_a_folder_of_a_checkpoint_has_what_it_had(project, tmp_path):
    """One process: a model folder, optimizer and state as files of their own."""
    pretrain(load(PretrainConfig, project, ["loop.steps=2", f"out={tmp_path}"]))
    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    names = {file.name for file in path.iterdir()}
    wanted = {"config.json", "model.safetensors", "pretrain.yaml", "training.safetensors"}
    assert names == wanted | {STATE, MANIFEST}


def test_a_model_with_running_figures_is_not_sharded():
    from fourm.training.sharding import shard_model

    with pytest.raises(UserError, match="running figures"):
        shard_model(nn.BatchNorm1d(4), "all", torch.device("cpu"), "no")
