"""Leaks between splits: crops, flips, other sizes and compressions of real photographs are found in
both directions, other pictures are not; captions told again are found; keys to leave out are those
of the training side.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fourm_data_prep.commands.inspect import command
from fourm_data_prep.leaks import windows
from fourm_data_prep.leaks.align import agreement
from fourm_data_prep.leaks.captions import shared_captions
from fourm_data_prep.leaks.find import Finder, find_leaks
from fourm_data_prep.leaks.folders import Folder
from fourm_data_prep.leaks.lookup import Bands
from fourm_data_prep.leaks.prints import print_of
from fourm_data_prep.leaks.windows import Shown, Windows, _boxes
from PIL import Image, ImageOps

from fourm.data.shards import shard_path, write_shard

pytest.importorskip("cv2")
PHOTOGRAPHS = sorted((Path(__file__).parent / "data" / "photographs").glob("*.jpg"))


def part(picture: Image.Image, left: float, top: float, width: float, height: float) -> Image.Image:
    """A crop, in shares of the picture."""
    w, h = picture.size
    return picture.crop(
        (int(left * w), int(top * h), int((left + width) * w), int((top + height) * h))
    )


def compressed(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


COPIES = {
    "crop of 60 %": lambda p: part(p, 0.2, 0.2, 0.78, 0.77),
    "crop to another aspect": lambda p: part(p, 0.0, 0.3, 1.0, 0.62),
    "flip": ImageOps.mirror,
    "half as large, another aspect": lambda p: p.resize((p.width // 2, int(p.height * 0.6))),
    "JPEG of quality 20": lambda p: compressed(p, 20),
    "all of them": lambda p: compressed(
        ImageOps.mirror(part(p, 0.1, 0.05, 0.8, 0.8)).resize((200, 170)), 20
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_a_photograph_are_found_in_both_directions_and_others_are_not(name):
    originals = [Image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    copies = [COPIES[name](picture).convert("RGB") for picture in originals]
    for held, asked in ((copies, originals), (originals, copies)):
        finder = Finder([(str(i), print_of(picture)) for i, picture in enumerate(held)])
        for i, picture in enumerate(asked):
            (leak,) = finder("asked", picture)
            assert leak.held_out == str(i)
            assert leak.mirrored == (name in ("flip", "all of them"))


def test_a_mirrored_view_is_the_view_of_the_mirrored_picture():
    picture = Image.open(PHOTOGRAPHS[0]).convert("RGB")
    turned, again = print_of(picture).mirrored, print_of(ImageOps.mirror(picture)).plain
    near = np.abs(turned.places[:, None, :2] - again.places[None, :, :2]).max(2) < 0.5
    near &= np.abs(turned.places[:, None, 3] - again.places[None, :, 3]) < 5
    one, other = np.nonzero(near)
    assert len(set(one)) > 0.6 * len(turned.places)
    apart = np.abs(turned.described[one] - again.described[other]).mean(1)
    assert np.median(apart) < 5  # of 512
    assert turned.whole == again.whole


def test_codes_that_share_a_band_are_those_that_a_comparison_of_all_finds():
    rng = np.random.default_rng(0)
    held, asked = (rng.integers(0, 40, (n, 4)).astype(np.uint16) for n in (300, 50))
    found = set(zip(*Bands(held.view(np.uint64)).pairs(asked.view(np.uint64)), strict=True))
    every = np.nonzero((asked[:, None] == held[None]).any(2))
    assert found == set(zip(*every, strict=True))


def test_blank_pictures_are_no_copies_of_each_other():
    blank = [Image.new("RGB", (90, 60), colour) for colour in ("white", "white", "#fefefe")]
    finder = Finder([("blank", print_of(blank[0]))])
    assert not finder("a", blank[1]) and not finder("b", blank[2])


def soft(seed: int) -> Image.Image:
    """A picture of a few large shades, without places to hold on to."""
    few = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(few).resize((200, 150), Image.Resampling.BICUBIC)


def test_crops_of_soft_pictures_are_found_by_their_shades_either_way_and_mirrored(monkeypatch):
    originals = [soft(seed) for seed in range(6)]
    crops = [part(p, 0.05 * i, 0.21 - 0.04 * i, 0.75, 0.79) for i, p in enumerate(originals)]
    crops[3:] = [ImageOps.mirror(crop) for crop in crops[3:]]
    for held, asked in ((crops, originals), (originals, crops)):
        finder = Finder([(str(i), print_of(picture)) for i, picture in enumerate(held)])
        found = [finder("asked", picture) for picture in asked]
        assert [[leak.held_out for leak in leaks] for leaks in found] == [
            [str(i)] for i in range(6)
        ]
        assert [leaks[0].mirrored for leaks in found] == [False] * 3 + [True] * 3
        monkeypatch.setattr(Windows, "candidates", lambda self, asked: [])
        assert sum(bool(finder("asked", picture)) for picture in asked) < 6
        monkeypatch.undo()


def test_windows_lay_a_crop_where_it_was_cut_out():
    whole = np.asarray(soft(0))
    box = next(box for box in _boxes() if (box[0] > 0).all())
    (x0, y0), (x1, y1) = np.round(box * whole.shape[1::-1]).astype(int)
    crop = np.ascontiguousarray(whole[y0:y1, x0:x1])
    for here, there in ((crop, whole), (whole, crop)):
        number, laid = Windows([Shown(there, 0)]).candidates(Shown(here, 0))[0]
        assert number == 0 and min(agreement(here, there, laid)) > 0.98


def test_of_many_pictures_those_with_fewest_places_have_windows(monkeypatch):
    monkeypatch.setattr(windows, "MOST_KEPT", 2)
    pictures = [np.asarray(soft(seed)) for seed in range(4)]
    kept = Windows([Shown(p, n) for p, n in zip(pictures, (90, 3, 70, 5), strict=True)])
    found = [kept.candidates(Shown(p[10:140, 10:190].copy(), 99)) for p in pictures]
    assert [any(number == i for number, _ in f) for i, f in enumerate(found)] == [False, True] * 2


def test_captions_told_again_are_found_short_and_other_ones_are_not():
    told = "A brown dog runs over wet sand near the sea at dawn."
    first = {"a": told, "b": "a red ball", "c": "Two people repair an old bicycle in a small shop"}
    second = {
        "x": "a brown dog runs over wet sand, near the sea at dawn",
        "y": "a red ball",
        "z": "A brown dog sleeps on a sofa while two people repair a bicycle",
    }
    assert [pair[:2] for pair in shared_captions(first, second)] == [("a", "x")]


def test_folders_of_captions_alone_are_compared(tmp_path):
    for name, told in (("a", "a brown dog runs over wet sand near the sea"), ("b", "a cat")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(told)
        (tmp_path / name / "2.txt").write_text("two people repair an old bicycle in a small shop")
    found = find_leaks(Folder(tmp_path / "a"), Folder(tmp_path / "b"))
    assert found.exclude == ["2"] and not found.pictures


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Path:
    """Raw shards of two splits that share one picture (cropped) and one caption."""
    root = tmp_path_factory.mktemp("raw")
    pictures = [Image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    told = "a woman in an orange suit before a flag and a small model"
    captions = {"train": [told, "a cat"], "val": ["a cup of coffee", told.title()]}
    shown = {"train": pictures[:2], "val": [pictures[2], part(pictures[1], 0.1, 0.1, 0.85, 0.8)]}
    for split in ("train", "val"):
        encoded = []
        for i, picture in enumerate(shown[split]):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            encoded.append((f"{split}{i}", "png", buffer.getvalue()))
        texts = [(f"{split}{i}", "txt", t.encode()) for i, t in enumerate(captions[split])]
        write_shard(shard_path(root, split, "rgb", 0), [*encoded, ("broken", "png", b"no picture")])
        write_shard(shard_path(root, split, "caption", 0), texts)
    return root


def test_the_verb_writes_pairs_a_page_and_the_training_keys_to_leave_out(splits, tmp_path):
    given = ["--leaks", str(splits / "train"), str(splits / "val"), "--out", str(tmp_path / "l")]
    result = CliRunner().invoke(command, given)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "l" / "exclude.txt").read_text().split() == ["00000/train0", "00000/train1"]
    found = json.loads((tmp_path / "l" / "leaks.json").read_text())
    assert [(p["train"], p["held_out"]) for p in found["pictures"]] == [
        ("00000/train1", "00000/val1")
    ]
    assert [pair[:2] for pair in found["captions"]] == [["00000/train0", "00000/val1"]]
    assert "data:image/webp" in (tmp_path / "l" / "leaks.html").read_text()


def test_several_processes_find_what_one_finds(splits):
    folders = Folder(splits / "train"), Folder(splits / "val")
    one, two = find_leaks(*folders), find_leaks(*folders, workers=2)
    assert one.pictures == two.pictures and one.num_train == two.num_train == 2


@pytest.mark.parametrize(
    "given, message",
    [
        (["--leaks", "nowhere", "nowhere"], "no folder nowhere"),
        (["nowhere", "--leaks", "a", "b"], "--leaks takes two folders"),
        ([], "give RAW and --config FILE, --leaks"),
    ],
)
def test_mistakes_are_named(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, given)
    assert result.exit_code and message in f"{result.output} {result.exception}"


def test_a_folder_without_pictures_says_what_is_wanted(tmp_path):
    with pytest.raises(ValueError, match="has no pictures .*a split of raw shards"):
        find_leaks(Folder(tmp_path), Folder(tmp_path))
