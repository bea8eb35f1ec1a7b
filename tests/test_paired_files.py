"""Modalities that exist already as files become shards as they are, whatever their layout; what is
of no modality is told.
"""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from fourm_data_prep.parts import as_stored
from fourm_data_prep.splits import ByColumn
from paired_worlds import NUM, SIZE, YAML, by_folder, everything, files, take, value_of, write_files
from PIL import Image

from fourm.data.npy import read_npy
from fourm.raw.depth import Depth
from fourm.raw.image import Image as Picture
from fourm.raw.labels import Labels


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
        stored = {info.name: tar.extractfile(info).read() for info in tar}
    assert len(stored) > NUM // 2
    for name, data in stored.items():
        assert data == (folder / "rgb" / name.replace("-", "/")).read_bytes()


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
