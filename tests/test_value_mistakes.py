"""Values that are surely wrong are refused in a sentence that names the fix, one sample at a time;
settings that cannot work are refused before anything is made.
"""

import json

import numpy as np
import pytest
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import find_items
from fourm_data_prep.tokenize import tokenize
from fourm_tokenizers.quantizers.residual import ResidualConfig
from fourm_tokenizers.settings import TokenizerConfig
from fourm_tokenizers.train import check_overrides, train_tokenizers
from PIL import Image

from fourm.cli import main
from fourm.data.npy import write_npy
from fourm.data.raw_sets import load_raw
from fourm.data.shards import DamageReport, read_shard, shard_path, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.raw._json import Json
from fourm.raw.boxes import Boxes
from fourm.raw.image import Image as Picture
from fourm.raw.metadata import Metadata
from fourm.raw.palette import Palette
from fourm.raw.text import Text
from fourm.raw.words import Words

ONE = EngineConfig(workers=1)
BOX = [0.1, 0.2, 0.5, 0.6]

WRONG: list[tuple[Json | Text, object, str]] = [
    (Boxes(), [{"box": [10, 20, 500, 600], "label": "a"}], "divide pixels by its width"),
    (Boxes(), [{"box": [0.5, 0.2, 0.1, 0.6], "label": "a"}], "second corner lies before the first"),
    (Boxes(), [{"box": [0, 0, 1, float("nan")], "label": "a"}], "must be finite"),
    (Boxes(), [{"box": [0, 0, 1], "label": "a"}], "must be 4 numbers"),
    (Boxes(), [{"box": BOX}], "a box must be"),
    (Boxes(), {"box": BOX, "label": "a"}, "must be a JSON list"),
    (Palette(), [[0.5, 0.1, 0.9]], "in 0..255, not in 0..1"),
    (Palette(), [[0, 0, 300]], "are numbers in 0..255"),
    (Metadata(), {"n_humans": float("inf")}, "n_humans must be finite"),
    (Metadata(), {"n_humanz": 1}, "unknown metadata 'n_humanz'"),
    (Words(), ["wood", 3], "words must be strings"),
    (Text(), "a\x00b", "control character"),
    (Text(), bytes(range(1, 256)).decode("utf-8", errors="replace"), "another kind of file"),
]


@pytest.mark.parametrize("raw, value, why", WRONG, ids=[why for _, _, why in WRONG])
def test_a_wrong_value_is_a_damaged_sample(tmp_path, raw, value, why):
    data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    good = b"fine" if isinstance(raw, Text) else json.dumps(raw.form()).encode()
    path = tmp_path / "train" / "x" / "00000.tar"
    write_shard(path, [("bad", raw.extensions[0], data), ("good", raw.extensions[0], good)])
    report = DamageReport()
    assert [key for key, _ in read_shard(path, raw.read, raw.extensions, report)] == ["good"]
    (entry,) = report.entries
    assert why in entry.reason and entry.key == "bad"
    with pytest.raises(UserError):
        raw.check(value)  # what users pass, too


def test_what_may_be_right_is_taken():
    assert Metadata().remark({"n_humans": 3}) is None
    assert (
        Metadata().remark({"n_humans": 3, "brightness": 300}) == "brightness outside of the range"
    )
    assert Boxes().check([{"box": [-0.01, 0, 1.2, 1], "label": "a"}])
    assert Palette().check([[0, 0, 0], [1, 1, 1]]) and Palette().check([[0.5, 200, 3]])
    assert Text().check("two\tlines\nand \ufffd in a long enough line")
    assert Text().read("\ufeffmark".encode(), "txt") == "mark"


def test_bytes_that_are_no_text_become_no_caption(tmp_path):
    for i, note in enumerate((bytes(range(1, 256)), "größer".encode("latin-1") + b" house", b"a")):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_bytes(note)
    found = find_items(tmp_path)
    assert found.num_binary_notes == 1
    assert [item.caption for item in found.items] == ["", "gr\ufffd\ufffder house", "a"]


SET = """
modalities:
  rgb: {kind: grid, raw: {type: image, size: 8}, tokenizer: pixels}
  caption: {kind: sequence, raw: text, tokenizer: words, max_tokens: 8}
tokenizers:
  pixels: {type: autoencoder, levels: [4, 4], patch_size: 4}
  words: {type: text, vocab_size: 300, num_sentinels: 4, num_bins: 4}
"""


def test_an_override_changes_the_tokenizers_that_have_it_and_says_where_none_has(tmp_path, capsys):
    (tmp_path / "m.yaml").write_text(SET)
    modalities = ModalitySet.load(tmp_path / "m.yaml")
    check_overrides(["pixels", "words"], modalities, ["train.steps=5"])
    with pytest.raises(UserError, match=r"here \(words; of type text\) has a setting 'train'"):
        check_overrides(["words"], modalities, ["train.steps=5"])
    with pytest.raises(UserError, match="has a setting 'trian'; did you mean 'train'"):
        check_overrides(["pixels", "words"], modalities, ["trian.steps=5"])
    members = (("a", "txt", b"a word of text"),)
    write_shard(shard_path(tmp_path, "train", "caption", 0), members)
    out = tmp_path / "out"
    train_tokenizers(tmp_path / "m.yaml", tmp_path, out, tmp_path, ["words"], ["vocab_size=310"])
    assert (out / "words" / "tokenizer.json").is_file()
    where = ["--raw", str(tmp_path), "--out", str(out), "--only", "words"]
    with pytest.raises(SystemExit) as ended:
        main(["train-tokenizer", str(tmp_path / "m.yaml"), *where, "train.steps=5"])
    assert ended.value.code == 2 and "'train.steps=5'" in capsys.readouterr().err


def test_codes_of_a_residual_quantizer_are_a_set():
    quantizer = ResidualConfig(codebook_size=16, num_codebooks=3)
    config = TokenizerConfig(quantizer=quantizer, patch_size=4, dim=8, num_heads=2)
    m = Modality(name="m", kind="grid", raw=Picture(size=8), vocab_size=16, grid=(2, 2))
    with pytest.raises(UserError, match="gives 3 ids for each place.*kind: set and max_tokens: 12"):
        config.model(m)
    several = Modality(name="m", kind="set", raw=Picture(size=8), vocab_size=16, max_tokens=12)
    assert config.model(several).quantizer.codes_per_place == 3


CROPS = """
modalities:
  rgb: {kind: grid, raw: {type: image, size: 32}, tokenizer: means, vocab_size: 256, grid: [4, 4]}
  x: {kind: continuous, raw: RAW}
tokenizers: {means: {type: "test_crops:Means"}}
"""


def cropped(root, raw, values):
    text = CROPS.replace("RAW}", raw)
    (root / "m.yaml").write_text(text)
    (root / "tok" / "means").mkdir(parents=True)
    modalities = ModalitySet.load(root / "m.yaml")
    pictures = np.zeros((10, 32, 32, 3), np.uint8)
    spec = modalities["rgb"].raw
    members = ((f"{i}", "png", spec.write(p)) for i, p in enumerate(pictures))
    write_shard(shard_path(root / "raw", "train", "rgb", 0), members)
    stored = ((f"{i}", "npy", write_npy(v)) for i, v in enumerate(values))
    write_shard(shard_path(root / "raw", "train", "x", 0), stored)
    tokenize(root / "m.yaml", root / "raw", root / "tok", root / "tokens", engine=ONE, crops=2)
    place = SourceConfig(tokens=str(root / "tokens"), raw=str(root / "raw"))
    return Source(place, "train", modalities, root / "cache", 0.0)


def test_crops_of_half_precision_maps_are_read_in_pretraining(tmp_path):
    values = np.random.default_rng(0).random((10, 16, 16, 2)).astype(np.float16)
    raw = "{type: array, size: 8, channels: 2, dtype: float16}, patch_size: 1}"
    source = cropped(tmp_path, raw, values)
    assert source.num_samples == 20 and source.presence.of("x") == 20
    assert source.gather(np.arange(20)).content["x"].padded().shape == (20, 64, 2)


def test_what_cannot_be_cropped_is_refused_before_tokens_are_made(tmp_path):
    raw = "{type: audio, rate: 8000}, width: 1, max_tokens: 9}"
    with pytest.raises(UserError, match="--crops 2: x is audio, of which no part can be cut"):
        cropped(tmp_path, raw, [])
    assert not (tmp_path / "tokens").exists()


def test_raw_values_need_no_kind_and_configs_of_tokenizers_are_sets_too(tmp_path):
    """Import and inspect ask no more of a modality than its raw type."""
    path = tmp_path / "set.yaml"
    path.write_text("raw: data\nout: there\nmodalities:\n  rgb: {raw: {type: image, size: 32}}\n")
    modalities = load_raw(path)
    assert modalities["rgb"].raw.pixels == 32
    path.write_text("modalities:\n  rgb: {raw: {type: imag, size: 32}}\n")
    with pytest.raises(UserError, match="imag"):
        load_raw(path)
