"""Tokenizers: codes and structured values round-trip, a folder loads back the same, wrong input is
one clear error.
"""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from fourm_tokenizers.picture import PictureCodec, save_autoencoder
from fourm_tokenizers.quantizers.fsq import FSQConfig
from fourm_tokenizers.text import TextConfig, train_text_tokenizer
from fourm_tokenizers.train import main as train_main
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm.codecs import Codec, open_codec
from fourm.demo.scenes_to_shards import raw_specs, write_scene_shard
from fourm.modalities import END_ID, FIRST_SENTINEL, Modality, ModalitySet
from fourm.raw import Raw
from fourm.raw.boxes import Boxes
from fourm.raw.palette import Palette
from fourm.raw.words import Words

LINES = ["a small red cube left of a large blue sphere", "a green cone, a yellow cylinder."] * 4


def text_modality(kind="text", **raw):
    return Modality(
        name="t",
        kind="sequence",
        raw=Raw.find(kind)(**raw),
        tokenizer="text",
        vocab_size=400,
        max_tokens=40,
    )


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tok")
    lines = [*LINES, "wood, metal", "red cube blue sphere"]
    train_text_tokenizer(
        TextConfig(
            vocab_size=400, num_sentinels=16, num_axes=4, num_bins=64, words=("traffic light",)
        ),
        lines,
        folder / "text",
    )
    return folder


def codec_of(folder, m):
    modalities = ModalitySet((m,), {"text": {"type": "text", "vocab_size": 400}})
    return open_codec(m, modalities, folder)


def test_the_vocabulary_begins_as_the_released_one(text_folder):
    vocabulary = json.loads((text_folder / "text" / "tokenizer.json").read_text())["model"]["vocab"]
    assert [vocabulary[t] for t in ("[PAD]", "[UNK]", "[SOS]", "[EOS]", "[S_0]", "[S_1]")] == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert (
        FIRST_SENTINEL == 5
        and vocabulary["v0=0"] == 20
        and vocabulary["v1=0"] == 84
        and vocabulary["traffic light"] == 276
    )


def test_captions_round_trip_and_end(text_folder):
    codec = codec_of(text_folder, text_modality())
    assert isinstance(codec, Codec)
    ids = codec.encode(LINES[:2])
    assert all(i[-1] == END_ID for i in ids)
    assert codec.decode(ids) == LINES[:2]
    # sentinels and padding are no text
    assert codec.decode([np.array([*ids[0][:-1], 7, 0, 0])]) == LINES[:1]


def numbers(low, high):
    return st.floats(low, high, allow_nan=False, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(numbers(0, 1), min_size=4, max_size=4),
            st.sampled_from(["red cube", "cone", "blue sphere"]),
        ),
        max_size=4,
    )
)
def test_boxes_round_trip_up_to_half_a_bin(text_folder, boxes):
    raw = [{"box": box, "label": label} for box, label in boxes]
    codec = codec_of(text_folder, text_modality("boxes"))
    back = codec.decode(codec.encode([raw]))[0]
    assert [b["label"] for b in back] == [b["label"] for b in raw]
    for got, true in zip(back, raw, strict=True):
        assert np.abs(np.array(got["box"]) - np.clip(true["box"], 0, 1)).max() <= 0.5 / 63 + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), max_size=6))
def test_palettes_round_trip_up_to_half_a_bin(text_folder, colors):
    codec = codec_of(text_folder, text_modality("palette"))
    back = codec.decode(codec.encode([colors]))[0]
    assert len(back) == len(colors)
    assert all(
        abs(a - b) <= 255 / 63 / 2 + 1
        for x, y in zip(back, colors, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers(-2, 3), max_size=8))
def test_numbers_round_trip_up_to_half_a_bin(text_folder, values):
    codec = codec_of(text_folder, text_modality("numbers", range=(-2.0, 3.0)))
    back = codec.decode(codec.encode([values]))[0]
    assert len(back) == len(values) and all(
        abs(a - b) <= 5 / 63 / 2 + 1e-5 for a, b in zip(back, values, strict=True)
    )


def test_words_round_trip_and_garbage_decodes_to_what_is_left():
    spec = Words()
    assert spec.from_text(spec.to_text(["wood", "metal"], 64), 64) == ["wood", "metal"]
    assert (
        Boxes().from_text("v0=1 v1=2 cube v0=3 v1=1 v2=4 v3=9 red cone v2=1", 64)[0]["label"]
        == "red cone"
    )
    assert Palette().from_text("v3=9 v0=", 64) == []


@pytest.mark.parametrize(
    "kind, value, message",
    [
        ("boxes", [{"box": [0, 1, 2], "label": "x"}], "4 numbers"),
        ("boxes", ["x"], "a box must be"),
        ("boxes", "x", "must be a list"),
        ("palette", [[1, 2]], "3 numbers"),
        ("text", 3, "must be a string"),
        ("numbers", ["a"], "numbers"),
        ("words", [3], "strings"),
    ],
)
def test_a_malformed_value_is_one_clear_error(kind, value, message):
    with pytest.raises(ValueError, match=message):
        Raw.find(kind)().to_text(value, 64)


def picture_modality(spec, levels=(4, 4, 4)):
    return Modality(
        name="p",
        kind="grid",
        raw=spec,
        tokenizer="p",
        vocab_size=int(np.prod(levels)),
        levels=levels,
        grid=(4, 4),
    )


@pytest.mark.parametrize("name", ["rgb", "depth", "normal", "semseg"])
def test_a_picture_alone_gets_the_ids_it_gets_in_a_batch_and_a_folder_loads_the_same(
    name, tmp_path
):
    spec = raw_specs(16)[name]
    torch.manual_seed(0)
    model = Autoencoder(
        AutoencoderConfig(
            **asdict(spec.network_form(4)),
            patch_size=4,
            quantizer=FSQConfig(levels=(4, 4, 4)),
            dim=32,
        )
    )
    torch.nn.init.normal_(model.to_code.weight, std=0.5)
    save_autoencoder(model, tmp_path / "p")
    codec = PictureCodec(tmp_path / "p", picture_modality(spec))
    from fourm.demo.render import render
    from fourm.demo.scenes_to_shards import annotate
    from fourm.demo.world import make_scenes

    scenes = make_scenes(0, np.arange(6))
    raw = annotate(scenes, render(scenes, 16))[name]
    ids = codec.encode(raw)
    assert all(i.shape == (16,) and i.min() >= 0 and i.max() < 64 for i in ids)
    assert len(np.unique(ids)) > 3
    for i in range(6):
        assert np.array_equal(codec.encode([raw[i]])[0], ids[i])
    decoded = codec.decode(ids)
    assert all(d.shape == r.shape and d.dtype == r.dtype for d, r in zip(decoded, raw, strict=True))
    assert codec.fingerprint == PictureCodec(tmp_path / "p", picture_modality(spec)).fingerprint


def test_levels_of_a_code_are_the_digits_that_the_embedding_assumes():
    from vector_quantize_pytorch import FSQ

    levels = (4, 3, 5)
    codes = FSQ(list(levels)).indices_to_codes(torch.arange(60))
    for i, size in enumerate(levels):
        stride = int(np.prod(levels[:i]))
        digit = torch.arange(60) // stride % size
        for value in range(size):
            assert codes[digit == value, i].unique().numel() == 1
        assert codes[:, i].unique().numel() == size


@pytest.mark.parametrize(
    "value, message",
    [
        (np.zeros((8, 8), np.uint8), "shape"),
        (np.zeros((16, 16, 3), np.float32), "uint8"),
        (np.zeros((16, 16, 4), np.uint8), "shape"),
    ],
)
def test_a_wrong_picture_is_one_clear_error(value, message, tmp_path):
    model = Autoencoder(
        AutoencoderConfig(
            image_size=16,
            patch_size=4,
            channels=3,
            quantizer=FSQConfig(levels=(4, 4, 4)),
            dim=32,
        )
    )
    save_autoencoder(model, tmp_path)
    codec = PictureCodec(tmp_path, picture_modality(raw_specs(16)["rgb"]))
    with pytest.raises(ValueError, match=message):
        codec.encode([value])
    with pytest.raises(ValueError, match="declares 16 px and 60 ids"):
        PictureCodec(tmp_path, picture_modality(raw_specs(16)["rgb"], (4, 3, 5)))


@pytest.mark.slow
def test_training_a_tokenizer_beats_the_mean_picture_and_resumes_to_the_same_weights(tmp_path):
    write_scene_shard(tmp_path / "raw", "train", 0, 0, 128, 16)
    write_scene_shard(tmp_path / "raw", "val", 1, 0, 32, 16)
    config = tmp_path / "m.yaml"
    config.write_text(
        "modalities:\n  rgb:\n    kind: grid\n    raw: {type: image, size: 16}\n    tokenizer:\n  "
        "    {type: autoencoder, levels: [8, 5, 5],"
        " patch_size: 4, dim: 32, num_heads: 2, train: {steps: 150, batch_size: 8, threads: 1,"
        " num_workers: 0, checkpoint_every: 50,"
        " optimizer: {name: muon}}}\n"
    )
    common = [
        "--config",
        str(config),
        "--raw",
        str(tmp_path / "raw"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    train_main([*common, "--out", str(tmp_path / "a")])
    from fourm_tokenizers.task import raw_column

    from fourm.evaluation.metrics import psnr

    m = ModalitySet.load(config)["rgb"]
    train, held = (
        raw_column(m, tmp_path / "raw", s, tmp_path / "cache").ragged(np.arange(32)).padded()[:, 0]
        for s in ("train", "val")
    )
    mean = np.broadcast_to(train.mean(0).astype(np.uint8), held.shape)
    figures = json.loads((tmp_path / "a" / "rgb" / "figures.json").read_text())
    assert figures["psnr"] > psnr(mean, held) + 1.0 and figures["usage"] > 0.1
    # cut the run back to step 50 and go on: the same weights
    import shutil

    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder in (tmp_path / "b" / "rgb" / "training" / "checkpoints").glob("*150"):
        shutil.rmtree(folder)
    (tmp_path / "b" / "rgb" / "figures.json").unlink()
    train_main([*common, "--out", str(tmp_path / "b")])
    assert (tmp_path / "a" / "rgb" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "rgb" / "model.safetensors"
    ).read_bytes()
