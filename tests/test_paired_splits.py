"""Which split a sample of an import is in: by folders, shares, groups or a column; a tar is read
once for all.
"""

import io
import json
import tarfile

import pytest
from fourm_data_prep import tar_pictures
from fourm_data_prep.columns import parse_columns
from fourm_data_prep.splits import Place, Shares, parse_split
from fourm_data_prep.tar_pictures import ImportTarsStep
from paired_worlds import (
    COLUMNS,
    NUM,
    YAML,
    by_folder,
    damage,
    everything,
    rows_of,
    stored,
    take,
    value_of,
    write_files,
    write_table,
)
from PIL import Image

from fourm.modalities import ModalitySet


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "modalities.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "own", by_folder)
    return tmp_path / "own"


@pytest.mark.parametrize("outer", ["split", "modality", "name"])
def test_a_folder_names_the_split_outside_or_inside_of_the_modality(config, tmp_path, outer):
    forms = {
        "split": "{s}/{m}/{n}.{e}",
        "modality": "{m}/{s}/{n}.{e}",
        "name": "{s}/{n}.{m}.{e}",
    }
    form = forms[outer]
    for split, numbers in (("train", range(8)), ("validation", range(8, 12)), ("test", [1])):
        write_files(
            tmp_path / "own",
            lambda m, n, e, s=split: form.format(s=s, m=m, n=n, e=e),
            numbers,
        )
    split = parse_split("folder")
    found = everything(take(tmp_path / "own", config, tmp_path / "raw", split=split), config)
    assert {name: len(held["rgb"]) for name, held in found.items()} == {
        "test": 1,
        "train": 8,
        "val": 4,
    }
    assert "room1-01" in found["test"]["rgb"] and "room1-01" in found["train"]["rgb"]


def test_shares_are_a_stable_hash_and_groups_are_never_in_two_splits():
    split = parse_split("val=0.1,test=0.2")
    names = [split.of(Place(f"key{i}")) for i in range(4000)]
    assert abs(names.count("val") - 400) < 80 and abs(names.count("test") - 800) < 100
    assert names[:8] == [  # of every release
        *("train", "test", "train", "train"),
        *("train", "test", "train", "train"),
    ]
    grouped = parse_split("val=0.5", "room")
    rooms = {}
    for i in range(400):
        of = grouped.of(Place(f"key{i}", columns={"room": i % 40}))
        rooms.setdefault(i % 40, set()).add(of)
    assert all(len(found) == 1 for found in rooms.values())
    assert {"train", "val"} == set.union(*rooms.values())
    by_folder = parse_split("val=0.5", "folder")
    assert len({by_folder.of(Place(f"key{i}", ("a", "b"))) for i in range(40)}) == 1


def test_a_handful_has_a_sample_in_each_share_but_no_group_is_divided(config, tmp_path, capsys):
    write_files(tmp_path / "own", by_folder, range(5, 9))
    out = take(tmp_path / "own", config, tmp_path / "raw", split=parse_split("val=.01,test=.01"))
    found = everything(out, config)
    assert {split: len(held["rgb"]) for split, held in found.items()} == {
        "test": 1,
        "train": 2,
        "val": 1,
    }
    split = parse_split("val=.01", "folder")
    out = take(tmp_path / "own", config, tmp_path / "groups", split=split)
    assert not (out / "val").exists()
    assert "warning: no group falls into split val" in capsys.readouterr().out


def test_rows_without_a_split_are_damage(folder, config, tmp_path):
    rows = rows_of(folder)
    rows[3]["part"] = ""
    rows[4]["part"] = "../x"
    write_table(folder / "t.csv", rows)
    taking = {"columns": parse_columns([COLUMNS]), "split": parse_split("part")}
    out = take(folder / "t.csv", config, tmp_path / "raw", max_damage=0.1, **taking)
    reasons = sorted(entry["reason"] for entry in damage(out))
    assert reasons == [
        "line 5: column part does not say its split",
        "line 6: '../x' cannot be the name of a split",
    ]


def test_a_tar_is_read_once_for_all_splits(config, tmp_path, monkeypatch):
    (tmp_path / "tars").mkdir()
    config.write_text(YAML.replace("  height", "#").replace("  boxes", "#"))
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        for i in range(NUM):
            picture = io.BytesIO()
            Image.fromarray(value_of(i)[0]).save(picture, "PNG")
            for name, data in ((f"{i}.png", picture.getvalue()), (f"{i}.txt", b"number %d" % i)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    read, plain = [], tar_pictures.read_shard
    monkeypatch.setattr(
        tar_pictures,
        "read_shard",
        lambda path, *a, **k: (read.append(path), plain(path, *a, **k))[1],
    )
    out = take(tmp_path / "tars", config, tmp_path / "raw")
    assert len(read) == 1
    done = json.loads((out / "done.json").read_text())
    captions = {s: stored(out, config, s, "caption") for s in ("train", "val")}
    assert {s: len(held) for s, held in captions.items()} == {s: done[s] for s in ("train", "val")}
    assert done["train"] + done["val"] == NUM and captions["train"]["1"] == "number 1"
    made = list(ModalitySet.load(config))
    other = ImportTarsStep(made, sorted((tmp_path / "tars").glob("*")), out, parse_split("a=0.5"))
    assert other.jobs() != ImportTarsStep(made, other.tars, out, Shares()).jobs()
    again = take(tmp_path / "tars", config, out, split=parse_split("a=0.5"))
    assert not list(again.glob("val/*/*.tar")) and list(again.glob("a/rgb/*.tar"))
