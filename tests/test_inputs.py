"""What a call of the pipeline is given: files and arrays read as shards are, lists and single
values together, parts of pictures that stay as they are, targets and weights that name what is
given.
"""

import io
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from fourm import AnyToAnyPipeline, Partial, Tokens
from fourm.data.npy import write_npy
from fourm.errors import UserError
from fourm.pipeline.given import Partial as Part
from fourm.pipeline.given import pixel_mask, token_mask
from fourm.resources import demo_model_folder

CAPTION = {"caption": "a large red cube left of a small blue sphere"}
STEPS = {"steps": 2, "sweeps": 0}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def scene(pipe) -> dict:
    out = pipe(CAPTION, ["rgb", "depth", "normal", "semseg"], seed=3)
    return {name: result.values[0] for name, result in out.items()}


# ---- raw forms -----------------------------------------------------------------------------------


def as_picture(name: str, value: np.ndarray, raw, size: int = 0) -> Image.Image:
    """A value as the picture file that data sets hold."""
    if name == "depth":
        low, high = raw.bounds
        steps = ((value.clip(low, high) - low) / (high - low) * 65535).round().astype(np.uint16)
        picture = Image.fromarray(steps)
    else:
        picture = Image.open(io.BytesIO(raw.write(value)))
    return picture.resize((size, size), Image.Resampling.NEAREST) if size else picture


@pytest.mark.parametrize("name", ["rgb", "depth", "normal", "semseg"])
@pytest.mark.parametrize("size", [0, 150])
def test_a_picture_is_read_as_shards_read_it_in_every_form_that_it_is_given(
    pipe, scene, tmp_path, name, size
):
    raw = pipe.modalities[name].raw
    picture = as_picture(name, scene[name], raw, size)
    path = tmp_path / f"{name}.png"
    picture.save(path)
    expected = raw.read(path.read_bytes(), "png")
    given = [picture, Image.open(path), path, str(path)]
    if name == "rgb":
        given.append(np.asarray(picture))
    states = [pipe.encode({name: value}) for value in given]
    whole = pipe.encode({name: expected})
    for state in states:
        for key, grid in whole.grids.items():
            assert np.array_equal(state.grids[key].values, grid.values)
    assert np.array_equal(raw.from_argument(str(path)), expected)
    if name == "depth" and not size:  # a value as npy and as PNG is the same value
        np.testing.assert_allclose(expected, scene[name], atol=1e-3)


def test_arrays_and_lists_of_pictures_are_samples(pipe, scene, tmp_path):
    rgb, depth = scene["rgb"], scene["depth"]
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (tmp_path / "d.npy").write_bytes(write_npy(depth))
    (tmp_path / "c.txt").write_text("a red cube\n")
    one = pipe.encode({"rgb": rgb}).grids["pixels"].values
    for many in (
        np.stack([rgb, rgb]),
        [Image.fromarray(rgb)] * 2,
        (rgb, tmp_path / "a.png"),
        [str(tmp_path / "a.png"), Image.fromarray(rgb)],
    ):
        found = pipe.encode({"rgb": many}).grids["pixels"].values
        assert found.shape[0] == 2 and (found == one).all()
    assert pipe.encode({"depth": np.stack([depth] * 3)}).num_samples == 3
    files = pipe.encode({"depth": tmp_path / "d.npy", "caption": tmp_path / "c.txt"})
    told = pipe.encode({"depth": depth, "caption": "a red cube"})
    assert np.array_equal(files.grids["depth"].values, told.grids["depth"].values)
    assert np.array_equal(files.sequences["caption"][0], told.sequences["caption"][0])
    with pytest.raises(UserError, match="input caption: no file"):
        pipe.encode({"caption": tmp_path / "none.txt"})


# ---- how many ------------------------------------------------------------------------------------


def test_one_condition_is_for_all_and_num_samples_of_lists_is_so_many_of_each(pipe, scene):
    pictures = [scene["rgb"], scene["rgb"][::-1], scene["rgb"][:, ::-1]]
    state = pipe.encode({"rgb": pictures, **CAPTION})
    assert state.num_samples == len(state.sequences["caption"]) == 3
    two = pipe.encode({"rgb": pictures, **CAPTION}, 6).grids["pixels"].values
    assert np.array_equal(two, state.grids["pixels"].values.repeat(2, 0))
    with pytest.raises(UserError, match="counts all samples, e.g. 6 for two of each"):
        pipe.encode({"rgb": pictures}, 2)


def test_samples_of_a_list_are_as_alone_where_some_are_given_in_part(pipe, scene):
    keep = np.zeros((8, 8), bool)
    keep[:4] = True
    part = Partial(scene["rgb"], keep)
    both = pipe({"rgb": [scene["rgb"], part]}, "semseg", seed=4, temperature=0.0, steps=1)
    for i, value in enumerate((scene["rgb"], part)):
        alone = pipe({"rgb": value}, "semseg", seed=4 + i, temperature=0.0, steps=1)["semseg"]
        assert np.array_equal(both["semseg"].ids[i], alone.ids[0])


# ---- parts ---------------------------------------------------------------------------------------


def test_given_pixels_stay_as_they_are_unless_they_are_not_to(pipe, scene):
    rgb = scene["rgb"].copy()
    keep = np.ones(rgb.shape[:2], bool)
    keep[10:33, 20:45] = False  # cuts through tokens
    given = {"rgb": Partial(np.where(keep[..., None], rgb, 255 - rgb), keep), **CAPTION}
    pasted = pipe(given, "rgb", **STEPS)["rgb"]
    plain = pipe(given, "rgb", paste=False, **STEPS)["rgb"]
    assert np.array_equal(pasted.values[0][keep], rgb[keep])
    assert np.array_equal(pasted.values[0][~keep], plain.values[0][~keep])
    assert not np.array_equal(plain.values[0][keep], rgb[keep])
    assert np.array_equal(pasted.ids[0], plain.ids[0])


def test_a_mask_may_have_the_size_of_the_picture_itself(pipe, scene):
    m = pipe.modalities["rgb"]
    large = Image.fromarray(scene["rgb"]).resize((200, 160))
    keep = np.ones((160, 200), bool)
    keep[:80] = False
    part = Part(large, keep)
    assert pixel_mask(part, m).shape == (m.raw.pixels, m.raw.pixels)
    assert np.array_equal(token_mask(part, m, 64).reshape(8, 8), np.arange(8)[:, None] >= [4] * 8)
    keep[80, 100] = False  # one pixel of the picture: the token is not whole
    assert token_mask(Part(large, keep), m, 64).sum() == 31
    with pytest.raises(UserError, match=r"shape \(9, 9\).*64 tokens or 64 x 64.*own 160 x 200"):
        pipe({"rgb": Partial(large, np.ones((9, 9), bool))}, "rgb")


# ---- targets and weights -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rgb", "depth", "caption"])
def test_a_target_that_is_given_whole_is_kept_and_told(pipe, scene, name):
    value = {**scene, **CAPTION}[name]
    with pytest.warns(UserWarning, match=f"{name} is a target and given whole"):
        out = pipe({name: value}, [name, "semseg"], seed=1, chain=False, temperature=0.0, steps=1)
    assert np.array_equal(out[name].ids[0], pipe.codecs[name].encode([value])[0])
    alone = pipe({name: value}, "semseg", seed=1, temperature=0.0, steps=1)
    assert np.array_equal(out["semseg"].ids[0], alone["semseg"].ids[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe({name: value}, "semseg", steps=1)
    with pytest.raises(UserError, match="a target is named twice: depth, depth"):
        pipe(CAPTION, ["depth", "depth"])


def test_weights_may_name_a_picture_that_is_read_as_pixels_and_later_targets(pipe, scene):
    given = {"rgb": scene["rgb"], **CAPTION}
    told = {"caption": 1.5, "rgb": 2.0}
    named = pipe(given, "depth", condition_weights=told, **STEPS)["depth"]
    pixels = {"caption": 1.5, "pixels": 2.0}
    same = pipe(given, "depth", condition_weights=pixels, **STEPS)["depth"]
    assert np.array_equal(named.ids[0], same.ids[0])
    chain = {"caption": 2.0, "depth": 1.5}
    out = pipe(CAPTION, ["depth", "rgb"], condition_weights=chain, **STEPS)
    first = pipe(CAPTION, "depth", condition_weights={"caption": 2.0}, **STEPS)
    assert np.array_equal(out["depth"].ids[0], first["depth"].ids[0])
    with pytest.raises(UserError, match="condition_weights names 'normal', which is not given"):
        pipe(CAPTION, "depth", condition_weights={"normal": 1.0}, **STEPS)


# ---- folders -------------------------------------------------------------------------------------


def test_a_pipeline_is_saved_onto_itself(tmp_path, pipe):
    folder = tmp_path / "model"
    shutil.copytree(demo_model_folder(), folder)
    own = AnyToAnyPipeline.from_pretrained(folder)
    expected = own(CAPTION, "depth", steps=1)["depth"].ids[0]
    own.save_pretrained(folder)
    again = AnyToAnyPipeline.from_pretrained(folder)
    assert np.array_equal(again(CAPTION, "depth", steps=1)["depth"].ids[0], expected)
    assert np.array_equal(own(CAPTION, "depth", steps=1)["depth"].ids[0], expected)


def test_ids_out_of_the_vocabulary_are_named(pipe):
    for wrong in (-1, 240):
        with pytest.raises(UserError, match=f"id {wrong} is outside the vocabulary of 240"):
            pipe({"depth": Tokens(np.full(64, wrong))}, "rgb")


# ---- more mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs, options, message",
    [
        (CAPTION, {"condition_weights": {"rgb": 2.0}}, "names 'rgb', which is not given"),
        (CAPTION, {"chain": "no"}, "chain is True or False, not 'no'"),
        (CAPTION, {"paste": 1}, "paste is True or False, not 1"),
        (CAPTION, {"callback_on_step_end": 5}, "callback_on_step_end is a function, not 5"),
        (CAPTION, {"seed": ""}, "seed must be a whole number, not ''"),
        (CAPTION, {"negative_prompt": "dull"}, "unknown sampling option 'negative_prompt'"),
        (
            {"rgb": Partial(np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 0.5))},
            {},
            "input rgb: a mask holds True",
        ),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(pipe, inputs, options, message):
    with pytest.raises(UserError, match=message):
        pipe(inputs, "rgb", **{**STEPS, **options})


def test_a_target_that_is_given_comes_back_as_it_was_given(pipe, scene):
    with pytest.warns(UserWarning, match="given whole") as told:
        out = pipe({"depth": scene["depth"], "rgb": scene["rgb"]}, ["depth", "rgb"])
    for name in ("depth", "rgb"):
        assert np.array_equal(out[name].values[0], scene[name])
    assert {warning.filename for warning in told} == {__file__}
    with pytest.warns(UserWarning, match="given whole"):
        decoded = pipe({"depth": scene["depth"]}, "depth", paste=False)["depth"].values[0]
    assert not np.array_equal(decoded, scene["depth"])


def test_what_is_given_beside_weighted_conditions_is_seen(pipe, scene):
    weights = {"condition_weights": {"caption": 2.0}}
    given = {**CAPTION, "depth": scene["depth"]}
    beside, alone = (
        pipe(inputs, "rgb", seed=1, **STEPS, **weights)["rgb"].ids[0] for inputs in (given, CAPTION)
    )
    assert not np.array_equal(beside, alone)
    # u + w (c - u), both with the depth
    state, index = pipe.encode(given), pipe.modalities.index("rgb")
    assert set(state.present) == {"caption", "depth"} and index == 0
    once = {"steps": 1, "temperature": 0.0, "decode": "ids", "scheme": "roar"}
    one = {**weights, "condition_weights": {"caption": 1.0}}
    plain = pipe(given, "rgb", **{**once, "sweeps": 0, "guidance_scale": 1.0})["rgb"].ids[0]
    assert np.array_equal(pipe(given, "rgb", **once, **one, sweeps=0)["rgb"].ids[0], plain)
