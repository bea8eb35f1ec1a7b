"""What breaks in the reference without a word, and no other test of ours would notice."""

import numpy as np
import pytest

from fourm import AnyToAnyPipeline
from fourm.resources import demo_model_folder

CAPTION = {"caption": "a large red cube left of a small blue sphere"}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


def test_a_generated_text_conditions_and_guides_what_comes_after_it_as_a_given_one_does(pipe):
    """There, texts that a chain had made were left out of the guided branch."""
    depth = {"depth": pipe(CAPTION, ["depth"], seed=3)["depth"].values[0]}
    once = {"scheme": "halton", "steps": 4, "temperature": 0.0, "guidance_scale": 3.0}
    chained = pipe(depth, ["caption", "rgb"], **once)
    text = chained["caption"].texts[0]
    given = pipe({**depth, "caption": text}, ["rgb"], **once)
    assert np.array_equal(chained["rgb"].ids[0], given["rgb"].ids[0])
    without = pipe(depth, ["rgb"], **once)
    assert not np.array_equal(chained["rgb"].ids[0], without["rgb"].ids[0])


def test_seed_0_is_a_seed_as_any_other(pipe):
    """There, 0 was taken for none."""
    first, again, other = (
        pipe(CAPTION, ["rgb"], seed=seed, steps=4)["rgb"].ids[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_samples_that_need_nothing_come_back_beside_those_that_do(pipe):
    """There, a batch in which nothing was left to write came back as something else."""
    texts = ["a large red cube left of a small blue sphere", "a [S_1] red cube"]
    with pytest.warns(UserWarning, match="stays as it is given"):
        whole = pipe({"caption": texts[0]}, ["caption"])["caption"]
        mixed = pipe({"caption": texts}, ["caption"])["caption"]
    assert whole.texts == [texts[0]] == mixed.texts[:1]
    assert mixed.texts[1] != texts[1] and "[S_" not in mixed.texts[1]
