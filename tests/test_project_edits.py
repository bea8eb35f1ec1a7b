"""A project is edited and run again: what the edit concerns is told and made again, the rest is
kept.
"""

import json
import os
from pathlib import Path

import fourm_data_prep.quickstart as quickstart_module
import numpy as np
import pytest
import yaml
from fourm_tokenizers.train import train_tokenizers
from PIL import Image

from fourm.cli import main
from fourm.codecs import CodecSet
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.model import load_model
from fourm.project import minutes as project_minutes
from fourm.project import run as project_run
from fourm.project.project import Project
from fourm.records.tokenizer_settings import state_of

SIZE = 16
LEARNED = {
    "type": "autoencoder",
    "levels": [4, 4],
    "patch_size": 4,
    "dim": 16,
    "num_heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "train": {"steps": 40, "batch_size": 4, "threads": 1, "num_workers": 0},
}
EDGES = {
    "kind": "grid",
    "raw": {"type": "array", "size": SIZE, "range": [0.0, 1.0]},
    "labeller": "canny",
    "tokenizer": LEARNED,
}
PALETTE = {
    "kind": "sequence",
    "raw": {"type": "palette"},
    "labeller": "palette",
    "tokenizer": "text",
    "max_tokens": 18,
    "chunk_size": 3,
}
MODALITIES = {
    "tokenizers": {
        "text": {
            "type": "text",
            "vocab_size": 160,
            "num_sentinels": 8,
            "num_axes": 2,
            "num_bins": 32,
        }
    },
    "modalities": {
        "rgb": {
            "kind": "grid",
            "raw": {"type": "image", "size": SIZE},
            "tokenizer": LEARNED,
        },
        "caption": {
            "kind": "sequence",
            "raw": {"type": "text"},
            "tokenizer": "text",
            "max_tokens": 8,
        },
        "palette": PALETTE,
    },
}


class World:
    """A folder of pictures and a tiny project of them, run by ``fourm quickstart`` in this
    process.
    """

    def __init__(self, root: Path) -> None:
        self.pictures, self.project = root / "pictures", Project(root / "project")
        self.pictures.mkdir()
        rng = np.random.default_rng(0)
        for i in range(24):
            cells = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(cells).resize((24, 24)).save(self.pictures / f"{i}.png")
            (self.pictures / f"{i}.txt").write_text(f"picture {i % 3} of many")
        project = self.project
        project.root.mkdir()
        self.write(project.modalities, MODALITIES)
        config = {
            "out": str(project.root / "pretrain"),
            "modalities": str(project.modalities),
            "tokenizers": str(project.tokenizers),
            "data": {
                "sources": [{"tokens": str(project.tokens), "raw": str(project.raw)}],
                "cache": str(project.cache),
            },
            "model": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2},
            "masking": {
                "num_inputs": [4, 16],
                "num_targets": [4, 16],
                "components": [{"input_default": 0.5, "target_default": 0.5}],
            },
            "loop": {"steps": 4, "batch_size": 4, "threads": 1, "num_workers": 0},
            "eval_samples": 4,
        }
        self.write(project.pretrain_config, config)
        (project.root / "generation.yaml").write_text("rgb: {steps: 2}\n")
        self.ran: list[list[str]] = []

    @staticmethod
    def write(path: Path, data: dict) -> None:
        path.write_text(yaml.safe_dump(data, sort_keys=False))

    def edit(self, path: Path, change) -> None:
        data = yaml.safe_load(path.read_text())
        change(data)
        self.write(path, data)

    def run_all(self, commands: list[list[str]], **options) -> None:
        self.ran += [command[3:] for command in commands]
        for command in commands:
            if command[3] != "report":  # slow, and the same for any project
                main(command[3:])

    def again(self, capsys) -> str:
        """Run the project, and what it printed."""
        self.ran.clear()
        quickstart_module.quickstart(self.pictures, self.project.root, 0.0001, 0.05)
        return capsys.readouterr().out

    @property
    def verbs(self) -> list[str]:
        """What ran, tokenizers by name."""
        return [
            f"train {c[-1]}" if c[0] == "train-tokenizer" else c[0]
            for c in self.ran
            if c[0] != "report"
        ]

    def shards(self) -> dict[str, int]:
        """When each shard was written."""
        found = [*self.project.raw.rglob("*.tar"), *self.project.tokens.rglob("*.chunk")]
        return {str(p.relative_to(self.project.root)): p.stat().st_mtime_ns for p in found}


def row(table: str, name: str) -> list[str]:
    """The states that a table tells of a modality."""
    return next(line.split()[1:5] for line in table.splitlines() if line.split()[:1] == [name])


@pytest.fixture
def world(tmp_path, monkeypatch, capsys) -> World:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # steps of data preparation in this process
    monkeypatch.setattr(project_minutes, "FEWEST_STEPS", 4)
    world = World(tmp_path)
    for module in (quickstart_module, project_run):
        monkeypatch.setattr(module, "run_all", world.run_all)
    told = world.again(capsys)
    assert world.verbs == ["import", "train rgb", "train text", "tokenize", "pretrain"]
    assert "train.steps=4" in world.ran[1]  # of 40: what the minutes leave of them
    assert "beside what was made" not in told
    return world


def test_a_project_that_is_not_edited_has_nothing_to_do(world, capsys):
    told = world.again(capsys)
    assert world.verbs == [] and told.count("done before") == 4
    assert "beside what was made" not in told


def test_a_new_modality_is_all_that_is_made_and_the_model_keeps_what_it_knows(world, capsys):
    before = world.shards()
    world.edit(world.project.modalities, lambda y: y["modalities"].update(edges=EDGES))
    told = world.again(capsys)
    assert row(told, "edges") == ["new", "new", "new", "new"]
    assert row(told, "rgb") == ["unchanged"] * 4
    assert world.verbs == ["import", "train edges", "tokenize", "pretrain"]
    after = world.shards()
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[2] for name in after.keys() - before.keys()} == {"edges"}
    assert world.project.pretrain.name == "pretrain-2" and "edges is new" in told
    parts = json.loads((world.project.pretrain / "init.json").read_text())["parts"]
    assert {p["fate"] for p in parts if p["name"] == "edges"} == {"fresh"}
    assert {p["fate"] for p in parts if p["name"] == "rgb"} == {"kept"}
    assert "edges" in load_model(world.project.newest()).modalities
    assert world.again(capsys).count("done before") == 4


def test_a_tokenizer_with_other_settings_is_trained_again_and_the_old_one_is_kept(world, capsys):
    old = CodecSet(ModalitySet.load(world.project.modalities), world.project.tokenizers)
    fingerprint = old["rgb"].fingerprint
    before = world.shards()
    world.edit(
        world.project.modalities, lambda y: y["modalities"]["rgb"]["tokenizer"].update(dim=24)
    )
    told = world.again(capsys)
    assert row(told, "rgb") == ["unchanged", "changed", "changed", "changed"]
    assert row(told, "caption") == ["unchanged"] * 4
    assert world.verbs == ["train rgb", "tokenize", "pretrain"]
    aside = world.project.tokenizers / "rgb.before-1"
    assert (aside / "model.safetensors").is_file()
    new = CodecSet(ModalitySet.load(world.project.modalities), world.project.tokenizers)
    assert new["rgb"].fingerprint != fingerprint
    after = world.shards()
    assert {n for n in before if after[n] != before[n]} == {
        "tokens/train/rgb/00000.chunk",
        "tokens/val/rgb/00000.chunk",
    }
    parts = json.loads((world.project.pretrain / "init.json").read_text())["parts"]
    heads = {p["name"]: p["fate"] for p in parts if p["tensor"] == "heads.table"}
    assert heads == {"rgb": "fresh", "text": "kept"}


def test_another_labeller_is_other_data(world, capsys):
    world.edit(world.project.modalities, lambda y: y["modalities"].update(edges=EDGES))
    world.again(capsys)
    before = world.shards()
    world.edit(
        world.project.modalities, lambda y: y["modalities"]["edges"].update(labeller="edges")
    )
    told = world.again(capsys)
    assert row(told, "edges") == ["changed", "unchanged", "changed", "changed"]
    assert world.verbs == ["import", "tokenize", "pretrain"]
    changed = {n for n, when in world.shards().items() if before[n] != when}
    assert {n.split("/")[2] for n in changed} == {"edges"} and len(changed) == 4
    assert "a new run, pretrain-3: the data of edges is made otherwise" in told


def test_more_tokens_of_a_caption_are_tokenized_again(world, capsys):
    before = world.shards()
    world.edit(world.project.modalities, lambda y: y["modalities"]["caption"].update(max_tokens=12))
    told = world.again(capsys)
    assert row(told, "caption") == ["unchanged", "unchanged", "changed", "changed"]
    assert world.verbs == ["tokenize", "pretrain"]
    changed = {n for n, when in world.shards().items() if before[n] != when}
    assert {n.split("/")[2] for n in changed} == {"caption"}
    assert "caption has max_tokens 12, had 8" in told


def test_a_modality_that_is_taken_out_is_gone_and_nothing_else_is_made(world, capsys):
    before = world.shards()
    world.edit(world.project.modalities, lambda y: y["modalities"].pop("palette"))
    told = world.again(capsys)
    assert row(told, "palette") == ["gone"] * 4 and row(told, "rgb") == ["unchanged"] * 4
    assert world.verbs == ["pretrain"] and world.shards() == before
    assert "palette" not in load_model(world.project.newest()).modalities


def test_another_pretraining_config_begins_a_run_of_its_own(world, capsys):
    world.edit(world.project.pretrain_config, lambda y: y.update(loss="modality"))
    told = world.again(capsys)
    assert world.verbs == ["pretrain"] and "pretrain.yaml has changed" in told
    assert not (world.project.pretrain / "init.json").exists()
    world.edit(world.project.pretrain_config, lambda y: y["model"].update(dim=24))
    told = world.again(capsys)
    assert "model.dim is 24, was 16" in told and world.project.pretrain.name == "pretrain-3"


def test_the_printed_commands_are_run_again_by_hand(world, capsys):
    """Each does what the edit concerns; the pretraining says what to do instead."""
    printed = [list(command) for command in world.ran]
    before = world.shards()
    world.edit(world.project.modalities, lambda y: y["modalities"].update(edges=EDGES))
    places = ["--raw", str(world.project.raw), "--out", str(world.project.tokenizers)]
    commands = [c for c in printed if c[0] in ("import", "tokenize")]
    commands.insert(1, ["train-tokenizer", str(world.project.modalities), *places])
    for command in commands:
        main(command)
    after = world.shards()
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 4
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(next(c for c in printed if c[0] == "pretrain"))
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "edges is new" in told and "init=" in told and "Traceback" not in told


def test_a_name_that_is_left_in_other_files_is_told_before_anything_runs(world, capsys):
    world.edit(
        world.project.pretrain_config,
        lambda y: y["masking"]["components"][0].update(input={"palette": 2}),
    )
    world.edit(world.project.modalities, lambda y: y["modalities"].pop("palette"))
    settings = world.project.root / "generation.yaml"
    before = settings.read_text() if settings.is_file() else None
    settings.write_text("palette: {steps: 2}\n")
    with pytest.raises(UserError) as told:
        world.again(capsys)
    if before is None:
        settings.unlink()
    else:
        settings.write_text(before)
    assert "pretrain.yaml: masking: unknown modality 'palette'" in str(told.value)
    assert "generation.yaml: 'palette' is no output" in str(told.value)
    assert world.verbs == []


def test_a_misspelt_setting_costs_no_tokenizer(world):
    def train() -> None:
        project = world.project
        train_tokenizers(project.modalities, project.raw, project.tokenizers, project.cache)

    world.edit(
        world.project.modalities, lambda y: y["modalities"]["rgb"]["tokenizer"].update(dims=24)
    )
    with pytest.raises(UserError, match="unknown key 'dims'"):
        train()
    assert not list(world.project.tokenizers.glob("*.before-*"))


def test_a_project_of_an_earlier_release_is_done_and_its_later_edits_are_seen(world, capsys):
    """It has no notes: neither of its stages nor beside its tokenizers."""
    (world.project.root / "made.json").unlink()
    for note in world.project.tokenizers.glob("*/settings.json"):
        note.unlink()
    folder = world.project.tokenizers / "rgb"
    assert state_of(folder, "rgb", ModalitySet.load(world.project.modalities)) == "unchanged"
    assert world.again(capsys).count("done before") == 4
    world.edit(
        world.project.modalities, lambda y: y["modalities"]["rgb"]["tokenizer"].update(dim=24)
    )
    assert row(world.again(capsys), "rgb")[1] == "changed"


def test_an_edit_that_was_cut_short_is_gone_on_with(world, capsys, monkeypatch):
    def cut(commands: list[list[str]], **options) -> None:
        if commands[0][3] == "tokenize":
            raise KeyboardInterrupt
        world.run_all(commands)

    world.edit(
        world.project.modalities, lambda y: y["modalities"]["rgb"]["tokenizer"].update(dim=24)
    )
    with monkeypatch.context() as once:
        once.setattr(project_run, "run_all", cut)
        with pytest.raises(KeyboardInterrupt):
            world.again(capsys)
    told = world.again(capsys)
    assert world.verbs == ["tokenize", "pretrain"]
    assert "the tokenizer of rgb is another" in told


def test_other_minutes_are_no_edit(world, capsys):
    world.ran.clear()
    quickstart_module.quickstart(world.pictures, world.project.root, 3.0, 0.05)
    assert world.verbs == [] and capsys.readouterr().out.count("done before") == 4


def test_an_exported_model_has_a_card_of_its_project(world, tmp_path, capsys):
    out = tmp_path / "exported"
    main(["export", str(world.project.root), "--out", str(out)])
    card = (out / "README.md").read_text()
    done = json.loads((world.project.pretrain / "done.json").read_text())
    assert f"{done['num_samples']:,} samples, {done['num_held_out']:,} held out" in card
    assert f"| rgb | {done['loss/rgb']:.3f} |" in card and "4 steps of 4 samples" in card
    assert "| rgb | autoencoder | rgb | psnr" in card
    assert str(tmp_path) not in card
