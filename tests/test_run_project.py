"""``fourm run``: any project from raw shards to a model, what is up to date kept, what an edit
concerns made again; what nothing needs is named and cleaned.
"""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from fourm_data_prep import tokenize as tokenize_module
from fourm_data_prep.engine import fingerprint
from fourm_data_prep.token_identity import identities
from fourm_data_prep.tokenize import TokenizeStep, tokenize

from fourm import project_minutes, project_run
from fourm.cli import main
from fourm.config import load, to_mapping
from fourm.data.shards import shard_path, write_shard
from fourm.errors import StageFailed, UserError
from fourm.modalities import ModalitySet
from fourm.project import Project
from fourm.project_clean import find_unused
from fourm.project_defaults import complete_modalities, masking_for, patch_size_of
from fourm.project_run import Making, Wishes, run_project
from fourm.raw.array import Array
from fourm.raw.image import Image
from fourm.training.pretrain import PretrainConfig

SIZE, NUM = 8, 12
LEARNED = {
    "type": "autoencoder",
    "levels": [4, 4],
    "patch_size": 4,
    "dim": 16,
    "num_heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "train": {"steps": 2, "batch_size": 4, "threads": 1, "num_workers": 0},
}
TEXT = {"type": "text", "vocab_size": 60, "num_sentinels": 4, "num_axes": 0, "num_bins": 0}
MODALITIES = {
    "tokenizers": {"text": TEXT},
    "modalities": {
        "rgb": {"kind": "grid", "raw": {"type": "image", "size": SIZE}, "tokenizer": LEARNED},
        "night": {"kind": "grid", "raw": {"type": "array", "size": SIZE}, "tokenizer": LEARNED},
        "caption": {"kind": "sequence", "raw": "text", "tokenizer": "text", "max_tokens": 8},
    },
}


def write_raw(raw: Path, shard: int = 0) -> None:
    """Three modalities of pictures whose brightness the other two tell."""
    for split in ("train", "val"):
        rng = np.random.default_rng(shard)
        light = rng.integers(0, 255, NUM)
        pictures = [np.full((SIZE, SIZE, 3), v, np.uint8) for v in light]
        values = {
            "rgb": ("png", [Image(size=SIZE).write(p) for p in pictures]),
            "night": (
                "npy",
                [Array(size=SIZE).write(p[..., :1] / np.float32(255)) for p in pictures],
            ),
            "caption": ("txt", [f"light {v // 64}".encode() for v in light]),
        }
        for name, (extension, data) in values.items():
            members = ((f"{i:03d}", extension, d) for i, d in enumerate(data))
            write_shard(shard_path(raw, split, name, shard), members)


def write(path: Path, data: dict) -> None:
    plain = json.loads(json.dumps(data))  # without anchors, by which an edit of one is one of all
    path.write_text(yaml.safe_dump(plain, sort_keys=False))


class World:
    """A project with raw shards and modalities, run in this process."""

    def __init__(self, root: Path) -> None:
        self.project, self.ran = Project(root), []
        write_raw(self.project.raw)
        write(self.project.modalities, MODALITIES)
        self.cut = ""  # verb that fails or is interrupted
        self.how: BaseException = KeyboardInterrupt()

    def edit(self, path: Path, change) -> None:
        data = yaml.safe_load(path.read_text())
        change(data)
        write(path, data)

    def run_all(self, commands: list[list[str]], **options) -> None:
        for command in commands:
            if command[3] == self.cut:
                self.cut = ""
                raise self.how
            name = f"train {command[-1]}" if command[3] == "train-tokenizer" else command[3]
            self.ran.append(name)
            if command[3] == "report":  # slow, and the same for any project
                self.project.report.write_text("report")
            else:
                main(command[3:])

    def run(self, *overrides: str, **wishes) -> list[str]:
        """Run the project, and the verbs that ran, tokenizers by name."""
        self.ran.clear()
        run_project(self.project.root, Wishes(overrides=overrides, **wishes))
        return list(self.ran)

    def chunks(self) -> dict[str, int]:
        """When the tokens of each modality were written."""
        found = self.project.tokens.glob("train/*/*.chunk")
        return {path.parent.name: path.stat().st_mtime_ns for path in found}


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


# ---- defaults ------------------------------------------------------------------------------------


def test_what_the_yaml_does_not_say_follows_from_the_raw_type_and_comments_stay(world):
    world.project.modalities.write_text(
        "# mine\nmodalities:\n"
        f"  rgb: {{raw: {{type: image, size: {SIZE}}}}}  # braces\n"
        f"  night:\n    # a block\n    raw: {{type: array, size: {SIZE}}}\n"
        "  caption: {kind: sequence, raw: text}\n"
        "  pixels: {kind: continuous, source: rgb, patch_size: 4}\n"
    )
    complete_modalities(world.project)
    text = world.project.modalities.read_text()
    assert all(f"# {comment}" in text for comment in ("mine", "braces", "a block"))
    found = ModalitySet.load(world.project.modalities)
    assert [m.kind for m in found] == ["grid", "grid", "sequence", "continuous"]
    assert found["rgb"].grid == (8, 8) and found["caption"].max_tokens == 16
    assert set(found.tokenizers) == {"text", "rgb", "night"}
    complete_modalities(world.project)
    assert world.project.modalities.read_text() == text


def test_a_set_that_has_a_text_tokenizer_gets_no_other(world):
    lacking = copy.deepcopy(MODALITIES)
    del lacking["modalities"]["caption"]["tokenizer"]
    write(world.project.modalities, lacking)
    complete_modalities(world.project)
    assert ModalitySet.load(world.project.modalities).tokenizers.keys() == {"text", "rgb", "night"}


def test_masks_of_any_set_give_every_input_and_ask_for_every_output():
    data = copy.deepcopy(MODALITIES)
    data["modalities"]["pixels"] = {"kind": "continuous", "source": "rgb", "patch_size": 4}
    modalities = ModalitySet.from_mapping(data)
    masking = masking_for(modalities)
    whole, mixed = masking["components"][:-1], masking["components"][-1]
    assert [next(iter(c["input"])) for c in whole] == ["rgb", "night", "caption", "pixels"]
    assert all(c["target_default"] for c in masking["components"]) and mixed["input_default"]
    assert sum(c["weight"] for c in masking["components"]) == pytest.approx(1.0)


def test_patches_are_as_fine_as_their_number_allows():
    assert [patch_size_of(n) for n in (8, 16, 32, 48, 64, 96, 224)] == [1, 2, 4, 8, 8, 16, 32]


# ---- tokens --------------------------------------------------------------------------------------


def step_of(world: World, **options) -> TokenizeStep:
    p = world.project
    return TokenizeStep(ModalitySet.load(p.modalities), p.raw, p.tokenizers, p.tokens, **options)


def test_tokens_depend_on_nothing_but_what_makes_them():
    m = ModalitySet.from_mapping(MODALITIES)["night"]
    base = MODALITIES["modalities"]["night"]

    def other(**changes) -> tuple[str, ...]:
        data = {"tokenizers": {"text": TEXT}, "modalities": {"night": {**base, **changes}}}
        return identities(ModalitySet.from_mapping(data)["night"], ["s"], "c", 1, False)

    known = identities(m, ["s"], "c", 1, False)
    used = {"loss_weight": 2.0, "input": False, "labeller": "canny", "places": [4, 4]}
    for key, value in used.items():
        assert other(**{key: value})[0] == known[0], key
    assert other(raw={"type": "array", "size": SIZE, "range": [0, 2]})[0] != known[0]
    for changed in ((["t"], "c", 1, False), (["s"], "d", 1, False), (["s"], "c", 2, False)):
        assert identities(m, *changed)[0] != known[0]
    # releases up to 0.7: all settings, defaults too
    assert known[1] == fingerprint([["s"], "c", [to_mapping(m), 1, False]])


def test_tokens_of_an_earlier_release_and_of_other_modalities_are_kept(world, monkeypatch):
    world.run(minutes=1e-9, only=("tokenizers", "tokens"))
    before = world.chunks()
    step, p = step_of(world), world.project
    for path in (p.tokens / "manifests" / "tokenize").glob("*.json"):  # as 0.7 noted them
        manifest = json.loads(path.read_text())
        job = next(job for job in step.jobs() if job.name == path.stem)
        with monkeypatch.context() as then:
            then.setattr(tokenize_module, "identities", lambda *a: identities(*a)[1:])
            made_from = step._made_from(job)
        assert made_from != {Path(o).parts[1]: f for o, f in manifest["made_from"].items()}
        manifest["made_from"] = dict(zip(manifest["outputs"], made_from.values(), strict=True))
        path.write_text(json.dumps({**manifest, "settings": "of 0.7"}))
    encoded = []
    monkeypatch.setattr(
        TokenizeStep, "_encode", lambda self, names, *_: encoded.append(names) or {}
    )
    step = step_of(world)
    for job in step.jobs():
        step.run(job)
    assert encoded == [] and world.chunks() == before


def test_one_modality_is_tokenized_alone(world):
    world.run(minutes=1e-9, only=("tokenizers", "tokens"))
    before = world.chunks()

    def change(data: dict) -> None:
        data["modalities"]["caption"]["max_tokens"] = 6
        data["modalities"]["night"]["raw"]["range"] = [0.0, 0.5]

    world.edit(world.project.modalities, change)
    main(["tokenize", "mine", "--only", "night"])
    after = world.chunks()
    assert {n for n in after if after[n] != before[n]} == {"night"}
    main(["tokenize", "mine"])
    last = world.chunks()
    assert {n for n in last if last[n] != after[n]} == {"caption"}
    for only, told in (("nigth", "did you mean 'night'"), ("pixels", "unknown modality")):
        with pytest.raises(UserError, match=told):
            step_of(world, only=(only,))


def test_skipped_samples_are_told_with_their_number_and_first_names(world, caplog):
    rows = [("000", "txt", b"light 1"), *((f"{i:03d}", "txt", b"\xff\xfe\x00") for i in (1, 2))]
    write_shard(shard_path(world.project.raw, "train", "caption", 0), rows)
    world.run(minutes=1e-9, only=("tokenizers",))
    p = world.project
    with caplog.at_level("WARNING"):
        tokenize(p.modalities, p.raw, p.tokenizers, p.tokens, max_damage=0.9)
    assert "tokenize: 2 of" in caplog.text and "001" in caplog.text and "002" in caplog.text


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
