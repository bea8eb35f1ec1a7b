"""What raw types say of values: maps of other sizes, remarks on what is odd or lost, what data
hold, how they are judged and shown.
"""

import json

import numpy as np
import pytest
from fourm_data_prep.commands.inspect import command as inspect_command
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.inspect import inspect
from fourm_data_prep.remarks import Remarks, said_of_ids
from fourm_data_prep.tokenize import tokenize
from fourm_tokenizers.text import TextConfig, train_text_tokenizer

from fourm.cli import main
from fourm.data.npy import write_npy
from fourm.data.pictures import write_png
from fourm.data.shards import shard_path, write_shard
from fourm.errors import UserError
from fourm.modalities import END_ID, UNKNOWN_ID, Modality, ModalitySet
from fourm.raw.array import Array
from fourm.raw.depth import Depth
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal
from fourm.raw.numbers import Numbers
from fourm.records.tokenizer_settings import declared, figures_of
from fourm.report import Gallery, Report

S = 8
ONE = EngineConfig(workers=1)


def shard(root, split, name, members):
    write_shard(shard_path(root / "raw", split, name, 0), members)


def labels(**more):
    return Labels(size=S, classes=("sea", "wood", "ice"), **more)


# ---- sizes ---------------------------------------------------------------------------------------


def test_maps_of_any_size_are_read_classes_by_the_nearest_and_numbers_between():
    wide = np.zeros((2 * S, 4 * S), np.uint8)
    wide[:, 2 * S :] = 2
    found = labels().read(write_png(wide), "png")
    assert found.shape == (S, S) and set(np.unique(found)) == {0, 2}
    assert np.array_equal(found, np.repeat([[0] * 4 + [2] * 4], S, 0))  # of the centre square
    small = np.float32([[0, 1], [0, 1]])
    depth = Depth(size=S).read(write_npy(small), "npy")
    assert depth.shape == (S, S) and 0.2 < depth[0, 3] < 0.8 and depth.dtype == np.float32
    fine = np.kron(np.eye(S), [[1, 0], [0, 0]]).astype(np.float32)
    assert Array(size=S).read(write_npy(fine), "npy").mean() == pytest.approx(fine.mean(), rel=0.2)
    unit = np.tile(np.float32([0.6, 0.0, 0.8]), (5, 5, 1))
    assert np.allclose(np.linalg.norm(Normal(size=S).read(write_npy(unit), "npy"), axis=-1), 1)
    assert labels().accept(wide).shape == (S, S)  # what users pass, too
    with pytest.raises(UserError, match=r"shape \(8, 8, 2\), expected \(8, 8, 3\)"):
        Array(size=S, channels=3).read(write_npy(np.zeros((S, S, 2))), "npy")


def test_half_precision_stays_half_in_crops():
    raw = Array(size=4, channels=2, dtype="float16")
    value = raw.read(write_npy(np.random.default_rng(0).random((S, S, 2))), "npy", native=True)
    assert raw.scaled(value).dtype == value.dtype == np.float16


def test_vectors_of_pictures_need_patches(tmp_path):
    entry = {"kind": "continuous", "raw": {"type": "array", "size": 4, "channels": 4}}
    entry |= {"width": 4, "max_tokens": 16}
    out = {"kind": "sequence", "raw": "text", "vocab_size": 9, "max_tokens": 4}
    with pytest.raises(UserError, match="continuous modality x needs patch_size$"):
        ModalitySet.from_mapping({"modalities": {"x": entry, "out": out}})


# ---- oddities ------------------------------------------------------------------------------------


def test_values_that_would_be_clipped_are_remarked():
    stray = np.zeros((S, S), np.float32)
    assert Depth(size=S).remark(stray) is None and Array(size=S, range="auto").remark(stray) is None
    stray[0, 0] = 1e9
    assert "outside of the range [0, 1]" in str(Depth(size=S).remark(stray))
    assert "length is not 1" in str(Normal(size=S).remark(np.full((S, S, 3), 0.9)))
    with pytest.raises(UserError, match="vectors in .-1, 1., not up to 255"):
        Normal(size=S).check(np.full((S, S, 3), 255.0))


def test_ids_tell_what_a_sequence_lost():
    m = Modality(
        name="t", kind="sequence", raw=Numbers(), vocab_size=90, max_tokens=3, tokenizer="text"
    )
    assert said_of_ids(m, np.array([40, END_ID])) == []
    assert said_of_ids(m, np.array([40, 41, 42])) == ["cut at 3 tokens (max_tokens)"]
    assert "does not know" in said_of_ids(m, np.array([UNKNOWN_ID, END_ID]))[0]


def test_remarks_are_counted_by_their_words_and_survive_json():
    one, other = Remarks(), Remarks()
    one.see("a", "0/x", [None, "odd"])
    other.see("a", "1/y", ["odd", "strange"])
    other.see("a", "1/z", [None])
    one.merge(Remarks.from_json(json.loads(json.dumps(other.to_json()))))
    assert one.lines() == [
        "a: 2 of 3 samples: odd (first: 0/x)",
        "a: 1 of 3 samples: strange (first: 1/y)",
    ]
    assert one.of(["b"]).lines() == []


TEXTS = """
modalities:
  caption: {kind: sequence, raw: text, tokenizer: text, max_tokens: 6}
  boxes: {kind: sequence, raw: boxes, tokenizer: text, max_tokens: 12}
tokenizers: {text: {type: text, vocab_size: 220, num_sentinels: 4, num_bins: 20}}
"""


@pytest.fixture
def texts(tmp_path):
    """A set of sequences in which some are too long, unknown or wrong."""
    (tmp_path / "m.yaml").write_text(TEXTS)
    config = TextConfig(vocab_size=220, num_sentinels=4, num_bins=20)
    train_text_tokenizer(config, ["a red cube"] * 9, tmp_path / "tok" / "text")
    said = ["a red cube"] * 40
    said[3], said[5], said[6] = "a cube " * 1300, "☃", "\x01\x02\x03 red"
    shard(
        tmp_path, "train", "caption", ((f"{i:02}", "txt", t.encode()) for i, t in enumerate(said))
    )
    box = {"box": [0.1, 0.2, 0.5, 0.6], "label": "cube"}
    boxes = [[box]] * 40
    boxes[1], boxes[2] = [box] * 200, [{**box, "box": [-0.2, 0.2, 0.5, 0.6]}]
    boxes[7] = [{**box, "box": [10, 20, 500, 600]}]
    shard(
        tmp_path,
        "train",
        "boxes",
        ((f"{i:02}", "json", json.dumps(b).encode()) for i, b in enumerate(boxes)),
    )
    return tmp_path


def test_what_is_lost_when_tokens_are_made_is_said_once_with_its_number(texts, capsys):
    def run():
        tokenize(texts / "m.yaml", texts / "raw", texts / "tok", texts / "tokens", engine=ONE)
        return [line for line in capsys.readouterr().err.splitlines() if "warning" in line]

    lines = run()
    assert lines == [
        "warning: boxes: 1 of 39 samples: boxes that reach out of the picture, which are cut off at"
        " its border (first: 00000/02)",
        "warning: boxes: 1 of 39 samples: cut at 12 tokens (max_tokens) (first: 00000/01)",
        "warning: caption: 1 of 39 samples: cut at 6 tokens (max_tokens) (first: 00000/03)",
        "warning: caption: 1 of 39 samples: words or signs that the tokenizer does not know (first:"
        " 00000/05)",
    ]
    assert run() == lines  # of shards that were made before, too
    config = (texts / "m.yaml").read_text()
    (texts / "m.yaml").write_text(config.replace("max_tokens: 12", "max_tokens: 2000"))
    assert len(run()) == 3  # what the other modality said is kept
    found = inspect(texts / "tokens", texts / "m.yaml", texts / "page.html")
    (caption,) = [f for f in found.found if f.modality == "caption"]
    assert (caption.samples, caption.spreads["tokens"].high_key) == (39, "00000/03")
    assert any("cut at 6 tokens" in line for line in caption.remarks.lines())
    assert caption.ids_used > 3 and caption.perplexity <= caption.ids_used


def test_inspect_tells_what_raw_shards_hold_as_json_and_on_a_page(texts, capsys):
    arguments = ["inspect", str(texts / "raw"), "--config", str(texts / "m.yaml")]
    more = ["--json", str(texts / "i.json"), "--tokenizers", str(texts / "tok")]
    main([*arguments, *more])
    told = capsys.readouterr().out
    assert "characters: 1 (00000/05) .. 9099 (00000/03)" in told
    assert "caption: 1 of 39 samples: cut at 6 tokens" in told and "cube 100.0%" in told
    assert "damaged:" in told and "divide pixels" in told
    held = json.loads((texts / "i.json").read_text())["splits"]["train"]
    boxes = held["modalities"]["boxes"]
    assert (boxes["samples"], boxes["damaged"]) == (39, 1)
    numbers = boxes["numbers"]["boxes"]
    assert {k: numbers[k] for k in ("min", "p50", "max", "max_at")} == {
        "min": 1.0,
        "p50": 1.0,
        "max": 200.0,
        "max_at": "00000/01",
    }
    assert boxes["shares"] == {"cube": 1.0}
    assert held["presence"][0] == [["caption", "boxes"], 38]
    page = (texts / "raw" / "inspect.html").read_text()
    assert "Numbers" in page and "Odd" in page and "9099" in page
    assert {"json_out", "tokenizers"} <= {p.name for p in inspect_command.params}


# ---- figures and pictures ------------------------------------------------------------------------


def test_every_type_has_a_baseline_that_its_figures_judge():
    rng = np.random.default_rng(0)
    for raw, values in (
        (Image(size=S), rng.integers(0, 256, (6, S, S, 3)).astype(np.uint8)),
        (Depth(size=S), rng.random((6, S, S), np.float32)),
        (Array(size=S), rng.random((6, S, S, 1), np.float32)),
        (labels(), rng.integers(0, 3, (6, S, S)).astype(np.uint8)),
        (Normal(size=S), np.tile(np.float32([0.6, 0.0, 0.8]), (6, S, S, 1))),
    ):
        guess = raw.baseline(list(values))
        assert guess is not None
        raw.check(guess)
        assert raw.figures(np.broadcast_to(guess, values.shape), values)
    values = rng.random((6, S, S), np.float32)
    best = Depth(size=S).figures(np.broadcast_to(values.mean(0), values.shape), values)
    other = Depth(size=S).figures(np.broadcast_to(values[0], values.shape), values)
    assert best["rmse"] < other["rmse"]


def test_the_ratio_of_arrays_has_a_name_of_its_own_and_old_files_are_read_by_it(tmp_path):
    values = np.random.default_rng(0).random((2, S, S, 1))
    found = Array(size=S).figures(values + 0.1, values)
    assert found["range_psnr"] == pytest.approx(20.0) and "psnr" not in found
    assert found["mae"] == pytest.approx(0.1)
    entry = {"kind": "grid", "raw": {"type": "array", "size": S}, "tokenizer": "t"}
    entry |= {"vocab_size": 9, "grid": [1, 1]}
    image = {**entry, "raw": {"type": "image", "size": S}, "tokenizer": "u"}
    modalities = ModalitySet.from_mapping(
        {"modalities": {"x": entry, "y": image}, "tokenizers": {"t": {}, "u": {}}}
    )
    for name in ("t", "u"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "figures.json").write_text('{"psnr": 21.5, "usage": 0.5}')
    assert figures_of(tmp_path, "t", modalities) == {"range_psnr": 21.5, "usage": 0.5}
    assert figures_of(tmp_path, "u", modalities) == {"psnr": 21.5, "usage": 0.5}
    assert figures_of(tmp_path, "none", modalities) == {}


def test_pictures_are_stretched_over_what_is_shown_together():
    raw = Array(size=S, range=(0.0, 1e6), unit="m")
    low = np.linspace(0, 100, S * S, dtype=np.float32).reshape(S, S, 1)
    over = raw.stretch([low, low / 2])
    assert over is not None and 0 <= over[0] < 5 and 70 < over[1] <= 100
    plain, shown = np.asarray(raw.picture(low)), np.asarray(raw.show(low, over))
    assert plain.std((0, 1)).max() < 1 < 30 < shown.std((0, 1)).max()
    legend = raw.legend(over)
    assert (legend.low, legend.high, legend.unit, len(legend.stops)) == (*over, "m", 5)
    assert raw.stretch([np.zeros((S, S, 1))]) is None and raw.legend().high == 1e6
    assert Image(size=S).legend().is_empty and Image(size=S).stretch([]) is None
    page = Report("r")
    page.gallery(Gallery("g", ["a"], [[(low, raw)], [(low / 2, raw)]]))
    dark = Report("r")
    dark.gallery(Gallery("g", ["a"], [[(low, raw)], [(low / 2, raw)], [(low * 1e4, raw)]]))
    first = [part.split("</td>")[0] for part in (page.parts[-1], dark.parts[-1])]
    assert first[0] != first[1]  # one scale for all that stands beside each other


def test_what_is_only_shown_trains_no_tokenizer_again():
    def declared_with(**more):
        raw = {"type": "labels", "size": S, "classes": ["a", "b"], **more}
        entry = {"kind": "grid", "raw": raw, "tokenizer": "t", "vocab_size": 9, "grid": [1, 1]}
        both = {"modalities": {"x": entry}, "tokenizers": {"t": {"type": "autoencoder"}}}
        return declared("t", ModalitySet.from_mapping(both))

    assert declared_with(colors=["#000000", "#ffffff"]) == declared_with()
    assert declared_with(ignore=7) != declared_with()
    assert Numbers(unit="deg").data_form == Numbers() != Numbers(unit="deg")
    assert repr(Array(size=S, unit="m")) == repr(Array(size=S))  # which columns are cached by
