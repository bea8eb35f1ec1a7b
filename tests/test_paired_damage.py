"""Files of modalities that exist already: what is damaged costs itself alone and is told; what a
run left behind is removed by the next.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from fourm_data_prep.splits import Shares
from paired_worlds import NUM, YAML, by_folder, damage, everything, take, write_files

from fourm.data.shards import shard_paths


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "modalities.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "own", by_folder)
    return tmp_path / "own"


def test_a_damaged_file_costs_itself_alone_and_many_stop_the_import(folder, config, tmp_path):
    (folder / "rgb/room1/01.png").write_bytes((folder / "rgb/room1/01.png").read_bytes()[:40])
    (folder / "height/room2/02.npy").write_bytes(b"nothing")
    (folder / "boxes/room3/03.json").write_text('[{"box": [0, 1]}]')
    (folder / "caption/room4/04.txt").write_bytes(b"\xff\xfe\xfa")
    (folder / "height/room0/05.npy").unlink()
    (folder / "height/room0/05.npy").symlink_to(tmp_path / "nowhere.npy")
    shutil.copy(folder / "rgb/room1/06.png", folder / "rgb/room1/06.jpg")
    with pytest.raises(ValueError, match="6 of 41 samples are damaged"):
        take(folder, config, tmp_path / "few")
    out = take(folder, config, tmp_path / "raw", max_damage=0.2)
    reasons = {entry["key"]: entry["reason"] for entry in damage(out)}
    assert {key: reason.split(":")[0] for key, reason in reasons.items()} == {
        "room1-01": "rgb",
        "room2-02": "height",
        "room3-03": "boxes",
        "room4-04": "caption",
        "room0-05": "height",
        "rgb/room1/06.png": "rgb",
    }
    assert "height/room0/05.npy: No such file" in reasons["room0-05"]
    done = json.loads((out / "done.json").read_text())
    assert done["train"] + done["val"] == NUM  # each lost one modality
    assert done["train/rgb"] + done["val/rgb"] == NUM - 1
    assert done["train/height"] + done["val/height"] == NUM * 3 // 4 - 2
    required = take(folder, config, tmp_path / "both", max_damage=0.2, require=("rgb", "height"))
    done = json.loads((required / "done.json").read_text())
    assert done["train"] + done["val"] == NUM * 3 // 4 - 3


def test_names_that_differ_by_a_dot_are_samples_of_their_own(config, tmp_path):
    for i, name in enumerate(("a.b", "a_b", "a b")):
        write_files(tmp_path / "own", lambda m, _, e, n=name: f"{m}/{n}.{e}", [i + 1])
    found = everything(take(tmp_path / "own", config, tmp_path / "raw"), config)
    rgb = {**found["train"]["rgb"], **found["val"]["rgb"]}
    height = {**found["train"]["height"], **found["val"]["height"]}
    assert len(rgb) == 3 and rgb.keys() == height.keys()
    assert all(rgb[key][0, 0, 0] == round(500 * height[key][0, 0, 0]) for key in rgb)


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_of_others(
    folder, config, tmp_path
):
    out = tmp_path / "raw"
    dead, alive = dead_process(), os.getppid()
    for name in (f"train/rgb/00000.tmp{dead}", f"manifests/import/val-00000.tmp{dead}"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"cut short")
    (out / f"train/rgb/00007.tmp{dead}").write_bytes(b"of another task")
    (out / f"train/rgb/00001.tmp{alive}").write_bytes(b"of a process that runs")
    take(folder, config, out, shard_range=(0, 2))
    assert sorted(p.name for p in out.rglob("*.tmp*")) == [f"00001.tmp{alive}", f"00007.tmp{dead}"]
    take(folder, config, out)
    assert [p.name for p in out.rglob("*.tmp*")] == [f"00001.tmp{alive}"]


def test_shards_of_samples_that_are_gone_go_and_shards_of_other_steps_stay(config, tmp_path):
    source, out = tmp_path / "own", tmp_path / "raw"
    write_files(source, by_folder, range(300))
    take(source, config, out, split=Shares(()))
    assert len(shard_paths(out, "train", "rgb")) == 2
    (out / "train/labels").mkdir()
    (out / "train/labels/00001.tar").write_bytes(b"of fourm label")
    for i in range(200, 300):
        for path in source.glob(f"*/room{i % 5}/{i}.*"):
            path.unlink()
    take(source, config, out, split=Shares(()))
    assert len(shard_paths(out, "train", "rgb")) == 1 and (out / "train/labels/00001.tar").exists()
    assert json.loads((out / "done.json").read_text())["train"] == 200
