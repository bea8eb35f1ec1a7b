"""Modalities that exist already, as files or columns, become shards as they are; what is damaged or
of no modality costs itself alone and is told.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence

import numpy as np
import pytest
from fourm_data_prep import tar_pictures
from fourm_data_prep.columns import parse_columns
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import Taking, import_pictures
from fourm_data_prep.parts import as_stored
from fourm_data_prep.splits import ByColumn, Place, Shares, parse_split
from fourm_data_prep.tar_pictures import ImportTarsStep
from PIL import Image

from fourm.cli import main
from fourm.data.npy import read_npy
from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw.depth import Depth
from fourm.raw.image import Image as Picture
from fourm.raw.labels import Labels
from fourm.raw.numbers import Numbers

SIZE, NUM = 16, 40
YAML = f"""
tokenizers:
  text: {{type: text, vocab_size: 300, num_axes: 4, num_bins: 32}}
modalities:
  rgb: {{kind: grid, raw: {{type: image, size: {SIZE}}}, vocab_size: 8, grid: [2, 2]}}
  height: {{kind: grid, raw: {{type: array, size: {SIZE}}}, vocab_size: 8, grid: [2, 2]}}
  caption: {{kind: sequence, raw: {{type: text}}, tokenizer: text, max_tokens: 20}}
  boxes: {{kind: sequence, raw: {{type: boxes}}, tokenizer: text, max_tokens: 20}}
"""
BOXES = [{"box": [0.1, 0.2, 0.5, 0.6], "label": "cube"}]


def value_of(i):
    """rgb, height, caption, boxes of sample i: all tell its number."""
    height = np.full((SIZE, SIZE, 1), i / 100, np.float32)
    return np.full((SIZE, SIZE, 3), 5 * i % 256, np.uint8), height, f"number {i}", BOXES


def write_files(folder, place, numbers: Sequence[int] = range(NUM)):
    """Files of each sample where ``place(modality, name, extension)`` says; every fourth sample
    has no height.
    """
    for i in numbers:
        rgb, height, caption, boxes = value_of(i)
        png, npy = io.BytesIO(), io.BytesIO()
        Image.fromarray(rgb).save(png, "PNG")
        np.save(npy, height)
        files = {
            ("rgb", "png"): png.getvalue(),
            ("height", "npy"): npy.getvalue(),
            ("caption", "txt"): caption.encode(),
            ("boxes", "json"): json.dumps(boxes).encode(),
        }
        for (modality, extension), data in files.items():
            if modality == "height" and i % 4 == 0:
                continue
            path = folder / place(modality, f"room{i % 5}/{i:02d}", extension)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def by_folder(modality, name, extension):
    return f"{modality}/{name}.{extension}"


def by_name(modality, name, extension):
    return f"{name}.{modality}.{extension}"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "modalities.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "own", by_folder)
    return tmp_path / "own"


def take(source, config, out, workers=1, max_damage=0.05, shard_range=None, **taking):
    engine = EngineConfig(workers=workers, shard_range=shard_range)
    import_pictures(source, config, out, max_damage, engine, taking=Taking(**taking))
    return out


def stored(out, config, split, name):
    """Key -> value of what training reads."""
    raw, found = ModalitySet.load(config)[name].raw, {}
    for path in shard_paths(out, split, name):
        report = DamageReport()
        found |= dict(read_shard(path, raw.read, raw.extensions, report))
        assert not report.entries
    return found


def everything(out, config):
    """Split -> modality -> key -> value."""
    return {
        split: {name: stored(out, config, split, name) for name in ("rgb", "height", "caption")}
        for split in sorted(p.name for p in out.iterdir() if p.is_dir() and p.name != "manifests")
    }


def files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.tar"))}


def damage(out):
    return json.loads((out / "damage-import.json").read_text())["entries"]


# ---- files ---------------------------------------------------------------------------------------


def test_files_of_each_modality_become_shards_and_samples_keep_what_they_have(
    folder, config, tmp_path, capsys
):
    out = take(folder, config, tmp_path / "raw")
    found = everything(out, config)
    both = {name: {**found["train"][name], **found["val"][name]} for name in found["train"]}
    assert len(both["rgb"]) == len(both["caption"]) == NUM and len(both["height"]) == NUM * 3 // 4
    for i in range(NUM):
        rgb, height, caption, _ = value_of(i)
        key = f"room{i % 5}-{i:02d}"
        assert (both["rgb"][key] == rgb).all() and both["caption"][key] == caption
        assert (key in both["height"]) == (i % 4 != 0)
        assert key not in both["height"] or (both["height"][key] == height).all()
    told = capsys.readouterr().out
    num = {split: len(found[split]["rgb"]) for split in found}
    for split in found:
        held = f"height {len(found[split]['height'])}, rgb {num[split]}"
        assert (
            f"{split}: {num[split]} samples (boxes {num[split]}, caption" in told and held in told
        )
    done = json.loads((out / "done.json").read_text())
    assert done["train"] + done["val"] == NUM
    assert done["train/height"] + done["val/height"] == NUM * 3 // 4


def test_files_that_fit_are_stored_byte_for_byte(folder, config, tmp_path):
    out = take(folder, config, tmp_path / "raw")
    with tarfile.open(out / "train/rgb/00000.tar") as tar:
        for info in tar:
            key = info.name.removesuffix(".png").replace("-", "/")
            data = tar.extractfile(info)
            assert data is not None and data.read() == (folder / f"rgb/{key}.png").read_bytes()


def test_both_layouts_and_any_number_of_workers_give_the_same_shards(folder, config, tmp_path):
    write_files(tmp_path / "names", by_name)
    first = files(take(folder, config, tmp_path / "raw"))
    assert first == files(take(tmp_path / "names", config, tmp_path / "other", workers=2))


def test_required_modalities_leave_out_samples_that_lack_one(folder, config, tmp_path, capsys):
    out = take(folder, config, tmp_path / "raw", require=("rgb", "height"))
    found = everything(out, config)
    for split in found.values():
        assert list(split["rgb"]) == list(split["height"]) == list(split["caption"])
    assert "10 samples were left out" in capsys.readouterr().out
    assert sum(len(split["rgb"]) for split in found.values()) == NUM * 3 // 4


def test_what_is_of_no_modality_is_told_once_with_its_count(folder, config, tmp_path, capsys):
    shutil.copytree(folder / "rgb", folder / "heigth")
    (folder / "caption" / "a.md").write_text("x")
    (folder / "list.pdf").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "rgb" / "._00.png").write_bytes(b"x")
    take(folder, config, tmp_path / "raw")
    told = capsys.readouterr().err
    assert "heigth/ is no modality: 40 files were left out; did you mean 'height'?" in told
    assert "caption: 1 files .md were left out (raw type text reads txt)" in told
    assert "the folder itself: 1 files of no modality" in told and told.count("left out") == 3


def test_folders_may_be_links_and_a_link_to_a_folder_around_it_ends(folder, config, tmp_path):
    plain = files(take(folder, config, tmp_path / "raw"))
    (folder / "rgb").rename(tmp_path / "elsewhere")
    (folder / "rgb").symlink_to(tmp_path / "elsewhere")
    (folder / "caption" / "again").symlink_to(folder)
    assert plain == files(take(folder, config, tmp_path / "other"))


@pytest.mark.parametrize(
    "more, message",
    [
        (by_name, "by folder .* and by name .*: say --layout folders or --layout names"),
        (lambda m, n, e: f"train/{m}/{n}.{e}", ""),
    ],
)
def test_two_layouts_at_once_are_one_error_with_the_fix(config, tmp_path, more, message):
    write_files(tmp_path / "own", by_folder, range(4))
    write_files(tmp_path / "own", more, range(4, 8))
    if message:
        with pytest.raises(ValueError, match=message):
            take(tmp_path / "own", config, tmp_path / "raw")
        take(tmp_path / "own", config, tmp_path / "raw", layout="folders")
    else:  # folders of modalities below a folder of no modality are that folder's
        take(tmp_path / "own", config, tmp_path / "raw")
    assert json.loads((tmp_path / "raw" / "done.json").read_text())["train"] == 3


def test_other_doubts_are_told_with_the_fix(config, tmp_path):
    write_files(tmp_path / "splits", lambda m, n, e: f"train/{m}/{n}.{e}", range(4))
    with pytest.raises(ValueError, match="modalities below train: .* add --split-by folder"):
        take(tmp_path / "splits", config, tmp_path / "raw")
    write_files(tmp_path / "names", by_name, range(4))
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "names" / "plain.png")
    with pytest.raises(ValueError, match="and 1 pictures that are not: say --layout names"):
        take(tmp_path / "names", config, tmp_path / "raw")
    write_files(tmp_path / "one", by_folder, range(4))
    for name in ("height", "caption", "boxes"):
        shutil.rmtree(tmp_path / "one" / name)
    with pytest.raises(ValueError, match="no folder"):
        take(tmp_path / "nowhere", config, tmp_path / "raw")
    with pytest.raises(ValueError, match="--split-by part names a column, and .* has none"):
        taking = {"layout": "folders", "split": ByColumn("part")}
        take(tmp_path / "one", config, tmp_path / "raw", **taking)
    with pytest.raises(ValueError, match="has only a folder rgb: say --layout folders"):
        take(tmp_path / "one", config, tmp_path / "raw")
    with pytest.raises(
        ValueError, match="no files of a modality in .*; room0/ is no modality: 1 f"
    ):
        take(tmp_path / "splits" / "train" / "rgb", config, tmp_path / "raw", layout="folders")


def test_pictures_arrays_and_class_maps_of_other_sizes_become_the_centre_square():
    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(
        photo, "JPEG"
    )
    extension, data = as_stored(Picture(size=16), photo.getvalue(), "jpg")
    assert extension == "png"
    wanted = Picture(size=16).read(photo.getvalue(), "jpg")
    assert (Picture(size=16).read(data, "png") == wanted).all()
    assert as_stored(Picture(size=48), photo.getvalue(), "jpg") == ("jpg", photo.getvalue())
    wide = np.zeros((32, 64), np.float32)
    wide[:, 16:48] = 1.0
    buffer = io.BytesIO()
    np.save(buffer, wide)
    extension, data = as_stored(Depth(size=16), buffer.getvalue(), "npy")
    assert extension == "npy" and (read_npy(data) == np.ones((16, 16))).all()
    ids = np.zeros((64, 32), np.uint8)
    ids[16:32], ids[32:48] = 1, 2
    picture = io.BytesIO()
    Image.fromarray(ids).save(picture, "PNG")
    raw = Labels(size=16, classes=("a", "b", "c"))
    extension, data = as_stored(raw, picture.getvalue(), "png")
    read = raw.read(data, extension)
    assert (read[:8] == 1).all() and (read[8:] == 2).all()


def test_places_beside_a_picture_that_is_no_square_are_warned_about(
    folder, config, tmp_path, capsys
):
    Image.new("RGB", (2 * SIZE, SIZE)).save(folder / "rgb/room1/01.png")
    take(folder, config, tmp_path / "raw")
    told = capsys.readouterr().err
    assert "warning: 1 samples have places" in told
    assert "warning: in 1 samples pictures have different shapes" in told  # its height is a square


def test_pictures_of_one_shape_in_different_sizes_are_not_warned_about(config, tmp_path, capsys):
    write_files(tmp_path / "own", by_folder, range(1, 4))
    shutil.rmtree(tmp_path / "own" / "boxes")
    Image.new("RGB", (62, 31)).save(tmp_path / "own/rgb/room1/01.png")
    np.save(tmp_path / "own/height/room1/01.npy", np.zeros((16, 32, 1), np.float32))
    turned = Image.Exif()
    turned[0x0112] = 6  # on its side
    Image.new("RGB", (32, 64)).save(tmp_path / "own/rgb/room2/02.png", exif=turned)
    np.save(tmp_path / "own/height/room2/02.npy", np.zeros((32, 64, 1), np.float32))
    out = take(tmp_path / "own", config, tmp_path / "raw")
    assert "warning" not in capsys.readouterr().err
    done = json.loads((out / "done.json").read_text())
    assert done["train/height"] + done["val/height"] == 3 and set(done) <= {
        *("train", "train/rgb", "train/height", "train/caption"),
        *("val", "val/rgb", "val/height", "val/caption"),
    }


# ---- damage --------------------------------------------------------------------------------------


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


# ---- columns -------------------------------------------------------------------------------------

COLUMNS = "rgb=picture,caption=text,boxes=things,height=elev_file"


def rows_of(folder):
    """Rows of a table: files, values, empty cells, ids that are none."""
    rows = []
    for i in range(NUM):
        name = f"room{i % 5}/{i:02d}"
        row = {"picture": f"rgb/{name}.png", "text": f"number {i}", "things": json.dumps(BOXES)}
        height = f"height/{name}.npy" if i % 4 else ""
        rows.append(
            {"id": str(i // 2), **row, "elev_file": height, "part": ["train", "dev"][i % 2]}
        )
    return rows


def write_table(path, rows):
    import csv

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as stream:
            dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
            writer = csv.DictWriter(stream, rows[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_columns_of_a_table_are_files_or_values(folder, config, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet")
    write_table(folder / f"t{suffix}", rows_of(folder))
    taking = {"columns": parse_columns([COLUMNS]), "split": parse_split("part")}
    found = everything(take(folder / f"t{suffix}", config, tmp_path / "raw", **taking), config)
    assert set(found) == {"train", "val"}  # dev is val
    for split, odd in (("train", 0), ("val", 1)):
        numbers = {int(text.split()[1]) for text in found[split]["caption"].values()}
        assert numbers == set(range(odd, NUM, 2))
        for key, text in found[split]["caption"].items():
            i = int(text.split()[1])
            assert (found[split]["rgb"][key] == value_of(i)[0]).all()
            assert (key in found[split]["height"]) == (i % 4 != 0)
    assert stored(tmp_path / "raw", config, "train", "boxes")["0"] == BOXES


def test_cells_hold_numbers_names_lists_and_bytes(tmp_path):
    config = tmp_path / "m.yaml"
    more = "kind: sequence, tokenizer: text, max_tokens: 9"
    config.write_text(
        f"{YAML}  mass: {{{more}, raw: {{type: numbers, range: [0, 100]}}}}\n"
        f"  tags: {{{more}, raw: {{type: words}}}}\n"
        "  sound: {kind: grid, raw: {type: vectors, channels: 3}, vocab_size: 8, grid: [1, 1]}\n"
    )
    rows = [
        {"n": "12.5", "w": "cat, dog", "v": "[1, 2, 3]", "c": "two\nlines"},
        {"n": 7, "w": 3, "v": [4.0, 5, 6], "c": "see a.txt"},
        {"n": [1, 2], "w": ["red"], "v": None, "c": ["first", "second"]},
        {"n": "heavy", "w": None, "v": [1], "c": 5},
        {"n": None, "w": "", "v": "x.npy", "c": "lost.txt"},
    ]
    write_table(tmp_path / "t.jsonl", rows)
    taking = {"columns": parse_columns(["mass=n,tags=w", "sound=v", "caption=c"])}
    out = take(tmp_path / "t.jsonl", config, tmp_path / "raw", 1, 1.0, split=Shares(()), **taking)
    held = {name: stored(out, config, "train", name) for name in taking["columns"]}
    assert [*held["mass"].values()] == [[12.5], [7], [1, 2]]
    assert [*held["tags"].values()] == [["cat", "dog"], ["3"], ["red"]]
    assert [v.tolist() for v in held["sound"].values()] == [[[1, 2, 3]], [[4, 5, 6]]]
    assert [*held["caption"].values()] == ["two lines", "see a.txt", "first", "5"]
    lost = [(entry["reason"].split(":")[0], entry["reason"]) for entry in damage(out)]
    assert sorted(name for name, _ in lost) == ["caption", "mass", "sound", "sound"]
    assert any("lost.txt: No such file" in reason for _, reason in lost)


@pytest.mark.slow
def test_columns_of_a_dataset_are_files_or_values_and_it_is_read_once(tmp_path, config):
    datasets = pytest.importorskip("datasets")
    from fourm_data_prep.hub_datasets import DatasetRows

    rows = []
    for i in range(NUM):
        buffer = io.BytesIO()
        Image.fromarray(value_of(i)[0]).save(buffer, "PNG")
        picture = {"bytes": buffer.getvalue(), "path": None}
        rows.append({"image": picture, "label": i % 2, "elev": value_of(i)[1][..., 0].tolist()})
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "elev": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
        }
    )
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "set")
    asked = []
    plain = DatasetRows.rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatasetRows, "rows", lambda s, job: (asked.append(job), plain(s, job))[1])
        columns = parse_columns(["rgb=image,caption=label,height=elev"])
        out = take(f"hf:{tmp_path / 'set'}", config, tmp_path / "raw", columns=columns)
    assert len(asked) == 1
    found = everything(out, config)
    assert set(found) == {"train", "val"}
    for split in found.values():
        for key, rgb in split["rgb"].items():
            i = int(key[-6:])
            assert (rgb == value_of(i)[0]).all() and (split["height"][key] == value_of(i)[1]).all()
            assert split["caption"][key] == ["cat", "dog"][i % 2]
    with pytest.raises(ValueError, match="has no column 'picture'; it has image"):
        columns = parse_columns(["rgb=picture"])
        take(f"hf:{tmp_path / 'set'}", config, tmp_path / "raw", columns=columns)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--columns", "rgb=picure"], "no column 'picure'; .* did you mean 'picture'?"),
        (["--columns", "rbg=picture"], "unknown modality 'rbg'; .* did you mean 'rgb'?"),
        (["--columns", "rgb"], "not of the form modality=column"),
        (["--columns", "rgb=picture", "--split-by", "parts"], "has no column 'parts'"),
        (["--columns", "rgb=picture", "--split-by", "val=2"], "is no share such as val=0.1"),
        (["--columns", "rgb=picture", "--split-by", "val=.6,test=.6"], "leave nothing to train on"),
        (
            ["--columns", "rgb=picture", "--split-by", "part", "--group-by", "id"],
            "goes with shares",
        ),
        (["--columns", "rgb=picture", "--require", "depth"], "unknown modality 'depth'"),
        (["--columns", "rgb=picture", "--require", "height"], "--columns names no column of it"),
    ],
)
def test_mistakes_are_one_sentence_with_status_2(
    folder, config, tmp_path, capsys, options, message
):
    write_table(folder / "t.csv", rows_of(folder))
    command = ["import", str(folder / "t.csv"), "--modalities", str(config)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(tmp_path / "raw"), *options])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and re.search(message, told) and "Traceback" not in told


# ---- splits --------------------------------------------------------------------------------------


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


# ---- what runs leave ----------------------------------------------------------------------------


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


def test_numbers_whose_range_is_still_to_be_measured_are_taken_from_files_and_columns(tmp_path):
    auto = Numbers(range="auto")
    assert as_stored(auto, b"[1, 2000]", "json") == ("json", b"[1, 2000]")
    with pytest.raises(UserError, match="number"):
        as_stored(auto, b'["loud"]', "json")
    config, table = tmp_path / "modalities.yaml", tmp_path / "t.csv"
    config.write_text("modalities: {pitch: {raw: {type: numbers, range: auto}}}")
    table.write_text("id,hertz\n" + "".join(f"s{i},{100 + i}.5\n" for i in range(20)))
    taking = Taking(columns=parse_columns(("pitch=hertz",)))
    import_pictures(str(table), config, tmp_path / "raw", 0.0, EngineConfig(workers=1), 0, taking)
    (shard,) = shard_paths(tmp_path / "raw", "train", "pitch")
    values = dict(read_shard(shard, auto.read, auto.extensions, DamageReport()))
    assert values["s7"] == [107.5]
