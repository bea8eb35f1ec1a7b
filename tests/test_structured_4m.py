"""Structured sequences of 4M-21 and the text tokenizer's trainer: raw -> ids -> raw -> the same
ids, for any value.
"""

import json

import numpy as np
import pytest
from fourm_tokenizers.train_text import COCO_CLASSES, main
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm.codecs import open_codec
from fourm.modalities import Modality, ModalitySet
from fourm.raw import Raw
from fourm.raw.instances import NUM_MASK_IDS
from fourm.raw.metadata import METADATA, Metadata
from fourm.raw.poses import Poses
from fourm.raw.vectors import Vectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vocabulary as the released one, learned from a few captions by the training program."""
    root = tmp_path_factory.mktemp("text")
    captions = root / "captions.txt"
    words = "human pose global shape camera none point polygon a photo of a cat on the table"
    captions.write_text("\n".join([words] * 40))
    main([str(captions), "--out", str(root / "text"), "--vocab-size", "4400"])
    return root


def codec_of(folder, kind, **raw):
    m = Modality(
        name=kind,
        kind="sequence",
        raw=Raw.find(kind)(**raw),
        tokenizer="text",
        vocab_size=4400,
        max_tokens=600,
    )
    return open_codec(m, ModalitySet((m,), {"text": {"type": "text"}}), folder)


def round_trip(codec, value):
    """The decoded value, after checking that it has the same ids."""
    ids = codec.encode([value])[0]
    assert ids.max() < codec.codebook_size and 1 not in ids  # nothing unknown
    again = codec.decode([ids])[0]
    assert np.array_equal(codec.encode([again])[0], ids)
    return again


def test_the_trained_vocabulary_is_laid_out_as_the_released_one(folder):
    vocabulary = json.loads((folder / "text" / "tokenizer.json").read_text())["model"]["vocab"]
    wanted = {
        "[PAD]": 0,
        "[UNK]": 1,
        "[SOS]": 2,
        "[EOS]": 3,
        "[S_0]": 4,
        "[S_199]": 203,
        "v0=0": 204,
        "v1=0": 1204,
        "v2=0": 2204,
        "v3=999": 4203,
        "airplane": 4204,
        "zebra": 4283,
    }
    assert {name: vocabulary[name] for name in wanted} == wanted
    assert len(COCO_CLASSES) == 80 and sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_the_trainer_reads_folders_and_csv_and_names_what_is_wrong(tmp_path, capsys):
    (tmp_path / "one.txt").write_text("a cat")
    (tmp_path / "c.csv").write_text("file,caption\nx.png,a dog\n")
    main(
        [
            str(tmp_path),
            str(tmp_path / "c.csv"),
            "--out",
            str(tmp_path / "t"),
            "--vocab-size",
            "4320",
        ]
    )
    assert "ids" in capsys.readouterr().out
    (tmp_path / "d.csv").write_text("file,title\nx.png,a dog\n")
    for inputs, message in (
        ([str(tmp_path / "d.csv")], "no column 'caption'"),
        ([str(tmp_path / "no.txt")], "no file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*inputs, "--out", str(tmp_path / "t")])
        assert message in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from([k.name for k in METADATA]), st.floats(-10, 3000), max_size=21)
)
def test_metadata_keeps_every_bin(folder, value):
    again = round_trip(codec_of(folder, "metadata"), value)
    assert list(again) == list(value)
    for kind in METADATA:
        if kind.name in value:
            assert kind.to_bin(again[kind.name]) == kind.to_bin(value[kind.name])


def test_metadata_has_the_published_bins_and_skips_what_is_no_kind():
    by_name = {k.name: k for k in METADATA}
    assert len(METADATA) == 21
    assert by_name["original_width"].to_bin(640) == 20 and by_name["brightness"].to_bin(255) == 49
    assert by_name["aesthetic_score"].to_bin(5.0) == 1 and by_name["n_humans"].to_bin(5000) == 999
    assert Metadata().from_text("v1=5 v0=2 v1=77 v0=3 v0=1 v1=6", 1000) == {"n_humans": 2}


ids_below_1024 = st.integers(0, 1023)
corners = st.lists(st.floats(0, 1), min_size=4, max_size=4)
people = st.fixed_dictionaries(
    {
        "box": corners,
        "pose": st.lists(ids_below_1024, min_size=8, max_size=8),
        "global": st.lists(st.floats(-1, 1), min_size=9, max_size=9),
        "shape": st.lists(st.floats(-3, 3), min_size=10, max_size=10),
        "camera": st.lists(st.floats(-1, 19), min_size=3, max_size=3),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(people, max_size=3))
def test_poses_keep_ids_exactly_and_numbers_to_half_a_bin(folder, value):
    again = round_trip(codec_of(folder, "poses"), value)
    assert len(again) == len(value)
    for a, b in zip(again, value, strict=True):
        assert a["pose"] == b["pose"]
        for name, half in (
            ("box", 0.5 / 999),
            ("global", 0.5 / 499.5),
            ("shape", 0.5 / 166.5),
            ("camera", 0.5 / 49.95),
        ):
            assert np.abs(np.array(a[name]) - np.array(b[name])).max() <= half + 1e-3 * half + 1e-9


points = st.fixed_dictionaries(
    {
        "at": st.lists(st.integers(0, 223), min_size=2, max_size=2),
        "instances": st.lists(
            st.fixed_dictionaries(
                {
                    "box": st.lists(st.integers(0, 223), min_size=4, max_size=4),
                    "mask": st.lists(ids_below_1024, min_size=NUM_MASK_IDS, max_size=NUM_MASK_IDS),
                }
            ),
            max_size=2,
        ),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(points, max_size=4))
def test_instances_come_back_exactly_and_y_is_spelled_first(folder, value):
    codec = codec_of(folder, "instances", size=224)
    assert round_trip(codec, {"points": value}) == {"points": value}
    if value:
        assert codec.to_line(codec.encode([{"points": value}])[0]).startswith(
            f"point v0={value[0]['at'][1]} v1={value[0]['at'][0]}"
        )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), max_size=7))
def test_palettes_are_spelled_as_their_numbers(folder, value):
    codec = codec_of(folder, "palette")
    assert round_trip(codec, value) == value
    assert codec.to_line(codec.encode([value])[0]).split() == [
        f"v1={len(value)}",
        *(f"v0={n}" for color in value for n in color),
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(corners, st.sampled_from(COCO_CLASSES)), max_size=6))
def test_detections_keep_class_names_whole(folder, value):
    boxes = [{"box": box, "label": label} for box, label in value]
    again = round_trip(codec_of(folder, "boxes"), boxes)
    assert [b["label"] for b in again] == [b["label"] for b in boxes]


@settings(max_examples=60, deadline=None)
@given(st.text("hpgsc v0=1239 umanoseloglbreit", max_size=80))
def test_decoding_whatever_a_model_spells_never_fails(line):
    assert isinstance(Poses().from_text(line, 1000), list)
    assert isinstance(Metadata().from_text(line, 1000), dict)


@pytest.mark.parametrize(
    "kind, value, message",
    [
        ("metadata", {"brightnes": 1}, "unknown metadata 'brightnes'"),
        ("metadata", {"entropy": float("nan")}, "must be finite"),
        ("poses", [{"box": [0, 0, 1, 1]}], "a pose must have exactly"),
        ("instances", {"points": [{"at": [1]}]}, "a point must be"),
        ("poses", {}, "must be a list"),
    ],
)
def test_a_malformed_value_is_one_clear_error(folder, kind, value, message):
    with pytest.raises(ValueError, match=message):
        codec_of(folder, kind).encode([value])


def test_text_embeddings_are_vectors_of_any_number_and_objects_are_never_unpickled(tmp_path):
    spec = Vectors(channels=8)
    value = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert np.array_equal(spec.read(spec.write(value), "npy"), value)
    np.savez(tmp_path / "t5.npz", emb=value, mask_valid=np.array([True, True, True, False, False]))
    assert np.array_equal(spec.read((tmp_path / "t5.npz").read_bytes(), "npz"), value[:3])
    np.savez(tmp_path / "bad.npz", emb=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="never read"):
        spec.read((tmp_path / "bad.npz").read_bytes(), "npz")
    with pytest.raises(ValueError, match="expected numbers"):
        Vectors(channels=9).read(spec.write(value), "npy")
