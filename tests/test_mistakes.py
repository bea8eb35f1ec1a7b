"""A user's mistake is one sentence that names it: in configs, modality sets, masks, data and calls
of the pipeline.
"""

import copy
import json
import re
import resource
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ALL_TO_ALL, TINY, make_model
from fourm_tokenizers.autoencoder import AutoencoderConfig
from fourm_tokenizers.diffusion import DiffusionConfig
from fourm_tokenizers.quantizers.fsq import FSQConfig
from fourm_tokenizers.settings import TokenizerConfig
from fourm_tokenizers.text import TextConfig
from fourm_tokenizers.train import train_tokenizer
from PIL import Image
from worlds import curve, write_project

from fourm.choices import Choice
from fourm.cli import main
from fourm.codec_types import find_codec
from fourm.config import apply_override, from_mapping, load, read_yaml
from fourm.data.shards import DamageReport, read_shard, shard_path, write_shard
from fourm.data.store import DataConfig, Source, SourceConfig
from fourm.errors import UserError
from fourm.masking import Masker, MaskingComponent, MaskingConfig
from fourm.modalities import MAX_VOCAB, ModalitySet
from fourm.model import ModelConfig
from fourm.pipeline import AnyToAnyPipeline, Tokens
from fourm.preferred import check_options
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions
from fourm.training.checkpoints import list_checkpoints
from fourm.training.loop_config import LoopConfig
from fourm.training.optimizers import OptimizerConfig
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.run_folder import append_log
from fourm.training.schedules import ScheduleConfig

# ---- YAML ----------------------------------------------------------------------------------------

YAML = {
    "a key given twice": (
        b"steps: 1\nseed: 2\nsteps: 3\n",
        r"f:3: key 'steps' is given twice.* 1$",
    ),
    "twice, deeper": (b"a:\n  b: 1\n  c: {d: 1, d: 2}\n", r"f:3: key 'd' is given twice"),
    "a list that is not closed": (b"a: 1\nb: [1, 2\nc: 3\n", r"f:3: .*expected ',' or '\]'"),
    "a tab": (b"a:\n\tb: 1\n", r"f:2: found character '\\t'"),
    "an unknown anchor": (b"a: *b\n", r"f:1: found undefined alias"),
    "a Python object": (b"a: !!python/object:os.x {}\n", r"f:1: could not determine a constructor"),
    "a date that is none": (b"a: 2024-13-45\n", r"f is not valid YAML: month must be"),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff\xfe", r"f is no text; a config is a YAML file"),
    "a control character": (b"a: \x07\n", r"f: unacceptable character"),
    "a list": (b"- 1\n", r"f must hold a mapping"),
    "nothing": (b"", r"f must hold a mapping"),
}


@pytest.mark.parametrize("text, message", YAML.values(), ids=YAML)
def test_a_mistake_in_a_yaml_file_names_the_file_and_the_line(text, message, tmp_path):
    (tmp_path / "f").write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "f")


def test_a_key_with_nothing_behind_it_unsets_a_text_that_is_empty_by_default(project):
    base = load(PretrainConfig, project, ["init=a/model", "data.sources=[{tokens: x, exclude: y}]"])
    assert (base.init, base.data.sources[0].exclude) == ("a/model", "y")
    for nothing in ("", "null", "''"):
        words = ["init=a/model", f"init={nothing}", f"loop.tracker={nothing}"]
        config = load(PretrainConfig, project, words)
        assert (config.init, config.loop.tracker) == ("", "")
    for key in ("out", "modalities", "loop.steps", "loss"):  # what has to be there cannot be unset
        with pytest.raises(UserError, match=f"{key.rpartition('.')[2]}: "):
            load(PretrainConfig, project, [f"{key}="])
    assert load(PretrainConfig, project, ["adaptive="]).adaptive is None


def test_a_folder_is_no_config_and_keys_of_an_anchor_may_be_changed(tmp_path):
    with pytest.raises(UserError, match="is a folder; a config is a YAML file"):
        read_yaml(tmp_path)
    (tmp_path / "f").write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, x: 4}\n")
    assert read_yaml(tmp_path / "f")["c"] == {"x": 4, "y": 2}


@pytest.mark.parametrize(
    "override, message",
    [
        ("loop.steps=[1", r"override 'loop.steps=\[1': expected ',' or '\]'"),
        ('out="x', r"override 'out=\"x': found unexpected end"),
        ("loop..steps=1", "a name between the dots is empty"),
        ("loop.steps", "not of the form key=value"),
        ("out.x=1", "out is not a mapping"),
        ("a={b: 1, b: 2}", "key 'b' is given twice"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(override, message):
    with pytest.raises(UserError, match=message):
        apply_override({"out": "runs/x"}, override)


class Decay(Choice, family="decay"):
    """A family of kinds."""


@dataclass(frozen=True, kw_only=True)
class Slow(Decay, name="slow"):
    rate: float = 0.1
    floor: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fast(Decay, name="fast"):
    rate: float = 0.9


@dataclass(frozen=True, kw_only=True)
class Inner:
    steps: int
    sizes: tuple[int, int] = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(steps=7, sizes=(2, 3)))
    maybe: Inner | None = field(default_factory=lambda: Inner(steps=8))
    bare: Inner | None = None
    decay: Decay = field(default_factory=lambda: Slow(rate=0.2, floor=0.3))


@dataclass(frozen=True, kw_only=True)
class Outermost:
    outer: Outer = field(default_factory=lambda: Outer(inner=Inner(steps=9)))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"inner": {"sizes": [4, 5]}}, Outer(inner=Inner(steps=7, sizes=(4, 5)))),
        ({"inner": {}}, Outer()),
        ({"maybe": {"sizes": [4, 5]}}, Outer(maybe=Inner(steps=8, sizes=(4, 5)))),
        ({"maybe": None}, Outer(maybe=None)),
        ({"bare": {"steps": 1}}, Outer(bare=Inner(steps=1))),
        ({"decay": {"type": "slow", "rate": 0.4}}, Outer(decay=Slow(rate=0.4, floor=0.3))),
        ({"decay": {"type": "fast"}}, Outer(decay=Fast())),
        ({"decay": "slow"}, Outer(decay=Slow())),
    ],
)
def test_a_table_changes_only_what_it_names(given, expected):
    assert from_mapping(Outer, given, "f") == expected


def test_a_table_in_a_table_changes_only_what_it_names():
    found = from_mapping(Outermost, {"outer": {"inner": {"sizes": [4, 5]}}}, "f")
    assert found == Outermost(outer=Outer(inner=Inner(steps=9, sizes=(4, 5))))
    with pytest.raises(UserError, match="f: bare: missing key 'steps'"):
        from_mapping(Outer, {"bare": {"sizes": [4, 5]}}, "f")


def test_the_training_of_a_tokenizer_may_be_changed_in_part():
    config = from_mapping(TokenizerConfig, {"levels": [4, 4], "train": {"steps": 150}}, "f")
    assert (config.train.steps, config.train.batch_size) == (150, 16)


# ---- modality sets -------------------------------------------------------------------------------

RGB, PIXELS, CAPTION = ("modalities", "rgb"), ("modalities", "pixels"), ("modalities", "caption")
CODES = (*RGB, "tokenizer")
MODALITY_SETS = {
    "size and patch": ((*RGB, "raw", "size"), 65, r"rgb: 65 px is no multiple of patch_size 4"),
    "size and patch of pixels": (
        (*PIXELS, "patch_size"),
        5,
        r"16 px is no multiple of patch_size 5",
    ),
    "size in words": ((*RGB, "raw", "size"), "big", r"rgb: raw: size: expected int, found 'big'"),
    "negative size": ((*RGB, "raw", "size"), -4, r"raw: raw type image needs a size"),
    "no patch": ((*CODES, "patch_size"), 0, r"rgb: patch_size must be at least 1"),
    "patch in words": ((*CODES, "patch_size"), "x", r"rgb: patch_size must be a whole number"),
    "no levels": ((*CODES, "levels"), [], r"rgb: levels must be whole numbers from 2 on"),
    "levels in words": ((*CODES, "levels"), "888", r"rgb: levels must be whole numbers from 2 on"),
    "a level of one": ((*CODES, "levels"), [8, 1], r"rgb: levels must be whole numbers from 2 on"),
    "many levels": (
        (*CODES, "levels"),
        [64] * 6,
        r"68,719,476,736 ids; 2,147,483,648 are the most",
    ),
    "many ids": (
        ("modalities", "code", "vocab_size"),
        MAX_VOCAB + 1,
        r"2,147,483,648 are the most",
    ),
    "ids in words": (("tokenizers", "text", "vocab_size"), "all", r"vocab_size: expected int"),
    "no grid": (("modalities", "depth", "grid"), [0, 4], r"depth: grid must be at least 1, not 0"),
    "no chunks": ((*CAPTION, "chunk_size"), 0, r"caption: chunk_size must be at least 1"),
    "negative tokens": ((*CAPTION, "max_tokens"), -3, r"max_tokens must be at least 0, not -3"),
    "negative weight": ((*RGB, "loss_weight"), -1.0, r"loss_weight must be at least 0, not -1.0"),
    "a kind": ((*RGB, "kind"), "gird", r"'gird' is not one of .*; did you mean 'grid'"),
    "no table": (RGB, "picture", r"modality rgb must be a mapping, not 'picture'"),
    "no tokenizer": (("tokenizers", "text"), 3, r"tokenizer text must be a mapping, not 3"),
    "a source outside": ((*RGB, "source"), "../x", r"name '../x': names are letters"),
    "a list of sources": ((*PIXELS, "source"), ["rgb"], r"source must be a name, not \['rgb'\]"),
    "a list of tokenizers": ((*CAPTION, "tokenizer"), ["x"], r"tokenizer must be a name"),
    "patches of nothing": ((*PIXELS, "raw"), {"type": "text"}, r"needs a raw form that has a size"),
    "no number": ((*RGB, "raw", "mean"), 2.5, r"mean: expected a list, found 2.5"),
}


def changed(path: tuple[str, ...], value: object) -> dict:
    """The tiny modality set with one other entry."""
    data: dict[str, Any] = copy.deepcopy(TINY)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return data


@pytest.mark.parametrize("path, value, message", MODALITY_SETS.values(), ids=MODALITY_SETS)
def test_a_mistake_in_a_modality_set_is_named(path, value, message):
    with pytest.raises(UserError, match=message):
        ModalitySet.from_mapping(changed(path, value), "f")


@pytest.mark.parametrize("name", ["../../../esc", "/etc/x", ".hidden", "a b", "a->b", "", "a\n"])
@pytest.mark.parametrize("table", ["modalities", "tokenizers"])
def test_a_name_that_is_no_folder_s_is_refused(table, name):
    path = ("modalities", name) if table == "modalities" else ("tokenizers", name)
    entry = TINY["modalities"]["depth"] if table == "modalities" else {"type": "text"}
    with pytest.raises(UserError, match="names are letters, digits"):
        ModalitySet.from_mapping(changed(path, entry), "f")


@pytest.mark.parametrize("name", ["rgb@224", "tok_rgb@224", "a-b", "v1.5", "größe"])
def test_names_of_earlier_releases_are_kept(name):
    entry = TINY["modalities"]["depth"]
    assert name in ModalitySet.from_mapping(changed(("modalities", name), entry), "f")


def test_a_type_of_tokenizer_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(UserError, match="'autoencodr' is not one of .*mean 'autoencoder'"):
        find_codec("autoencodr")
    modalities = ModalitySet.from_mapping(changed((*CODES, "type"), "autoencodr"), "f")
    with pytest.raises(UserError, match="did you mean 'autoencoder'"):
        train_tokenizer("rgb", modalities, tmp_path, tmp_path, tmp_path, [])


# ---- sizes of networks ---------------------------------------------------------------------------

FSQ = FSQConfig(levels=(4, 4))
SIZES = [
    (ModelConfig, {"dim": 0}, "dim must be at least 1, not 0"),
    (ModelConfig, {"dim": -4}, "dim must be at least 1, not -4"),
    (ModelConfig, {"num_heads": 0}, "num_heads must be at least 1"),
    (ModelConfig, {"encoder_depth": -1}, "encoder_depth must be at least 0"),
    (ModelConfig, {"decoder_depth": -1}, "decoder_depth must be at least 0"),
    (ModelConfig, {"num_registers": -1}, "num_registers must be at least 0"),
    (ModelConfig, {"mlp_ratio": 0.0}, "mlp_ratio 0.0 leaves layers of dim 128 no width"),
    (ModelConfig, {"dim": 30}, "dim 30 must be a multiple of 4"),
    (AutoencoderConfig, {"patch_size": 0}, "patch_size must be at least 1"),
    (AutoencoderConfig, {"dim": 0}, "dim must be at least 1"),
    (AutoencoderConfig, {"num_heads": 3}, "dim 128 is no multiple of num_heads 3"),
    (AutoencoderConfig, {"encoder_depth": -1}, "encoder_depth must be at least 0"),
    (TokenizerConfig, {"levels": (1, 8)}, "levels must be at least 2, not 1"),
    (TokenizerConfig, {"num_heads": 0}, "num_heads must be at least 1"),
    (DiffusionConfig, {"patch_size": 0}, "patch_size must be at least 1"),
    (DiffusionConfig, {"channels": ()}, "channels needs a number"),
    (TextConfig, {"num_sentinels": 0}, "num_sentinels must be at least 1"),
    (TextConfig, {"num_bins": -1}, "num_bins must be at least 0"),
    (LoopConfig, {"steps": 0}, "steps must be at least 1, not 0"),
    (LoopConfig, {"num_workers": -1}, "num_workers must be at least 0"),
    (LoopConfig, {"ema": 1.0}, "ema must be below 1"),
    (LoopConfig, {"ema": float("nan")}, "ema must be at least 0, not nan"),
    (OptimizerConfig, {"lr": -1.0}, "lr must be at least 0"),
    (OptimizerConfig, {"clip": -1.0}, "clip must be at least 0"),
    (OptimizerConfig, {"name": "adam"}, "'adam' is not one of adamw, muon"),
    (ScheduleConfig, {"warmup": -1}, "warmup must be at least 0"),
    (SourceConfig, {"weight": -1.0}, "weight must be at least 0"),
    (SourceConfig, {"tokens": ""}, "a source needs tokens or raw"),
    (DataConfig, {"sources": (SourceConfig(tokens="x", weight=0.0),)}, "all sources have weight 0"),
]
NEEDED = {
    AutoencoderConfig: {"channels": 3, "image_size": 16, "quantizer": FSQ},
    TokenizerConfig: {"levels": (4, 4)},
    LoopConfig: {"steps": 1, "batch_size": 1},
    SourceConfig: {"tokens": "x"},
}


@pytest.mark.parametrize("kind, values, message", SIZES)
def test_a_size_that_cannot_be_is_named(kind, values, message):
    with pytest.raises(UserError, match=message):
        kind(**{**NEEDED.get(kind, {}), **values})


# ---- masking -------------------------------------------------------------------------------------

ALL = {"input_default": 0.5, "target_default": 0.5}
MASKS = {
    "negative weight": ({}, [{**ALL, "weight": -1.0}], "weight must be at least 0"),
    "all weights 0": ({}, [{**ALL, "weight": 0.0}] * 2, "all masking components have weight 0"),
    "negative alpha": ({}, [{**ALL, "input": {"rgb": -1.0}}], "alpha of rgb must be at least 0"),
    "negative default": ({}, [{"target_default": -0.5}], "target_default must be at least 0"),
    "no targets": ({"num_targets": (0, 0)}, [ALL], r"component 1 has num_targets \[0, 0\]"),
    "none in one": ({}, [ALL, {**ALL, "num_targets": (0, 0)}], r"component 2 has num_targets"),
    "a range": ({}, [{**ALL, "num_inputs": (5, 2)}], r"num_inputs must be a range .* not \[5, 2\]"),
    "no target alpha": ({}, [{"input_default": 0.5}], "component 1 never gives a target"),
    "one without": ({}, [ALL, {"target": {"rgb": 0.0}}], "component 2 never gives a target"),
    "no output": ({}, [{**ALL, "target": {"pixels": 1.0}}], "pixels is no output modality"),
    "unknown": ({}, [{**ALL, "input": {"rbg": 1.0}}], "unknown modality 'rbg'.*mean 'rgb'"),
}


@pytest.mark.parametrize("numbers, components, message", MASKS.values(), ids=MASKS)
def test_masks_from_which_nothing_is_learned_are_refused(numbers, components, message, modalities):
    table = {"num_inputs": [4, 8], "num_targets": [4, 8], **numbers, "components": components}
    table = json.loads(json.dumps(table))
    with pytest.raises(UserError, match=message):
        Masker(modalities, from_mapping(MaskingConfig, table, "f"), seed=0)


def test_a_component_may_be_switched_off_by_its_weight(modalities):
    off = MaskingComponent(weight=0.0, input_default=1.0, target_default=1.0)
    Masker(modalities, replace(ALL_TO_ALL, components=(*ALL_TO_ALL.components, off)), seed=0)


# ---- data and training ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"), num=16)


@pytest.fixture
def project(world, tmp_path) -> Path:
    """A project of this test alone."""
    root = tmp_path / "project"
    shutil.copytree(world.parent, root)
    text = (root / "pretrain.yaml").read_text().replace(str(world.parent), str(root))
    (root / "pretrain.yaml").write_text(text)
    return root / "pretrain.yaml"


def break_shard(path: Path, broken: set[int], end: float = 1.0) -> None:
    """Members number ``broken`` are no arrays; the file stops after ``end`` of its bytes, inside a
    member.
    """
    members = list(read_shard(path, lambda data, _: data, ("npy",), DamageReport()))
    write_shard(
        path, [(k, "npy", b"no array" if i in broken else d) for i, (k, d) in enumerate(members)]
    )
    path.write_bytes(path.read_bytes()[: int(end * path.stat().st_size)])


def opened(project: Path) -> Source:
    root = project.parent
    return Source(
        SourceConfig(tokens=str(root / "tokens"), raw=str(root / "raw")),
        "train",
        ModalitySet.load(root / "modalities.yaml"),
        root / "cache",
        0.05,
    )


def test_a_sample_damaged_in_several_modalities_is_one_damaged_sample(project):
    for name in ("rgb", "depth", "caption"):
        break_shard(shard_path(project.parent / "tokens", "train", name, 0), set(range(16)))
    with pytest.raises(UserError, match=r"\b16 of 16 samples are damaged \(first"):
        opened(project)
    report = next((project.parent / "cache").glob("damage-*.json"))
    assert json.loads(report.read_text())["skipped"] == 16


def test_a_shard_that_ends_early_is_told_apart_from_samples(project):
    break_shard(shard_path(project.parent / "tokens", "train", "rgb", 0), {0}, end=0.54)
    with pytest.raises(UserError) as caught:
        opened(project)
    found = re.search(
        r"(\d+) of 16 samples are damaged, shards that end early: 1 ", str(caught.value)
    )
    assert found and 1 < int(found[1]) < 16, caught.value


def test_a_run_without_any_target_is_stopped(project):
    """The data has captions alone; the masks ask for depth."""
    for name in ("rgb", "depth"):
        for split in ("train", "val"):
            shutil.rmtree(project.parent / "tokens" / split / name)
    masks = "masking.components=[{input: {caption: 1}, target: {depth: 1}}]"
    with pytest.raises(UserError, match="no batch of steps 1 to 3 has a target"):
        pretrain(load(PretrainConfig, project, [masks, "loop.steps=3"]))


def test_a_full_disk_is_one_line_and_the_run_goes_on_from_its_last_checkpoint(project, capsys):
    """The limit on a file's size stands in for a full disk: safetensors and Python fail alike."""
    out = project.parent / "run"
    pretrain(load(PretrainConfig, project, ["loop.steps=5"]))
    config = load(PretrainConfig, project, ["loop.steps=10"])
    size = (out / "checkpoints" / "step_00000005" / "model.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["pretrain", str(project), "loop.steps=10"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: File too large") and "what is finished is kept" in last
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == ["step_00000005"]
    assert not list(out.rglob("*.partial*"))
    pretrain(config)
    assert [step for step, _ in curve(out)] == list(range(1, 11))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_is_an_error_where_it_is_written():
    with pytest.raises(OSError, match="No space left"):
        append_log(Path("/dev/full"), [{"step": 1}])


# ---- the pipeline --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


PICTURE = Image.new("RGB", (64, 64), "red")
GIVEN = {"rgb": PICTURE}
CALLS = {
    "seed None": ({"seed": None}, "seed must be a number"),
    "seed half": ({"seed": 0.5}, "seed must be a whole number, not 0.5"),
    "seed in words": ({"seed": "1"}, "seed must be a whole number, not '1'"),
    "seed too large": ({"seed": 2**63}, "seeds must fit 64 bits"),
    "last seed too large": ({"seed": 2**63 - 1, "num_samples": 2}, "seeds must fit 64 bits"),
    "seeds of another number": ({"seed": [1, 2, 3]}, "3 seeds for 1 samples"),
    "a seed half": ({"seed": [0.5]}, "a seed must be a whole number"),
    "steps half": ({"steps": 2.5}, "steps: expected int, found 2.5"),
    "no steps": ({"steps": 0}, "steps must be at least 1"),
    "an unknown setting": ({"stepz": 2}, "unknown sampling option 'stepz'.*mean 'steps'"),
    "an unknown scheme": ({"scheme": "maskgti"}, "maskgti.*did you mean 'maskgit'"),
    "temperature in words": ({"temperature": "hot"}, "temperature: expected a number"),
    "no samples": ({"num_samples": 0}, "num_samples must be at least 1, not 0"),
    "samples half": ({"num_samples": 1.5}, "num_samples must be a whole number"),
    "no targets": ({"targets": []}, "no targets"),
    "targets that are no names": ({"targets": 3}, "targets are names in an order"),
    "options for no target": ({"options": 5}, "options map targets to SamplingOptions"),
    "an empty picture": (
        {"inputs": {"rgb": np.zeros((0, 0, 3), np.uint8)}},
        r"image has shape \(0, 0, 3\)",
    ),
    "an unknown target": ({"targets": "dpeth"}, "unknown modality 'dpeth'.*mean 'depth'"),
    "a target that is no output": ({"targets": "pixels"}, "pixels cannot be generated"),
    "options of no target": ({"options": {"x": SamplingOptions()}}, "unknown modality 'x'"),
    "options of a wrong type": ({"options": {"depth": {"steps": 1}}}, "must be SamplingOptions"),
    "inputs that are no mapping": ({"inputs": "a red cube"}, "inputs are a mapping of names"),
    "an unknown input": ({"inputs": {"rbg": PICTURE}}, "unknown modality 'rbg'.*mean 'rgb'"),
    "a path": ({"inputs": {"rgb": "a.png"}}, "input rgb: no file a.png"),
    "a Path": ({"inputs": {"depth": Path("a.npy")}}, "input depth: no file a.npy"),
    "nothing": ({"inputs": {"rgb": None}}, "input rgb: image has shape"),
    "text that is a number": ({"inputs": {"caption": 5}}, "caption: text must be a string"),
    "an empty list": ({"inputs": {"rgb": []}}, "input rgb is an empty list"),
    "lists that differ": (
        {"inputs": {"rgb": [PICTURE] * 2, "caption": ["a"] * 3}},
        "different numbers of samples: rgb 2, caption 3",
    ),
    "a list and num_samples": (
        {"inputs": {"rgb": [PICTURE] * 2}, "num_samples": 3},
        "rgb is a list of 2, num_samples is 3",
    ),
    "ids that are no numbers": (
        {"inputs": {"depth": Tokens(np.array([0.5] * 64))}},
        "input depth: ids must be integers, not float64",
    ),
    "too many ids": ({"inputs": {"depth": Tokens(np.zeros(65, int))}}, "given are 65"),
    "too few ids": ({"inputs": {"depth": Tokens(np.array([1, 2]))}}, "depth has 64 tokens"),
}


@pytest.mark.parametrize("call, message", CALLS.values(), ids=CALLS)
def test_a_mistake_in_a_call_of_the_pipeline_is_named(call, message, pipe):
    with pytest.raises(UserError, match=message):
        pipe(**{"inputs": GIVEN, "targets": ["depth"], **call})


def test_numbers_of_numpy_and_one_target_s_name_are_taken(pipe):
    plain = pipe(GIVEN, targets=["depth"], seed=3, steps=1, temperature=0.5)
    numpy = pipe(
        GIVEN, targets="depth", seed=np.int64(3), steps=np.int32(1), temperature=np.float32(0.5)
    )
    assert np.array_equal(plain["depth"].ids[0], numpy["depth"].ids[0])
    many = pipe(GIVEN, targets="depth", seed=np.array([3]), num_samples=np.int64(1), steps=1)
    assert len(many["depth"].ids) == 1


@pytest.mark.parametrize(
    "key, message",
    [
        ("dpeth", "'dpeth' is no output of this model.*did you mean 'depth'"),
        ("rgb->pixels", "'pixels' is no output"),
        ("rbg->depth", "'rbg' in 'rbg->depth' is no modality.*did you mean 'rgb'"),
        ("->depth", "'' in '->depth' is no modality"),
    ],
)
def test_settings_for_a_target_that_the_model_has_not_are_refused(key, message, modalities):
    with pytest.raises(UserError, match=message):
        check_options({"depth": None, key: None}, modalities, "generation.yaml")


def test_a_pipeline_folder_with_an_unknown_target_is_refused_on_opening(modalities, tmp_path):
    make_model(modalities).save_pretrained(tmp_path)
    (tmp_path / "generation.yaml").write_text(yaml.safe_dump({"dpeth": {"steps": 2}}))
    with pytest.raises(UserError, match="generation.yaml: 'dpeth' is no output"):
        AnyToAnyPipeline.from_pretrained(tmp_path)
