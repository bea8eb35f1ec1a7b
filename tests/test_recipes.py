"""The recipes of CONTRIBUTING.md are run as they stand there: each block is written to the file
that its first line names, each command is given to ``fourm``.
"""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from fourm_tokenizers.picture import PictureCodec

from fourm.cli import main
from fourm.data.shards import DamageReport, read_shard, shard_path, write_shard
from fourm.demo.scenes_to_shards import write_scene_shard
from fourm.modalities import ModalitySet
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.project.project import Project
from fourm.raw import Raw
from fourm.raw.words import Words

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
RECIPES = {
    section.split("\n", 1)[0]: re.findall(r"```(\w+)\n(.*?)```", section, re.S)
    for section in PAGE.split("\n### ")[1:]
}
MOST_LINES = 30
ADDED = "# at the end of "
VERBS_OF_SHARDS = ("label", "tokenize")  # one process is enough for a few samples

LOOP = {"steps": 3, "batch_size": 4, "threads": 1, "num_workers": 0}
MODALITIES = {
    "tokenizers": {
        "text": {
            "type": "text",
            "vocab_size": 120,
            "num_sentinels": 8,
            "num_axes": 1,
            "num_bins": 36,
        }
    },
    "modalities": {
        "rgb": {
            "kind": "grid",
            "raw": {"type": "image", "size": 16},
            "tokenizer": {
                "type": "autoencoder",
                "levels": [4, 4],
                "patch_size": 8,
                "dim": 16,
                "num_heads": 2,
                "train": LOOP,
            },
        },
        "caption": {"kind": "sequence", "raw": "text", "tokenizer": "text", "max_tokens": 16},
    },
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """A project in ``runs/mine`` before anything is trained, and the folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # its modules come from this folder: they are forgotten before the next
    for block in (block for blocks in RECIPES.values() for _, block in blocks):
        monkeypatch.delitem(
            sys.modules, block.split("\n")[0][2:].removesuffix(".py"), raising=False
        )
    project = Project(Path("runs/mine"))
    for split, num in (("train", 24), ("val", 8)):
        write_scene_shard(project.raw, split, 0, 0, num, 16)
    project.modalities.write_text(yaml.safe_dump(MODALITIES, sort_keys=False))
    config = {
        "out": str(project.pretrain),
        "modalities": str(project.modalities),
        "tokenizers": str(project.tokenizers),
        "data": {
            "sources": [{"tokens": str(project.tokens), "raw": str(project.raw)}],
            "cache": str(project.cache),
        },
        "model": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2},
        "masking": {
            "num_inputs": [2, 16],
            "num_targets": [4, 16],
            "components": [{"input_default": 0.5, "target_default": 0.5}],
        },
        "loop": LOOP,
    }
    project.pretrain_config.write_text(yaml.safe_dump(config, sort_keys=False))
    return project


def write_files(title: str) -> None:
    """Write or extend the files of a recipe."""
    for language, block in RECIPES[title]:
        first, text = block.split("\n", 1)
        if language == "sh":
            continue
        if first.startswith(ADDED):
            with open(first.removeprefix(ADDED), "a") as file:
                file.write(text)
        else:
            Path(first.removeprefix("# ")).write_text(block)


def run_commands(title: str) -> None:
    """Run the command lines of a recipe."""
    for language, block in RECIPES[title]:
        for line in block.replace("\\\n", " ").splitlines() if language == "sh" else ():
            program, *arguments = shlex.split(line)
            if program == "python":
                runpy.run_path(arguments[0], run_name="__main__")
                continue
            assert program == "fourm", line
            main(arguments + ["--workers", "1"] * (arguments[0] in VERBS_OF_SHARDS))


def train_and_sample(project: Project, caption: str, target: str) -> object:
    """All stages on what lies in the project; a value of ``target`` from a caption."""
    places = ["--raw", str(project.raw), "--out", str(project.tokenizers)]
    main(["train-tokenizer", str(project.modalities), *places, "--cache", str(project.cache)])
    main(["tokenize", str(project.root), "--workers", "1"])
    main(["pretrain", str(project.pretrain_config)])
    main(["export", str(project.root), "--out", str(project.model)])
    pipe = AnyToAnyPipeline.from_pretrained(project.model)
    return pipe({"caption": caption}, [target], seed=0)[target].values[0]


def test_there_are_five_recipes_and_none_is_longer_than_it_says():
    assert list(RECIPES) == [
        f"Add {thing}"
        for thing in ("a modality", "a raw type", "a quantizer", "an order", "a labeller")
    ]
    for title, blocks in RECIPES.items():
        lines = [line for _, block in blocks for line in block.splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES, f"{title}: {len(lines)} lines"
        assert max(map(len, lines)) <= 100, title


def test_a_modality_is_shards_and_one_entry_it_trains_and_is_generated(project):
    write_files("Add a modality")
    run_commands("Add a modality")
    log = (project.pretrain / "log.jsonl").read_text().splitlines()
    assert any("heat" in json.loads(line).get("terms", {}) for line in log)
    assert Path("runs/generated/heat-0.png").is_file()
    pipe = AnyToAnyPipeline.from_pretrained(project.model)
    heat = pipe({"heat": np.full((16, 16), 99.0)}, ["caption", "heat"])["heat"].values[0]
    assert heat.shape == (16, 16, 1)


def test_a_raw_type_is_one_class_it_is_written_read_trained_and_sampled(project):
    write_files("Add a raw type")
    heading = Raw.find("compass:Heading")()
    assert heading.read(heading.write(-90.0), "txt") == 270.0
    assert heading.from_text(heading.to_text(359.9, 36), 36) == 0.0
    for split, num in (("train", 24), ("val", 8)):
        members = [(f"{i:08d}", "txt", heading.write(15.0 * i)) for i in range(num)]
        write_shard(shard_path(project.raw, split, "heading", 0), members)
    assert 0 <= train_and_sample(project, "a red cube", "heading") < 360


def test_a_quantizer_is_settings_and_a_network_it_trains_encodes_and_decodes(project):
    write_files("Add a quantizer")
    places = ["--raw", str(project.raw), "--out", str(project.tokenizers), "--only", "corners"]
    short = [f"train.{name}={value}" for name, value in LOOP.items()]
    main(["train-tokenizer", str(project.modalities), *short, *places])
    modality = ModalitySet.load(project.modalities)["corners"]
    codec = PictureCodec(project.tokenizers / "corners", modality)
    assert type(codec.model.quantizer).__name__ == "Sphere"
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    ids = codec.encode(list(pictures))
    assert all(i.shape == (16,) and i.min() >= 0 and i.max() < 64 for i in ids)
    assert codec.decode(ids)[0].shape == (16, 16, 3)


def test_an_order_is_one_method_and_generates_with_the_shipped_model(project, capsys):
    write_files("Add an order")
    run_commands("Add an order")
    assert Path("runs/generated/rgb-0.png").is_file()
    with pytest.raises(SystemExit):
        main(["generate", "--scheme", "inwards:Outwards", "rgb"])
    assert "'inwards:Outwards' cannot be imported" in capsys.readouterr().err


def test_a_labeller_is_one_function_and_its_modality_is_made_from_pictures(project):
    write_files("Add a labeller")
    run_commands("Add a labeller")
    raw = Words()
    for split, num in (("train", 24), ("val", 8)):
        path = shard_path(project.raw, split, "light", 0)
        labels = dict(read_shard(path, raw.read, raw.extensions, DamageReport()))
        assert len(labels) == num and {words[0] for words in labels.values()} <= {
            "night",
            "dusk",
            "day",
        }
