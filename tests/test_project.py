"""A whole project by commands, with two modalities that the code has never heard of, added in YAML
alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from refusals import refused

from fourm.data.shards import shard_path, write_shard
from fourm.demo.render import render
from fourm.demo.scenes_to_shards import VALIDATION_SEED, annotate, write_scene_shard
from fourm.demo.world import SHAPES, describe, make_scenes
from fourm.pipeline.pipeline import AnyToAnyPipeline, Partial, Tokens
from fourm.raw.array import Array
from fourm.raw.words import Words
from fourm.resources import demo_model_folder

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tokenizers", ROOT / "data_prep"))),
}
MATERIAL = dict(zip(SHAPES, ("wood", "rubber", "steel", "paper"), strict=True))
SIZE = 16

# what a user writes: nothing in the package knows these two names
NEW = {
    "material": {
        "kind": "sequence",
        "raw": {"type": "words"},
        "tokenizer": "text",
        "max_tokens": 8,
    },
    "heat": {
        "kind": "grid",
        "raw": {"type": "array", "size": SIZE, "range": [0.0, 2.0]},
        "tokenizer": {
            "type": "autoencoder",
            "levels": [5, 5],
            "patch_size": 4,
            "dim": 32,
            "num_heads": 2,
            "train": {
                "steps": 60,
                "batch_size": 8,
                "threads": 1,
                "num_workers": 0,
                "optimizer": {"name": "muon"},
            },
        },
    },
}
KNOWN = {
    "rgb": {**NEW["heat"], "raw": {"type": "image", "size": SIZE}},
    "pixels": {"kind": "continuous", "source": "rgb", "patch_size": 4},
    "caption": {"kind": "sequence", "raw": {"type": "text"}, "tokenizer": "text", "max_tokens": 20},
}


def run(*arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "fourm", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The commands of the README, on a small world with two new modalities."""
    root = tmp_path_factory.mktemp("project")
    for split, seed, num in (("train", 0, 160), ("val", VALIDATION_SEED, 16)):
        write_scene_shard(root / "raw", split, seed, 0, num, SIZE)
        scenes = make_scenes(seed, np.arange(num))
        pictures = annotate(scenes, render(scenes, SIZE))["rgb"]
        keys = [f"{i:08d}" for i in range(num)]
        words = [[MATERIAL[shape] for _, _, shape in describe(scenes, i)] for i in range(num)]
        heat = [p.astype(np.float32).mean(-1, keepdims=True) / 128.0 for p in pictures]
        spec = {
            "material": Words(),
            "heat": Array(size=SIZE, range=(0.0, 2.0)),
        }
        for name, values in (("material", words), ("heat", heat)):
            members = [
                (k, spec[name].extensions[0], spec[name].write(v))
                for k, v in zip(keys, values, strict=True)
            ]
            write_shard(shard_path(root / "raw", split, name, 0), members)
    text = {"type": "text", "vocab_size": 120, "num_sentinels": 16, "num_axes": 1, "num_bins": 8}
    (root / "modalities.yaml").write_text(
        yaml.safe_dump(
            {"tokenizers": {"text": text}, "modalities": {**KNOWN, **NEW}}, sort_keys=False
        )
    )
    config = {
        "out": str(root / "pretrain"),
        "modalities": str(root / "modalities.yaml"),
        "data": {
            "sources": [{"tokens": str(root / "tokens"), "raw": str(root / "raw")}],
            "cache": str(root / "cache"),
        },
        "model": {"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2},
        "masking": {
            "num_inputs": [1, 24],
            "num_targets": [24, 32],
            "components": [
                {"input_default": 0.5, "target_default": 0.5},
                {"input": {"pixels": 100}, "target_default": 0.5, "num_inputs": [16, 16]},
            ],
        },
        "loop": {
            "steps": 150,
            "batch_size": 16,
            "threads": 1,
            "num_workers": 0,
            "optimizer": {"name": "muon", "lr": 0.004},
        },
    }
    (root / "pretrain.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    config_of_all = str(root / "modalities.yaml")
    places = ("--raw", str(root / "raw"), "--out", str(root / "tokenizers"))
    run("train-tokenizer", config_of_all, *places, "--cache", str(root / "cache"))
    run("tokenize", str(root))
    run("pretrain", str(root / "pretrain.yaml"))
    run("report", str(root))
    return root


@pytest.mark.slow
def test_modalities_added_in_yaml_alone_train_sample_and_show_in_the_report(project):
    log = [
        json.loads(line) for line in (project / "pretrain" / "log.jsonl").read_text().splitlines()
    ]
    terms = [r["terms"] for r in log if "terms" in r]
    for name in ("material", "heat"):
        first = np.mean([t[name] for t in terms[:10] if name in t])
        last = np.mean([t[name] for t in terms[-10:] if name in t])
        assert last < 0.8 * first, name
    pipe = AnyToAnyPipeline.from_pretrained(project / "model")
    scenes = make_scenes(VALIDATION_SEED, np.arange(4))
    pictures = annotate(scenes, render(scenes, SIZE))["rgb"]
    out = pipe({"rgb": pictures}, ["material", "heat"], temperature=0.0)
    assert all(set(words) <= set(MATERIAL.values()) and words for words in out["material"].values)
    assert all(h.shape == (SIZE, SIZE, 1) for h in out["heat"].values)
    truth = np.stack(pictures).mean(-1) / 128.0
    error = np.abs(np.stack(out["heat"].values)[..., 0] - truth).mean()
    assert error < np.abs(truth.mean(0) - truth).mean() * 1.5
    back = pipe({"material": ["wood"]}, ["rgb", "caption"], seed=1)
    assert back["rgb"].images[0].size == (SIZE, SIZE) and isinstance(back["caption"].texts[0], str)
    page = (project / "report.html").read_text()
    assert (
        "material -&gt; everything" in page
        and "heat -&gt; everything" in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert set(json.loads((project / "matrix.json").read_text())) == {
        "nothing",
        "rgb",
        "pixels",
        "caption",
        "material",
        "heat",
    }


@pytest.mark.slow
def test_partial_pictures_tokens_and_prompts_are_inputs_too(project):
    pipe = AnyToAnyPipeline.from_pretrained(project / "model")
    scenes = make_scenes(VALIDATION_SEED, np.arange(1))
    picture = annotate(scenes, render(scenes, SIZE))["rgb"][0]
    keep = np.zeros((SIZE, SIZE), bool)
    keep[:, : SIZE // 2] = True
    ids = pipe.codecs["rgb"].encode([picture])[0].reshape(4, 4)
    painted = pipe({"rgb": Partial(picture, keep)}, ["rgb"], seed=3)["rgb"].ids[0].reshape(4, 4)
    assert np.array_equal(painted[:, :2], ids[:, :2])
    by_ids = (
        pipe({"rgb": Tokens(ids, keep.reshape(4, 4, 4, 4).all((1, 3)))}, ["rgb"], seed=3)["rgb"]
        .ids[0]
        .reshape(4, 4)
    )
    assert np.array_equal(by_ids, painted)
    text = pipe({"caption": "a small [S_1] cube"}, ["caption"], seed=0)["caption"].texts[0]
    assert text.startswith("a small") and text.endswith("cube")
    two = pipe({"caption": "a cube"}, ["rgb"], num_samples=2, seed=5)["rgb"]
    one = pipe({"caption": "a cube"}, ["rgb"], seed=6)["rgb"]
    assert np.array_equal(two.ids[1], one.ids[0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("generate", "--model", "nowhere/at/all", "--caption", "x"), "no model folder"),
        (("generate", "--model", "{model}", "--input", "rgb=absent.png"), "no file absent.png"),
        (("generate", "--model", "{model}", "--input", "colour=red"), "unknown modality 'colour'"),
        (
            ("generate", "--model", "{model}", "--caption", "x", "--targets", "pixels"),
            "pixels cannot be generated",
        ),
        (("report", "nowhere"), "no checkpoint in nowhere"),
        (("modalities", "nowhere.yaml"), "no config file nowhere.yaml"),
        (("quickstart", "nowhere"), "no folder nowhere"),
        (("demo", "--size", "huge"), "unknown size 'huge'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, message, capfd):
    shipped = str(demo_model_folder())
    assert message in refused(capfd, *(word.replace("{model}", shipped) for word in arguments))


@pytest.mark.slow
def test_generate_writes_pictures_and_prints_texts(project, tmp_path):
    done = run(
        "generate",
        "--model",
        str(project / "model"),
        "--caption",
        "a small red cube",
        "--targets",
        "rgb",
        "material",
        "--out",
        str(tmp_path),
        "--num",
        "2",
    )
    assert (
        Image.open(tmp_path / "rgb-0.png").size == (256, 256) and (tmp_path / "rgb-1.png").is_file()
    )
    assert "material:" in done.stdout and isinstance(
        json.loads((tmp_path / "values" / "material" / "0.json").read_text()), list
    )


@pytest.mark.slow
def test_tokenizing_again_gives_the_same_bytes_with_any_number_of_workers(project, tmp_path):
    common = (
        "--config",
        str(project / "modalities.yaml"),
        "--raw",
        str(project / "raw"),
        "--tokenizers",
        str(project / "tokenizers"),
    )
    run("tokenize", *common, "--out", str(tmp_path / "one"), "--workers", "1")
    made = sorted(p for p in (tmp_path / "one").rglob("*.chunk/*") if p.is_file())
    assert len(made) > 10
    for path in made:
        assert (
            path.read_bytes()
            == (project / "tokens" / path.relative_to(tmp_path / "one")).read_bytes()
        )
