"""``fourm run``: any project from raw shards to a model, what is up to date kept, what an edit
concerns made again; what nothing needs is named and cleaned.
"""

import json
import os
from pathlib import Path

import pytest
from project_worlds import MODALITIES, NUM, World, write, write_raw

from fourm.cli import main
from fourm.config import load
from fourm.data.shards import shard_path, write_shard
from fourm.errors import StageFailed, UserError
from fourm.modalities import ModalitySet
from fourm.project import minutes as project_minutes
from fourm.project import run as project_run
from fourm.project.clean import find_unused
from fourm.project.run import Making, Wishes, run_project
from fourm.training.pretrain import PretrainConfig


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # steps of data preparation in this process
    monkeypatch.setattr(project_minutes, "FEWEST_STEPS", 2)
    monkeypatch.chdir(tmp_path)
    world = World(Path("mine"))
    monkeypatch.setattr(project_run, "run_all", world.run_all)
    return world


def small(world: World) -> None:
    """The model that is written by default, made as small as can be."""

    def change(config: dict) -> None:
        config["model"] = {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2}
        config["masking"]["components"] = config["masking"]["components"][-1:]
        config["loop"] |= {"batch_size": 4, "checkpoint_every": 2, "threads": 1}

    world.edit(world.project.pretrain_config, change)


def made(world: World) -> list[str]:
    """A whole project."""
    tokens = world.run(minutes=1e-9, only=("tokenizers", "tokens"))
    small(world)
    return [*tokens, *world.run()]


# ---- stages --------------------------------------------------------------------------------------


def test_numbers_whose_range_is_to_be_measured_get_range_and_length(world):
    for split in ("train", "val"):
        members = ((f"{i:03d}", "json", json.dumps([i, 2 * i]).encode()) for i in range(NUM))
        write_shard(shard_path(world.project.raw, split, "place", 0), members)
    place = {"raw": {"type": "numbers", "range": "auto"}}
    more = {"num_axes": 1, "num_bins": 16, "vocab_size": 80}
    world.edit(world.project.modalities, lambda data: data["modalities"].update(place=place))
    world.edit(world.project.modalities, lambda data: data["tokenizers"]["text"].update(more))
    with pytest.raises(StopIteration):
        world.cut, world.how = "train-tokenizer", StopIteration()
        world.run()
    found = ModalitySet.load(world.project.modalities)["place"]
    assert found.raw.range != "auto" and found.max_tokens


def test_raw_shards_and_modalities_become_a_model_and_stay_one(world, capsys):
    ran = made(world)
    assert ran == ["train rgb", "train night", "train text", "tokenize", "pretrain", "report"]
    config = load(PretrainConfig, world.project.pretrain_config)
    assert config.loop.steps == 2 and config.loop.schedule.warmup == 0
    assert world.run() == [] and capsys.readouterr().out.count("done before") == 6


def test_what_an_edit_does_not_concern_is_kept(world, capsys):
    made(world)
    before = world.chunks()
    modalities = world.project.modalities
    world.edit(modalities, lambda y: y["modalities"]["night"].update(loss_weight=2.0))
    assert world.run() == ["pretrain", "report"] and world.chunks() == before
    told = capsys.readouterr().out
    assert "a new run, pretrain-2: night has loss_weight 2.0 (was 1.0)" in told
    world.edit(modalities, lambda y: y["modalities"]["caption"].update(max_tokens=6))
    assert world.run() == ["tokenize", "pretrain", "report"]
    assert {n for n, when in world.chunks().items() if before[n] != when} == {"caption"}
    assert "max_tokens 6 (was 8)" in capsys.readouterr().out
    # two of equal size change places: by name, not by number
    world.edit(modalities, lambda y: y["modalities"].update(rgb=y["modalities"].pop("rgb")))
    assert world.run() == ["pretrain", "report"]
    assert "their order is night, caption, rgb" in capsys.readouterr().out
    assert (world.project.pretrain / "init.json").is_file()
    assert world.run() == []


def test_more_raw_shards_are_tokenized_and_learned_from(world, capsys):
    made(world)
    write_raw(world.project.raw, shard=1)
    assert world.run() == ["tokenize", "pretrain", "report"]
    told = capsys.readouterr().out
    assert "other raw files" in told and "there is other data of rgb" in told
    assert json.loads((world.project.pretrain / "done.json").read_text())["num_samples"] == 2 * NUM
    assert world.run() == []


def test_a_stage_that_is_cut_short_is_gone_on_with(world):
    world.cut = "tokenize"
    with pytest.raises(KeyboardInterrupt):
        world.run(minutes=1e-9)
    assert world.ran == ["train rgb", "train night", "train text"]
    small(world)
    world.cut, world.how = "pretrain", StageFailed("error: no room", 2)
    with pytest.raises(StageFailed, match="no room.*stage model of mine.*the same command goes on"):
        world.run()
    assert world.ran == ["tokenize"]
    world.cut, world.how = "report", StageFailed("\ninterrupted", 130)
    with pytest.raises(StageFailed) as told:
        world.run()
    assert str(told.value) == "\ninterrupted" and world.ran == ["pretrain"]
    assert world.run() == ["report"]


def test_stages_are_chosen(world):
    made(world)
    world.edit(
        world.project.modalities, lambda y: y["modalities"]["night"]["tokenizer"].update(dim=8)
    )
    assert world.run(only=("report",)) == []
    assert world.run(only=("tokenizers",)) == ["train night"]
    assert world.run(start="tokens") == ["tokenize", "pretrain", "report"]


def test_more_steps_go_on_and_other_values_begin_anew(world, capsys):
    made(world)
    assert world.run("loop.steps=4") == ["pretrain", "report"]
    assert world.project.pretrain.name == "pretrain"
    assert json.loads((world.project.pretrain / "done.json").read_text())["step"] == 4
    assert world.run("loop.steps=3") == [] and world.run() == []
    world.edit(world.project.pretrain_config, lambda y: y["loop"].update(steps=5))
    assert world.run() == ["pretrain", "report"] and world.project.pretrain.name == "pretrain"
    assert world.run("loss=modality") == ["pretrain", "report"]
    assert "a new run, pretrain-2: loss modality (was token)" in capsys.readouterr().out
    assert world.run("loss=modality") == [] and world.run() == []


def test_raw_shards_may_be_a_stage_too(world):
    raw = world.project.raw
    raw.rename("aside")
    moved = lambda: Path("aside").rename(raw)  # noqa: E731
    making = Making(raw=moved, raw_is_made=lambda edits: raw.is_dir())
    run_project(world.project.root, Wishes(only=("raw",)), making)
    assert raw.is_dir()
    run_project(world.project.root, Wishes(only=("raw",)), making)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["nowhere"], "no folder nowhere.*fourm import"),
        (["mine", "--only", "token"], "no stage 'token'.*did you mean 'tokens'"),
        (["mine", "out=elsewhere"], "out=elsewhere: this is the project's own"),
        (["empty"], "no empty/modalities.yaml"),
        (["bare"], "no shards of rgb, night, caption under bare/raw/train: fourm import"),
    ],
)
def test_what_is_lacking_is_a_sentence_with_what_to_type(world, arguments, told, capsys):
    Path("empty").mkdir()
    Path("bare").mkdir()
    write(Path("bare/modalities.yaml"), MODALITIES)
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    assert ended.value.code == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    with pytest.raises(UserError, match=told):
        raise UserError(line)


def test_paths_of_a_project_that_is_called_from_elsewhere_are_not_taken_for_others(
    world, monkeypatch, tmp_path
):
    world.cut = "train-tokenizer"
    with pytest.raises(KeyboardInterrupt):
        world.run()
    monkeypatch.chdir("..")
    with pytest.raises(UserError, match="relative to where fourm is called"):
        run_project(Path(tmp_path.name, "mine"))


# ---- what is unused ------------------------------------------------------------------------------


def test_what_nothing_needs_is_named_and_removed_only_when_asked(world, capsys):
    made(world)

    def change(data: dict) -> None:
        data["modalities"]["rgb"]["tokenizer"]["dim"] = 8
        del data["modalities"]["night"]
        data["modalities"]["pixels"] = {"kind": "continuous", "source": "rgb", "patch_size": 4}

    world.edit(world.project.modalities, change)
    world.run()
    root = world.project.root
    found = {str(item.path.relative_to(root)) for item in find_unused(world.project)}
    columns = {name for name in found if name.startswith("cache/")}
    kept = {f"cache/{p.name}" for p in world.project.cache.iterdir() if p.is_dir()} - columns
    assert columns and kept  # those of the tokenizers' training, and those of pixels
    others = {"tokens/train/night", "tokens/val/night", "tokenizers/night", "pretrain"}
    assert found - columns == {"tokenizers/rgb.before-1", *others}
    main(["clean", "mine"])
    told = capsys.readouterr().out
    assert "pretrain  (a run before pretrain-2)" in told and "--yes removes it" in told
    assert (root / "pretrain").is_dir()
    main(["clean", "mine", "--yes"])
    assert not any((root / name).exists() for name in found)
    assert all((root / name).is_dir() for name in kept) and (root / "raw/train/night").is_dir()
    assert world.run() == [] and world.project.pretrain.name == "pretrain-2"
    assert find_unused(world.project) == []
