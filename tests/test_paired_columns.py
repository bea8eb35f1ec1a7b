"""Modalities that exist already as columns of a table or of a dataset become shards as they are."""

import io
import re

import pytest
from fourm_data_prep.columns import parse_columns
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import Taking, import_pictures
from fourm_data_prep.parts import as_stored
from fourm_data_prep.splits import Shares, parse_split
from paired_worlds import (
    BOXES,
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

from fourm.cli import main
from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.raw.numbers import Numbers


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "modalities.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "own", by_folder)
    return tmp_path / "own"


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
