"""Raw types are objects: each with settings of its own, and a new one is one file that the package
has never heard of, from its bytes to the report.
"""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.tokenize import tokenize
from fourm_tokenizers.train import main as train_tokenizers
from series import Series

from fourm.config import from_mapping, load, to_mapping
from fourm.data.crops import Crop
from fourm.data.shards import shard_path, write_shard
from fourm.errors import UserError
from fourm.evaluation.project_report import report_project
from fourm.modalities import Modality, ModalitySet
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.project.project import Project
from fourm.raw import Raw
from fourm.raw.array import Array
from fourm.raw.audio import Audio
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image
from fourm.raw.instances import Instances
from fourm.raw.labels import Labels
from fourm.raw.metadata import Metadata
from fourm.raw.normal import Normal
from fourm.raw.numbers import Numbers
from fourm.raw.palette import Palette
from fourm.raw.poses import Poses
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm.raw.words import Words
from fourm.training.pretrain import PretrainConfig, pretrain

RNG = np.random.default_rng(0)
UNIT = np.tile(np.float32([0.6, 0.0, 0.8]), (8, 8, 1))
# a value of each type
VALUES: list[tuple[Raw, object]] = [
    (Image(size=8), RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)),
    (Depth(size=8, range=(0.0, 4.0)), RNG.random((8, 8), np.float32)),
    (Normal(size=8), UNIT),
    (Labels(size=8, classes=("a", "b")), RNG.integers(0, 2, (8, 8)).astype(np.uint8)),
    (Array(size=8, channels=2), RNG.random((8, 8, 2), np.float32)),
    (Vectors(channels=4), RNG.random((3, 4), np.float32)),
    (Audio(rate=8000), RNG.uniform(-1, 1, 80).astype(np.float32)),
    (Text(), "a café"),
    (Boxes(), [{"box": [0.0, 0.25, 0.5, 1.0], "label": "cube"}]),
    (Palette(), [[1, 2, 3], [250, 0, 9]]),
    (Numbers(range=(-1.0, 1.0)), [0.5, -0.25]),
    (Words(), ["wood", "steel"]),
    (Metadata(), {"n_humans": 2}),
    (Poses(), [{"box": [0.0, 0.0, 1.0, 1.0]}]),
    (Instances(size=64), {"points": []}),
    (Series(length=3), np.float32([[0.5, 1], [0, 0], [-0.25, 1]])),
]


def test_every_file_of_the_package_is_tried_here():
    assert {type(raw).type_name for raw, _ in VALUES} == {*Raw.names(), "series:Series"}


@pytest.mark.parametrize("raw, value", VALUES, ids=lambda x: getattr(x, "type_name", ""))
def test_a_value_survives_its_file_is_told_from_a_batch_and_is_shown(raw, value):
    again = raw.read(raw.write(value), raw.extensions[0])
    if isinstance(value, np.ndarray):
        assert np.abs(again.astype(float) - value).max() < 0.01
    else:
        assert again == value
    assert not raw.is_batch(value) and raw.is_batch([value, value])
    assert raw.cut(value, Crop()) is not None and raw.fit(value) is not None
    assert isinstance(raw.line(value), str)
    if raw.has_picture:
        assert min(raw.picture(value).size) > 0
    else:
        with pytest.raises(UserError, match="has no picture"):
            raw.picture(value)


@pytest.mark.parametrize("raw, value", VALUES[:5], ids=lambda x: getattr(x, "type_name", ""))
def test_values_become_numbers_about_one_and_come_back(raw, value):
    stacked = np.stack([value, value])
    floats = raw.to_floats(stacked)
    assert floats.dtype == np.float32 and floats.shape == (2, 8, 8, raw.num_channels)
    given = raw.to_network(stacked)
    output = np.eye(2, dtype=np.float32)[given] if isinstance(raw, Labels) else given
    back = np.stack(raw.from_network(output)).astype(float)
    assert np.abs(back - stacked).max() < 1e-5
    assert all(np.isfinite(list(raw.figures(stacked, stacked).values())))


def read(raw: object) -> Raw:
    entry = {"kind": "sequence", "raw": raw, "vocab_size": 9, "max_tokens": 9}
    modalities = ModalitySet.from_mapping({"modalities": {"x": entry}})
    assert ModalitySet.from_mapping(modalities.to_mapping()) == modalities
    return modalities["x"].raw


def test_types_have_settings_of_their_own_and_are_written_back():
    assert read("text") == read({"type": "text"}) == Text()
    assert read({"type": "depth", "size": 8, "range": [0, 5]}) == Depth(size=8, range=(0.0, 5.0))
    assert read({"type": "series:Series", "length": 5}) == Series(length=5)
    with pytest.raises(UserError, match=r"x: raw: unknown key 'sise'"):
        read({"type": "image", "sise": 8})
    with pytest.raises(UserError, match="raw type 'imag' is not one of.*did you mean 'image'"):
        read({"type": "imag", "size": 8})
    with pytest.raises(UserError, match=r"x: raw: unknown key 'rate'; did you mean 'range'"):
        read({"type": "series:Series", "length": 5, "rate": 3})
    with pytest.raises(UserError, match="needs a size"):
        read({"type": "image"})
    with pytest.raises(UserError, match="is empty"):
        Depth(size=8, range=(1.0, 1.0))
    with pytest.raises(UserError, match="m: raw: unknown key 'rate'; nothing can be set here"):
        from_mapping(Modality, {"name": "x", "raw": {"type": "text", "rate": 3}}, "m")


def test_settings_that_earlier_releases_wrote_for_any_type_are_still_read():
    every = {"channels": 3, "range": [0.0, 1.0], "rate": 0, "classes": [], "mean": [], "std": []}
    assert read({"type": "image", "size": 8, **every}) == Image(size=8)
    assert read({"type": "text", "size": 0, **every}) == Text()
    assert read({"type": "array", "size": 8, **every, "channels": 0}) == Array(size=8)


def test_values_are_named_on_the_command_line_by_a_file_or_by_themselves(tmp_path):
    boxes = [{"box": [0.0, 0.0, 1.0, 1.0], "label": "cube"}]
    (tmp_path / "b.json").write_bytes(Boxes().write(boxes))
    assert Boxes().from_argument(str(tmp_path / "b.json")) == boxes
    assert Boxes().from_argument(Boxes().printed(boxes)) == boxes
    assert Text().from_argument("a cat") == "a cat"
    (tmp_path / "v.npy").write_bytes(Vectors(channels=2).write([1, 2]))
    assert Vectors(channels=2).from_argument(str(tmp_path / "v.npy")).tolist() == [[1, 2]]
    with pytest.raises(UserError, match=r"no file absent\.png"):
        Image(size=8).from_argument("absent.png")
    with pytest.raises(UserError, match=r"no file absent\.json"):
        Words().from_argument("absent.json")
    with pytest.raises(UserError, match="not valid JSON"):
        Words().from_argument("['a'")


def test_raw_types_and_modality_tables_need_no_torch():
    program = (
        "import sys; from fourm.modalities import ModalitySet; from fourm.raw import Raw;"
        "[Raw.find(name) for name in Raw.names()]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


LOOP = {"steps": 12, "batch_size": 8, "threads": 1, "num_workers": 0, "log_every": 1}
TEXT = {"type": "text", "vocab_size": 80, "num_sentinels": 8, "num_axes": 1, "num_bins": 16}
CODE = {
    "type": "autoencoder",
    "quantizer": {"type": "vq", "codebook_size": 16, "code_dim": 4},
    "num_tokens": 2,
    "dim": 16,
    "num_heads": 2,
    "train": LOOP,
}
MODALITIES = {
    "series": {  # spelled as text
        "kind": "sequence",
        "raw": {"type": "series:Series", "length": 6},
        "tokenizer": "text",
        "max_tokens": 8,
    },
    "code": {"kind": "set", "source": "series", "tokenizer": CODE},  # by a learned tokenizer
    "readings": {"kind": "continuous", "source": "series", "width": 2, "max_tokens": 6},
    "caption": {"kind": "sequence", "raw": "text", "tokenizer": "text", "max_tokens": 6},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """From raw shards to the report, by the functions behind the commands."""
    project = Project(tmp_path_factory.mktemp("series"))
    raw, rng = Series(length=6), np.random.default_rng(0)
    for split, num in (("train", 24), ("val", 8)):
        known = rng.random((num, 6, 1)) < 0.8
        values = np.concatenate([rng.uniform(-1, 1, (num, 6, 1)) * known, known], -1)
        members = {
            "series": [(f"{i:04d}", "csv", raw.write(v)) for i, v in enumerate(values)],
            "caption": [(f"{i:04d}", "txt", b"gap of an hour") for i in range(num)],
        }
        for name, rows in members.items():
            write_shard(shard_path(project.raw, split, name, 0), rows)
    tokenizers = {"text": TEXT}
    project.modalities.write_text(
        yaml.safe_dump({"tokenizers": tokenizers, "modalities": MODALITIES}, sort_keys=False)
    )
    config = {
        "out": str(project.pretrain),
        "modalities": str(project.modalities),
        "data": {
            "sources": [{"tokens": str(project.tokens), "raw": str(project.raw)}],
            "cache": str(project.cache),
        },
        "model": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2},
        "masking": {
            "num_inputs": [2, 8],
            "num_targets": [4, 8],
            "components": [{"input_default": 0.5, "target_default": 0.5}],
        },
        "loop": LOOP,
    }
    project.pretrain_config.write_text(yaml.safe_dump(config, sort_keys=False))
    places = ["--config", str(project.modalities), "--raw", str(project.raw)]
    train_tokenizers([*places, "--out", str(project.tokenizers), "--cache", str(project.cache)])
    one = EngineConfig(workers=1)
    tokenize(project.modalities, project.raw, project.tokenizers, project.tokens, engine=one)
    pretrain(load(PretrainConfig, project.pretrain_config))
    report_project(project)
    return project


def test_a_type_in_a_file_of_its_own_trains_samples_and_reports(project):
    pipe = AnyToAnyPipeline.from_pretrained(project.model)
    given = [0.5, None, -1.0, 1.0, None, 0.0]
    out = pipe({"series": given}, ["caption"], seed=0)  # read as it is, by ``readings``
    assert isinstance(out["caption"].texts[0], str)
    out = pipe({"caption": ["gap of an hour"] * 2}, ["series", "code"], seed=0)
    for value in (*out["series"].values, *out["code"].values):
        assert value.shape == (6, 2) and set(value[:, 1]) <= {0.0, 1.0}
    assert out["series"].images[0].size == (6, 16)
    codec, raw = pipe.codecs["series"], Series(length=6)
    back = codec.decode(codec.encode([raw.accept(given)]))[0]
    assert np.abs(back - raw.accept(given)).max() <= 1 / 15 + 1e-6
    assert "error" in (project.tokenizers / "code" / "figures.json").read_text()
    page = project.report.read_text()
    assert "series:Series" in page and "readings" in page and "series -&gt; everything" in page


def test_a_type_in_a_file_of_its_own_says_what_is_wrong(project):
    pipe = AnyToAnyPipeline.from_pretrained(project.model)
    with pytest.raises(UserError, match=r"input series: series has shape \(2, 2\)"):
        pipe({"series": [0.5, None]}, ["caption"])
    with pytest.raises(UserError, match="have no pixels"):
        Series(length=2).to_floats(np.zeros((1, 2, 2)))


@pytest.mark.parametrize(
    "raw, shape",
    [({"type": "vectors", "channels": 16}, (5, 16)), ({"type": "array", "size": 4}, (4, 4, 1))],
)
def test_numbers_of_half_precision_take_half_the_room_and_are_described_as_before(raw, shape):
    whole = from_mapping(Holder, {"raw": raw}, "test").raw
    half = from_mapping(Holder, {"raw": {**raw, "dtype": "float16"}}, "test").raw
    value = np.random.default_rng(0).random(shape, np.float32)
    wide, narrow = whole.write(value), half.write(value)
    assert len(wide) - len(narrow) == value.nbytes // 2
    read = half.read(narrow, "npy")
    assert read.dtype == np.float16 and np.abs(read - value).max() < 1e-3
    assert half.read(wide, "npy").dtype == np.float16 and whole.read(narrow, "npy").dtype == "f4"
    assert "dtype" not in to_mapping(whole) and to_mapping(half)["dtype"] == "float16"
    with pytest.raises(UserError, match="100000 do not fit dtype float16"):
        half.write(np.full(shape, 1e5, np.float32))
    with pytest.raises(UserError, match="'float8' is not one of float32, float16"):
        from_mapping(Holder, {"raw": {**raw, "dtype": "float8"}}, "test")


@dataclass(frozen=True)
class Holder:
    """A config with a raw type in it."""

    raw: Raw
