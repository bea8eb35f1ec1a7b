"""What is not wanted: guidance leads away from it, by the formula that is said, in grids and in
sequences; with weight 0 it is as if it were not there.
"""

import json

import numpy as np
import pytest
import torch
from test_sampling import SENTINELS, make_state

from fourm import AnyToAnyPipeline
from fourm.batches.batch import MASK_QUERY, StreamRows
from fourm.cli import main
from fourm.errors import UserError
from fourm.modalities import END_ID
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import Branch, SampleState, encoder_stream

SEEDS = np.arange(3)
NEGATIVE = SampleState(3, sequences={"caption": [np.array([50 + i, 77, END_ID]) for i in range(3)]})
WANTED = {"caption": "a large red cube"}
UNWANTED = {"caption": "a large blue sphere"}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


def logits(model, state, branch, target="rgb"):
    """Of the open tokens of a grid, in a pass of their own."""
    sample, position = np.nonzero(~state.grids[target].known)
    rows = StreamRows(state.num_samples)
    query = np.full(len(sample), MASK_QUERY)
    rows.add(model.modalities.index(target), sample, position, query, 0 * query)
    causal = np.array([m.kind == "sequence" for m in model.modalities])
    with torch.inference_mode():
        encoded = model.encode(encoder_stream([branch.of(state)], model.modalities))
        return model.logits(model.decode(encoded, rows.decoder(causal)), target)


@pytest.mark.parametrize(
    "settings, weights",
    [
        # weights of: all, nothing, the negative, depth alone
        ({"guidance_scale": 3.0}, (3, 0, -2, 0)),
        ({"guidance_scale": 3.0, "negative_weight": 1.5}, (3, -0.5, -1.5, 0)),
        ({"negative_weight": 20.0}, (1, 20, -20, 0)),
        ({"condition_weights": {"depth": 2.0}, "negative_weight": 1.0}, (0, 0, -1, 2)),
    ],
    ids=str,
)
def test_guided_ids_are_those_of_the_formula_from_separate_passes(
    modalities, model, settings, weights
):
    state, conditions = make_state(modalities, 3), ["caption", "depth"]
    options = SamplingOptions(scheme="roar", steps=1, temperature=0.0, **settings)
    made = Sampler(model, SENTINELS).generate(state, "rgb", options, SEEDS, conditions, NEGATIVE)
    nothing = frozenset(conditions)
    branches = Branch(), Branch(nothing), Branch(nothing, NEGATIVE), Branch(frozenset({"caption"}))
    each = [logits(model, state, branch) for branch in branches]
    wanted = sum(w * part for w, part in zip(weights, each, strict=True))
    found = made.grids["rgb"].values[np.nonzero(~state.grids["rgb"].known)]
    assert np.array_equal(found, wanted.argmax(-1).numpy())
    assert not np.array_equal(found, each[0].argmax(-1).numpy())


@pytest.mark.parametrize("target", ["rgb", "boxes"])
def test_weight_0_is_as_without_and_a_negative_that_is_the_condition_as_unguided(
    modalities, model, target
):
    state, sampler = make_state(modalities, 3), Sampler(model, SENTINELS)

    def made(negative, **settings):
        options = SamplingOptions(scheme="halton", steps=3, temperature=0.6, **settings)
        found = sampler.generate(state, target, options, SEEDS, ["caption"], negative).found(target)
        return [ids.tolist() for ids in (found if isinstance(found, list) else found.values)]

    guided = made(None, guidance_scale=2.0)
    assert made(NEGATIVE, guidance_scale=2.0, negative_weight=0.0) == guided
    assert made(NEGATIVE, guidance_scale=2.0) != guided
    assert made(NEGATIVE, guidance_scale=2.0, negative_weight=1.0) != guided
    same = SampleState(3, sequences={"caption": state.sequences["caption"]})
    assert made(same, guidance_scale=3.0) == made(None)


def test_a_pipeline_leads_away_from_what_is_negative(pipe):
    """By its own judgement: the caption that was not wanted is less likely of what was made."""
    settings = {"steps": 4, "scheme": "halton", "temperature": 0.5, "guidance_scale": 2.0}
    plain = pipe({}, "rgb", seed=5, num_samples=4, **settings)["rgb"]
    away = pipe({}, "rgb", seed=5, num_samples=4, negative=UNWANTED, **settings)["rgb"]
    before, after = (
        pipe.score({"rgb": made.values}, UNWANTED)["caption"].mean() for made in (plain, away)
    )
    assert after < before


@pytest.mark.parametrize(
    "negative, settings, message",
    [
        (UNWANTED, {}, "set guidance_scale to more than 1, or say negative_weight"),
        (UNWANTED, {"condition_weights": {"caption": 2.0}}, "or say negative_weight"),
        (None, {"negative_weight": 1.0}, "negative_weight is of what is negative"),
        ({"rgb": np.zeros((32, 32, 3), np.uint8)}, {}, "negative names rgb, which is a target"),
        ({"captoin": "a cube"}, {}, "unknown modality 'captoin'"),
        ({"caption": ["a", "b"]}, {"guidance_scale": 2.0}, "negative has 2 samples, the call 1"),
        (UNWANTED, {"negative_weight": float("nan")}, "must be a finite number"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_a_negative_that_means_nothing_is_refused(pipe, negative, settings, message):
    with pytest.raises(UserError, match=message):
        pipe(WANTED, "rgb", negative=negative, **{"steps": 1, "guidance_scale": 1.0, **settings})


def test_the_command_takes_what_is_not_wanted(pipe, tmp_path, capsys):
    call = ["generate", "--caption", WANTED["caption"], "rgb", "--steps", "2", "--guidance", "2.5"]
    main([*call, "--negative", f"caption={UNWANTED['caption']}", "--out", str(tmp_path / "out")])
    direct = pipe(WANTED, "rgb", negative=UNWANTED, steps=2, guidance_scale=2.5)["rgb"].values[0]
    written = tmp_path / "out" / "values" / "rgb" / "0.png"
    assert np.array_equal(pipe.modalities["rgb"].raw.from_argument(str(written)), direct)
    request = json.loads((tmp_path / "out" / "manifest.json").read_text())["request"]
    assert request["negative"] == UNWANTED
    with pytest.raises(SystemExit):
        main([*call, "--negative", "caption", "--out", str(tmp_path / "bad")])
    assert "--negative 'caption' is not of the form NAME=VALUE" in capsys.readouterr().err
