"""``fourm generate`` writes values that can be given again, and takes a folder or a table of
inputs, of which what is finished is not made again.
"""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from fourm import AnyToAnyPipeline
from fourm.cli import main
from fourm.resources import demo_model_folder

CAPTION = "a large red cube left of a small blue sphere"
BOXES = '[{"box": [0.1, 0.2, 0.5, 0.6], "label": "red cube"}]'
TARGETS = ["depth", "normal", "semseg", "rgb", "boxes"]


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


def generate(*arguments: object) -> int:
    try:
        main(["generate", *map(str, arguments), "--steps", "1"])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_values_are_written_as_they_are_read_and_can_be_given_again(pipe, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert generate("--input", f"caption={CAPTION}", *TARGETS, "--out", out) == 0
    direct = pipe({"caption": CAPTION}, TARGETS, steps=1)
    written = manifest(out)["samples"]["0"]
    assert written["inputs"] == {"caption": CAPTION}
    for name in TARGETS:
        path = out / written["values"][name]
        raw, value = pipe.modalities[name].raw, direct[name].values[0]
        stored = raw.read(raw.write(value), raw.extensions[0])  # half precision of depth
        again = raw.from_argument(str(path))
        assert again == value if name == "boxes" else np.array_equal(again, stored), name
        assert (out / written["pictures"][name]).is_file()
    given = [f"{name}={out / written['values'][name]}" for name in TARGETS]
    inputs = [word for pair in given for word in ("--input", pair)]
    assert generate(*inputs, "caption", "--out", tmp_path / "again") == 0
    labels = np.asarray(Image.open(out / written["values"]["semseg"]))
    assert labels.ndim == 2 and np.array_equal(labels, direct["semseg"].values[0])


@pytest.fixture
def folder(pipe, tmp_path):
    pictures = pipe({"caption": [CAPTION] * 3}, "rgb", seed=7, steps=1)["rgb"].values
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).resize((90, 80)).save(tmp_path / "pictures" / f"p{i}.png")
    return tmp_path / "pictures"


def test_a_folder_is_generated_once_and_what_changed_is_made_anew(folder, tmp_path, capsys):
    out = tmp_path / "out"
    call = ("--input", f"rgb={folder}", "caption", "depth", "--num", "2", "--out", out)
    assert generate(*call) == 0
    samples = manifest(out)["samples"]
    assert sorted(samples) == [f"p{i}-{seed}" for i in range(3) for seed in range(2)]
    capsys.readouterr()
    assert generate(*call) == 0
    assert capsys.readouterr().out.count("is there") == 3
    (out / samples["p1-0"]["values"]["depth"]).unlink()
    Image.open(folder / "p2.png").rotate(90).save(folder / "p2.png")
    assert generate(*call) == 0
    assert capsys.readouterr().out.count("is there") == 1
    assert generate(*call, "--temperature", "0.5") == 0  # another request: none of it is there
    assert "is there" not in capsys.readouterr().out


def test_an_input_of_a_folder_is_generated_as_if_it_were_alone(folder, tmp_path):
    assert generate("--input", f"rgb={folder}", "depth", "--out", tmp_path / "all") == 0
    one = f"rgb={folder / 'p2.png'}"
    assert generate("--input", one, "depth", "--out", tmp_path / "one") == 0
    together = np.load(tmp_path / "all" / "values" / "depth" / "p2-0.npy")
    assert np.array_equal(together, np.load(tmp_path / "one" / "values" / "depth" / "0.npy"))


def test_a_table_has_a_row_for_each_input(folder, tmp_path, capsys):
    table = folder / "inputs.csv"
    table.write_text(f"key,rgb,caption\na,p0.png,\nb,p1.png,{CAPTION}\nc,,a cone\n")
    assert generate("--inputs", table, "depth", "--out", tmp_path / "out") == 0
    told = {key: s["inputs"] for key, s in manifest(tmp_path / "out")["samples"].items()}
    assert {key: sorted(inputs) for key, inputs in told.items()} == {
        "a-0": ["rgb"],
        "b-0": ["caption", "rgb"],
        "c-0": ["caption"],
    }
    for text, why in (
        ("key,rbg\na,p0.png\n", "unknown modality 'rbg'"),
        ("key,rgb\na,p0.png\na,p1.png\n", "key 'a' is there twice"),
        ("key,rgb\n../a,p0.png\n", "is no file name"),
        ("key,rgb\n", "has no rows"),
    ):
        table.write_text(text)
        assert generate("--inputs", table, "depth", "--out", tmp_path / "bad") == 2
        assert why in capsys.readouterr().err
    assert generate("--inputs", tmp_path / "none.csv", "depth", "--out", tmp_path / "bad") == 2


def test_one_bad_file_of_many_is_named_and_the_others_are_made(folder, tmp_path, capsys):
    (folder / "p1.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert generate("--input", f"rgb={folder}", "depth", "--out", out) == 2
    error = capsys.readouterr().err
    assert "1 of 3 inputs could not be used, the first p1: input rgb: no readable picture" in error
    assert sorted(manifest(out)["samples"]) == ["p0-0", "p2-0"]
    (tmp_path / "empty").mkdir()
    assert generate("--input", f"rgb={tmp_path / 'empty'}", "depth", "--out", out) == 2
    assert "no file of png, jpg" in capsys.readouterr().err


def test_steps_are_animated_beside_each_picture(pipe, tmp_path):
    out, targets = tmp_path / "out", ["depth", "caption", "rgb"]
    call = ["generate", "--input", f"boxes={BOXES}", *targets, "--steps", "3", "--out", str(out)]
    main([*call, "--num", "2", "--animate"])
    stream = pipe.stream({"boxes": json.loads(BOXES)}, targets, num_samples=2, steps=3)
    shown = [step.images[1] for step in stream if step.target.name == "rgb"]
    shown.append(stream.results["rgb"].images[1])
    # frames that are alike are one
    different = [b for a, b in pairwise([None, *shown]) if a is None or a.tobytes() != b.tobytes()]
    assert len(different) >= 3
    samples = manifest(out)["samples"]
    assert all(sorted(s["animations"]) == ["depth", "rgb"] for s in samples.values())
    with Image.open(out / samples["1"]["animations"]["rgb"]) as animation:
        assert animation.n_frames == len(different)
        for i, picture in enumerate(different):
            animation.seek(i)
            frame = np.asarray(animation.convert("RGB"))
            assert np.array_equal(frame, np.asarray(picture.convert("RGB").resize(animation.size)))
    assert generate("--tile", "--animate", "depth", "--out", out) == 2


def test_a_caption_that_is_a_folder_s_name_is_a_caption(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cube").mkdir()
    assert generate("--caption", "cube", "depth", "--out", "out") == 0
    assert manifest(tmp_path / "out")["samples"]["0"]["inputs"] == {"caption": "cube"}
