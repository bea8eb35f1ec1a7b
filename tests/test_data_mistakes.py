"""Damaged samples, masks that leave nothing to learn and a full disk: each is told, and what is
good goes on.
"""

import json
import re
import resource
import shutil
from pathlib import Path

import pytest
from worlds import curve, write_project

from fourm.cli import main
from fourm.config import load
from fourm.data.shards import DamageReport, read_shard, shard_path, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.training.checkpoints import list_checkpoints
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.run_folder import append_log


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"), num=16)


@pytest.fixture
def project(world, tmp_path) -> Path:
    """A project of this test alone."""
    root = tmp_path / "project"
    shutil.copytree(world.parent, root)
    text = (root / "pretrain.yaml").read_text().replace(str(world.parent), str(root))
    (root / "pretrain.yaml").write_text(text)
    return root / "pretrain.yaml"


def break_shard(path: Path, broken: set[int], end: float = 1.0) -> None:
    """Members number ``broken`` are no arrays; the file stops after ``end`` of its bytes, inside a
    member.
    """
    members = list(read_shard(path, lambda data, _: data, ("npy",), DamageReport()))
    write_shard(
        path, [(k, "npy", b"no array" if i in broken else d) for i, (k, d) in enumerate(members)]
    )
    path.write_bytes(path.read_bytes()[: int(end * path.stat().st_size)])


def opened(project: Path) -> Source:
    root = project.parent
    return Source(
        SourceConfig(tokens=str(root / "tokens"), raw=str(root / "raw")),
        "train",
        ModalitySet.load(root / "modalities.yaml"),
        root / "cache",
        0.05,
    )


def test_a_sample_damaged_in_several_modalities_is_one_damaged_sample(project):
    for name in ("rgb", "depth", "caption"):
        break_shard(shard_path(project.parent / "tokens", "train", name, 0), set(range(16)))
    with pytest.raises(UserError, match=r"\b16 of 16 samples are damaged \(first"):
        opened(project)
    report = next((project.parent / "cache").glob("damage-*.json"))
    assert json.loads(report.read_text())["skipped"] == 16


def test_a_shard_that_ends_early_is_told_apart_from_samples(project):
    break_shard(shard_path(project.parent / "tokens", "train", "rgb", 0), {0}, end=0.54)
    with pytest.raises(UserError) as caught:
        opened(project)
    found = re.search(
        r"(\d+) of 16 samples are damaged, shards that end early: 1 ", str(caught.value)
    )
    assert found and 1 < int(found[1]) < 16, caught.value


def test_a_run_without_any_target_is_stopped(project):
    """The data has captions alone; the masks ask for depth."""
    for name in ("rgb", "depth"):
        for split in ("train", "val"):
            shutil.rmtree(project.parent / "tokens" / split / name)
    masks = "masking.components=[{input: {caption: 1}, target: {depth: 1}}]"
    with pytest.raises(UserError, match="no batch of steps 1 to 3 has a target"):
        pretrain(load(PretrainConfig, project, [masks, "loop.steps=3"]))


def test_a_full_disk_is_one_line_and_the_run_goes_on_from_its_last_checkpoint(project, capsys):
    """The limit on a file's size stands in for a full disk: safetensors and Python fail alike."""
    out = project.parent / "run"
    pretrain(load(PretrainConfig, project, ["loop.steps=5"]))
    config = load(PretrainConfig, project, ["loop.steps=10"])
    size = (out / "checkpoints" / "step_00000005" / "model.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["pretrain", str(project), "loop.steps=10"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: File too large") and "what is finished is kept" in last
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == ["step_00000005"]
    assert not list(out.rglob("*.partial*"))
    pretrain(config)
    assert [step for step, _ in curve(out)] == list(range(1, 11))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_is_an_error_where_it_is_written():
    with pytest.raises(OSError, match="No space left"):
        append_log(Path("/dev/full"), [{"step": 1}])
