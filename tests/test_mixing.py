"""Variations of a value, what lies between two, one box of a list, what is outside of a picture,
and what several samples say together.
"""

import numpy as np
import pytest
from PIL import Image

from fourm import AnyToAnyPipeline, Partial, Tokens
from fourm.cli import main
from fourm.errors import UserError
from fourm.pipeline.generated import Generated
from fourm.pipeline.mixing import ensemble
from fourm.resources import demo_model_folder

CAPTION = {"caption": "a large red cube left of a small blue sphere"}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def pictures(pipe) -> list[np.ndarray]:
    return pipe(CAPTION, "rgb", num_samples=2, seed=3)["rgb"].values


def test_a_variation_keeps_the_share_of_tokens_that_was_asked_for(pipe, pictures):
    ids = pipe.codecs["rgb"].encode(pictures[:1])[0]
    given = pipe.vary("rgb", pictures[0], 0.5, seed=1)
    assert given.keep is not None and given.keep.sum() == 32
    made = pipe({"rgb": given}, "rgb", num_samples=3, steps=4)["rgb"]
    for found in made.ids:
        assert np.array_equal(found[given.keep], ids[given.keep])
    assert not np.array_equal(made.ids[0], made.ids[1])
    more = pipe.vary("rgb", pictures[0], 0.75, seed=1).keep
    assert more is not None and (more >= given.keep).all()
    assert not np.array_equal(given.keep, pipe.vary("rgb", pictures[0], 0.5, seed=2).keep)


def test_between_two_values_one_becomes_the_other_token_by_token(pipe, pictures):
    first, second = pipe.codecs["rgb"].encode(pictures)
    differ = [
        (pipe.between("rgb", *pictures, share).ids != first).sum() for share in (0, 0.3, 0.6, 1)
    ]
    assert differ == sorted(differ) and differ[0] == 0
    assert np.array_equal(pipe.between("rgb", *pictures, 1.0).ids, second)
    out = pipe({"rgb": [pipe.between("rgb", *pictures, t) for t in (0.0, 0.5, 1.0)]}, "depth")
    assert len(out["depth"].values) == 3


@pytest.mark.parametrize(
    "name, share, message",
    [
        ("caption", 0.5, "caption is a sequence"),
        ("rgb", 1.5, "must be from 0 to 1, not 1.5"),
        ("pixels", 0.5, "pixels has no tokens"),
    ],
)
def test_what_cannot_be_varied_is_refused(pipe, pictures, name, share, message):
    with pytest.raises(UserError, match=message):
        pipe.vary(name, "a cube" if name == "caption" else pictures[0], share)


def test_one_box_of_a_list_is_changed_and_the_others_stay(pipe, pictures):
    boxes = pipe({"rgb": pictures[0]}, "boxes")["boxes"].values[0]
    assert len(boxes) > 1
    changed = pipe({"boxes": ["[S_1]", *boxes[1:]], **CAPTION}, "boxes", seed=4)["boxes"].values[0]
    kept = changed[len(changed) - len(boxes) + 1 :]
    assert kept == boxes[1:]


def test_what_lies_outside_of_a_picture_is_found_and_the_picture_stays(pipe, pictures):
    keep = np.zeros((64, 64), bool)
    keep[16:48, 16:48] = True
    made = pipe({"rgb": Partial(pictures[0], keep), **CAPTION}, "rgb", seed=9)["rgb"]
    assert np.array_equal(made.values[0][keep], pictures[0][keep])
    assert not np.array_equal(made.values[0][~keep], pictures[0][~keep])
    assert (made.entropy[0][2:6, 2:6] == 0).all() and (made.entropy[0][0] > 0).any()


def test_an_ensemble_is_the_mean_and_what_most_say_with_where_samples_differ(pipe):
    rng = np.random.default_rng(0)
    classes = [rng.integers(0, 3, (64, 64)).astype(np.uint8) for _ in range(3)]
    semseg = pipe.modalities["semseg"]
    together = ensemble(Generated(semseg, classes, [], []))
    first, second, third = classes
    most = np.where((second == third) & (first != second), second, first)
    agreed = (first == second) | (first == third) | (second == third)
    assert np.array_equal(together.value[agreed], most[agreed])
    alike = (first == second) & (second == third)
    assert (together.spread[alike] == 0).all()
    np.testing.assert_allclose(together.spread[agreed & ~alike], 1 / 3)
    maps = [rng.uniform(3, 12, (64, 64)).astype(np.float32) for _ in range(4)]
    together = ensemble(Generated(pipe.modalities["depth"], maps, [], []))
    np.testing.assert_allclose(together.value, np.mean(maps, 0), rtol=1e-5)
    np.testing.assert_allclose(together.spread, np.std(maps, 0), rtol=1e-4)
    assert semseg.raw.check(ensemble(Generated(semseg, classes, [], [])).value).dtype == np.uint8
    with pytest.raises(UserError, match="caption has no pixels"):
        ensemble(Generated(pipe.modalities["caption"], ["a"], [], []))


def test_the_command_varies_and_tells_where_samples_differ(pictures, tmp_path, capsys):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    given, out = ["--input", f"rgb={tmp_path / 'a.png'}"], tmp_path / "out"
    many = ["generate", *given, "rgb", "--steps", "2", "--num", "3", "--out", str(out)]
    main([*many, "--vary", "0.5", "--ensemble"])
    spread = np.load(out / "values" / "rgb" / "ensemble-spread.npy")
    assert spread.shape == (64, 64) and spread.max() > 0
    assert Image.open(out / "rgb-ensemble-spread.png").size == (256, 256)
    assert str(out / "rgb-ensemble.png") in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["generate", *given, "depth", "--vary", "0.5", "--out", str(out)])
    assert ended.value.code == 2 and "name one as --input, too" in capsys.readouterr().err


def test_tokens_of_a_variation_are_tokens(pipe, pictures):
    assert isinstance(pipe.vary("rgb", pictures[0]), Tokens)
