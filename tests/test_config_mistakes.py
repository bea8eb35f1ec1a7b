"""A user's mistake in a config file, an override or the size of a network is one sentence that
names it; a table changes only what it names.
"""

from dataclasses import dataclass, field

import pytest
from fourm_tokenizers.autoencoder import AutoencoderConfig
from fourm_tokenizers.diffusion import DiffusionConfig
from fourm_tokenizers.quantizers.fsq import FSQConfig
from fourm_tokenizers.settings import TokenizerConfig
from fourm_tokenizers.text import TextConfig
from worlds import write_project

from fourm.choices import Choice
from fourm.config import apply_override, from_mapping, load, read_yaml
from fourm.data.store import DataConfig, SourceConfig
from fourm.errors import UserError
from fourm.model.model import ModelConfig
from fourm.training.loop_config import LoopConfig
from fourm.training.optimizers import OptimizerConfig
from fourm.training.pretrain import PretrainConfig
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


def test_a_key_with_nothing_behind_it_unsets_a_text_that_is_empty_by_default(tmp_path):
    project = write_project(tmp_path, num=8)
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
