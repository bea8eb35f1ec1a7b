"""Maps larger than the model: windows cover them, sampled jointly in bounded memory, and where one
window does, it is what a plain call gives.
"""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from fourm import AnyToAnyPipeline
from fourm.cli import main
from fourm.errors import UserError
from fourm.pipeline.windows import Mosaic, Windows
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions

CAPTION = {"caption": "a large red cube left of a small blue sphere"}
DRAWN = {"steps": 2, "sweeps": 0}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def scene(pipe) -> np.ndarray:
    return pipe(CAPTION, "rgb", seed=3)["rgb"].values[0]


@pytest.fixture(scope="module")
def wide(scene) -> np.ndarray:
    """100 x 150 pixels: nothing that windows or tokens fill."""
    return np.tile(scene, (2, 3, 1))[20:120, :150]


# ---- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (9, 30), (20, 13)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_windows_cover_the_map_and_overlap_at_least_as_asked(shape, overlap):
    windows = Windows.over(shape, (8, 8), overlap)
    for starts, length in zip((windows.rows, windows.columns), shape, strict=True):
        assert starts[0] == 0 and starts[-1] == length - 8
        assert all(8 - (b - a) >= 8 * overlap for a, b in pairwise(starts))
    every = windows.places(np.arange(len(windows)))
    assert np.array_equal(np.unique(every), np.arange(shape[0] * shape[1]))
    every = np.arange(len(windows))
    assert np.array_equal(windows.scaled(2).corners(every), 2 * windows.corners(every))


def test_each_token_is_owned_by_the_window_in_which_it_lies_deepest():
    windows = Windows.over((12, 15), (6, 6), 0.5)
    which = np.arange(len(windows))
    places, owned = windows.places(which), windows.owned(which)
    depth = [min(r + 1, 6 - r) * min(c + 1, 6 - c) for r in range(6) for c in range(6)]
    for place in range(12 * 15):
        shown = [(w, n) for w, n in zip(*np.nonzero(places == place), strict=True)]
        owners = [n for w, n in shown if owned[w, n]]
        assert len(owners) == 1 and depth[owners[0]] == max(depth[n] for _, n in shown)


@pytest.mark.parametrize("most", [1, 4, 7, 100])
def test_blocks_hold_all_windows_in_order_and_no_more_than_asked(most):
    windows = Windows.over((30, 20), (8, 8), 0.5)
    blocks = list(windows.blocks(most))
    assert np.array_equal(np.concatenate(blocks), np.arange(len(windows)))
    assert max(map(len, blocks)) <= most
    finished = [windows.finished(block) for block in blocks]
    assert finished == sorted(finished) and finished[-1] == 30


def test_a_mosaic_is_the_weighted_mean_of_what_windows_show():
    windows, rng = Windows.over((10, 9), (4, 4), 0.5), np.random.default_rng(0)
    pixels = rng.normal(size=(len(windows), 4, 4, 2)).astype(np.float32)
    weight = np.outer([1, 2, 2, 1], [1, 2, 2, 1])[..., None]
    total, weights = np.zeros((10, 9, 2)), np.zeros((10, 9, 1))
    mosaic, rows = Mosaic(9, 4, 2), []
    for which in windows.blocks(3):
        for i, (row, column) in zip(which, windows.corners(which), strict=True):
            mosaic.add(pixels[i], row, column)
            total[row : row + 4, column : column + 4] += pixels[i] * weight
            weights[row : row + 4, column : column + 4] += weight
        rows.append(mosaic.above(windows.finished(which)))
    np.testing.assert_allclose(np.concatenate(rows), total / weights, rtol=1e-4, atol=1e-6)
    assert max(len(part) for part in rows) <= 4


# ---- maps ----------------------------------------------------------------------------------------


def test_a_map_of_one_window_is_a_plain_call(pipe, scene):
    made = pipe.tiled({"rgb": scene}, ["semseg", "depth"], seed=4)
    plain = pipe({"rgb": scene}, ["semseg", "depth"], seed=4)
    assert np.array_equal(made["semseg"].value, plain["semseg"].values[0])
    np.testing.assert_allclose(made["depth"].value, plain["depth"].values[0], rtol=1e-5)
    drawn = pipe.tiled({"semseg": plain["semseg"].values[0]}, "rgb", seed=4, **DRAWN)["rgb"]
    alone = pipe({"semseg": plain["semseg"].values[0]}, "rgb", seed=4, **DRAWN)["rgb"]
    assert np.array_equal(drawn.ids.reshape(-1), alone.ids[0])
    assert np.abs(drawn.value.astype(int) - alone.values[0]).max() <= 1
    away = {**DRAWN, "negative": {"caption": "a red cube"}, "guidance_scale": 3.0}
    led = pipe.tiled({"semseg": plain["semseg"].values[0]}, "rgb", seed=4, **away)["rgb"]
    alone = pipe({"semseg": plain["semseg"].values[0]}, "rgb", seed=4, **away)["rgb"]
    assert np.array_equal(led.ids.reshape(-1), alone.ids[0])
    assert not np.array_equal(led.ids, drawn.ids)


def test_a_map_has_the_size_of_its_inputs_and_one_pass_needs_no_neighbours(pipe, wide):
    together = pipe.tiled({"rgb": wide}, "semseg", overlap=0.5)["semseg"]
    assert together.value.shape == (100, 150) and together.entropy.shape == (13, 19)
    in_turn = pipe.tiled({"rgb": wide}, "semseg", overlap=0.5, max_windows=1)["semseg"]
    assert np.array_equal(in_turn.value, together.value)
    assert 0 < together.entropy.mean() < np.log(240)


@pytest.mark.parametrize("scheme", ["halton", "roar", "maskgit", "entropy"])
@pytest.mark.parametrize("max_windows", [4, 64])
def test_overlapping_windows_are_sampled_jointly_in_bounded_memory(
    pipe, wide, monkeypatch, scheme, max_windows
):
    seen, decode = [], pipe.codecs["depth"].decode

    def watched(ids):
        seen.append(np.stack(ids))
        return decode(ids)

    monkeypatch.setattr(pipe.codecs["depth"], "decode", watched)
    settings = {"scheme": scheme, "steps": 3, "sweeps": 1, "decode": "ids", "temperature": 1.0}
    made = pipe.tiled({"rgb": wide}, "depth", max_windows=max_windows, **settings)["depth"]
    windows = Windows.over((13, 19), (8, 8), 0.25)
    shown = np.concatenate(seen)
    assert [len(ids) for ids in seen] == ([3, 3] if max_windows == 4 else [6])
    # what windows show of a token is one and the same
    assert np.array_equal(shown, made.ids.reshape(-1)[windows.places(np.arange(len(windows)))])
    assert made.value.shape == (100, 150, 1)[: made.value.ndim]


def test_a_later_target_is_given_the_maps_before_it(pipe, wide):
    both = pipe.tiled({"rgb": wide}, ["semseg", "normal"], **DRAWN)["normal"].value
    alone = pipe.tiled({"rgb": wide}, "normal", **DRAWN)["normal"].value
    assert both.shape == alone.shape and not np.array_equal(both, alone)
    # but not where one pass determines both
    both = pipe.tiled({"rgb": wide}, ["semseg", "normal"])["normal"].value
    alone = pipe.tiled({"rgb": wide}, "normal")["normal"].value
    assert np.array_equal(both, alone)
    drawn = {"semseg": SamplingOptions(**DRAWN)}
    after = pipe.tiled({"rgb": wide}, ["semseg", "normal"], options=drawn)["normal"].value
    assert not np.array_equal(after, alone)


@pytest.mark.parametrize("max_windows, passes", [(64, 1), (2, 3)])
def test_the_pass_that_tells_how_is_not_asked_again(pipe, wide, monkeypatch, max_windows, passes):
    """Where nobody says how a map is sampled, and one pass is what suits it."""
    said = pipe.tiled({"rgb": wide}, "semseg", max_windows=max_windows)["semseg"]
    seen, encode = [], pipe.model.encode
    monkeypatch.setattr(pipe, "options", {})
    monkeypatch.setattr(pipe.model, "encode", lambda s: seen.append(1) or encode(s))
    unsaid = pipe.tiled({"rgb": wide}, "semseg", max_windows=max_windows)["semseg"]
    assert len(seen) == passes
    assert np.array_equal(unsaid.value, said.value) and np.array_equal(unsaid.ids, said.ids)


@pytest.mark.parametrize(
    "inputs, targets, options, message",
    [
        ({"rgb": "wide"}, "caption", {}, "caption has no map"),
        ({"rgb": "wide", "depth": "wide"}, "depth", {}, "depth is a target and given"),
        (CAPTION, "rgb", {}, "a map is needed among the inputs"),
        ({"rgb": np.zeros((30, 200, 3), np.uint8)}, "depth", {}, "4 x 25 tokens, the model sees"),
        ({"rgb": "wide"}, "depth", {"overlap": 1.0}, "overlap must be at least 0 and less than 1"),
        ({"rgb": "wide"}, "depth", {"max_windows": 0}, "max_windows must be at least 1"),
        ({"rgb": "nothing.png"}, "depth", {}, "input rgb: no file nothing.png"),
        ({"rgb": "wide", "semseg": np.zeros((64, 64), np.uint8)}, "depth", {}, "in proportion"),
        ({"rgb": np.zeros(5)}, "depth", {}, "input rgb: a map is an array"),
        ({"rgb": "wide"}, "depth", {"negative": {"rgb": "x.png"}}, "negative rgb is a map"),
        ({"semseg": "wide"}, "rgb", {"negative": {"capton": "x"}}, "capton"),
    ],
)
def test_what_cannot_be_tiled_is_refused(pipe, wide, inputs, targets, options, message):
    given = {k: wide if isinstance(v, str) and v == "wide" else v for k, v in inputs.items()}
    with pytest.raises(UserError, match=message):
        pipe.tiled(given, targets, **options)


def test_the_command_makes_maps_that_can_be_given_again(pipe, wide, tmp_path, capsys):
    picture, out = tmp_path / "map.png", tmp_path / "out"
    Image.fromarray(wide).save(picture)
    tile = ["generate", "--tile", "--out", str(out), "--input"]
    main([*tile, f"rgb={picture}", "semseg"])
    assert str(out / "semseg.npy") in capsys.readouterr().out
    labels = np.load(out / "semseg.npy")
    assert np.array_equal(labels, pipe.tiled({"rgb": wide}, "semseg")["semseg"].value)
    assert Image.open(out / "semseg.png").size == (150, 100)
    main([*tile, f"semseg={out / 'semseg.npy'}", "depth"])
    assert np.load(out / "depth.npy").shape[:2] == (100, 150)
