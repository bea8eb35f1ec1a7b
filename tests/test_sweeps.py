"""Sweeps: what they ask again is answered from the model's own conditionals; nothing is known of a
token that is asked, everything of the others.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_sampling import SENTINELS, canvas, make_state, one

from fourm.batches.batch import MASK_QUERY, StreamRows
from fourm.errors import UserError
from fourm.sampling import asking
from fourm.sampling.choose import choose
from fourm.sampling.draws import Purpose, target_rng
from fourm.sampling.options import SamplingOptions, Sweep
from fourm.sampling.sampler import Sampler
from fourm.sampling.schemes import Halton, MaskGIT
from fourm.sampling.state import Branch, GridState, SampleState, encoder_stream
from fourm.sampling.sweeps import deal

UNSWEPT = SamplingOptions(scheme="halton", steps=3, guidance_scale=2.0)
GUIDED = ["caption"]


def swept(**settings) -> SamplingOptions:
    return replace(UNSWEPT, sweeps=1, sweep=Sweep(**settings))


def generate(model, state, options, target="rgb", seed=40):
    seeds = np.arange(seed, seed + state.num_samples)
    return Sampler(model, SENTINELS).generate(state, target, options, seeds, GUIDED)


def plain_logits(model, state, values, asked):
    """Guided logits of one sample's positions ``asked`` given all its other ``values``: a pass of
    the whole network for each branch, from nothing.
    """
    modalities, known = model.modalities, np.ones((1, len(values)), bool)
    known[0, asked] = False
    grids = {**state.grids, "rgb": GridState(values[None], known)}
    rows = StreamRows(1)
    query = np.full(len(asked), MASK_QUERY)
    rows.add(modalities.index("rgb"), np.zeros(len(asked), int), asked, query, query * 0)
    causal = np.array([m.kind == "sequence" for m in modalities])
    conditioned, unconditioned = (
        model.logits(
            model.decode(
                model.encode(
                    encoder_stream(
                        [Branch(dropped).of(SampleState(1, grids, state.sequences))], modalities
                    )
                ),
                rows.decoder(causal),
            ),
            "rgb",
        )
        for dropped in (frozenset(), frozenset(GUIDED))
    )
    return unconditioned + 2.0 * (conditioned - unconditioned)


@torch.inference_mode()
@pytest.mark.parametrize("parts", [1, 3, 11])
def test_each_token_of_a_sweep_is_asked_as_in_a_plain_call_that_is_given_all_others(
    modalities, model, parts, monkeypatch
):
    """11 tokens are open: with 11 parts each is asked alone, given all others."""
    asked_logits: list[torch.Tensor] = []

    def recorded(logits, *arguments):
        asked_logits.append(logits)
        return choose(logits, *arguments)

    monkeypatch.setattr(asking, "choose", recorded)
    state = make_state(modalities, 3)
    sweep = Sweep(parts=parts, temperature=0.5)
    found = generate(model, state, swept(parts=parts, temperature=0.5)).grids["rgb"].values
    before = generate(model, state, UNSWEPT).grids["rgb"].values
    seeds, rng = np.arange(40, 43), target_rng("rgb", 0)
    given = state.grids["rgb"].known
    part_of = deal(sweep, replace(canvas(modalities["rgb"], 3, parts), rng=rng, seeds=seeds,
                                  known=given))  # fmt: skip
    for part in range(parts):
        rows = asked_logits[3 + part]  # three steps come before
        plain = []
        for i in range(3):
            asked = np.flatnonzero(part_of[i] == part)
            plain.append(plain_logits(model, one(state, i), before[i], asked))
            uniform = rng.uniform(seeds[i], Purpose.TOKEN, part, asked)
            ids, _, _ = choose(plain[i], torch.from_numpy(uniform), 0.5)
            before[i, asked] = ids.numpy()
        torch.testing.assert_close(rows, torch.cat(plain), rtol=1e-4, atol=1e-5)
    assert np.array_equal(before, found)


SWEPT = {
    "rgb": swept(parts=3),
    "maskgit": replace(swept(parts=2), scheme=MaskGIT(noise=2.0), sweeps=2),
    "entropy": replace(swept(parts=2), scheme="entropy"),
    "greedy": replace(swept(parts=4, temperature=0.0), sweeps=4),
}


@pytest.mark.parametrize("name", SWEPT)
def test_a_swept_batch_equals_its_singles_seed_for_seed(modalities, model, name):
    state = make_state(modalities, 5)
    together = generate(model, state, SWEPT[name]).grids["rgb"]
    assert together.known.all()
    for i in range(5):
        alone = generate(model, one(state, i), SWEPT[name], seed=40 + i).grids["rgb"]
        assert np.array_equal(alone.values[0], together.values[i])
        np.testing.assert_allclose(alone.entropy[0], together.entropy[i], atol=1e-4)


def test_a_set_is_swept_in_random_order(modalities, model):
    state = make_state(modalities, 3)
    plain = SamplingOptions(scheme="roar", steps=2)
    one_sweep = replace(plain, sweeps=1, sweep=Sweep(parts=2, temperature=1.0))
    first, again = (generate(model, state, o, "code").grids["code"] for o in (plain, one_sweep))
    assert again.known.all() and not np.array_equal(first.values, again.values)


def test_a_sweep_changes_tokens_and_leaves_what_was_given(modalities, model):
    state = make_state(modalities, 4)
    plain, again = (generate(model, state, o).grids["rgb"] for o in (UNSWEPT, swept()))
    assert np.array_equal(again.values[:, :5], state.grids["rgb"].values[:, :5])
    assert not np.array_equal(plain.values, again.values)
    assert (again.entropy[:, :5] == 0).all() and (again.entropy[:, 5:] > 0).all()


def test_parts_of_a_sweep_are_of_equal_size_and_hold_every_open_token_once(modalities):
    drawn = canvas(modalities["rgb"], 4, steps=1)
    drawn.known[0, :5] = drawn.known[1] = True
    drawn.known[2, :14] = True
    part_of = deal(Sweep(parts=4), drawn)
    assert ((part_of == -1) == drawn.known).all()
    sizes = [np.bincount(row[row >= 0], minlength=4).tolist() for row in part_of]
    assert sorted(sizes[0]) == [2, 3, 3, 3] and sizes[1] == [0] * 4 and sizes[3] == [4] * 4
    assert sizes[2] == [1, 1, 0, 0]
    other = deal(Sweep(parts=4), replace(drawn, rng=target_rng("rgb", 1)))
    assert (part_of[3] != other[3]).any()  # each sweep deals by numbers of its own


def num_passes(model, monkeypatch, state, options):
    calls, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda stream: calls.append(1) or encode(stream))
    grid = generate(model, state, options).grids["rgb"]
    monkeypatch.undo()
    return len(calls), grid


def test_at_temperature_0_sweeps_end_where_nothing_changes_any_more(modalities, model, monkeypatch):
    state = make_state(modalities, 3)
    many = replace(swept(parts=11, temperature=0.0), sweeps=50)
    passes, grid = num_passes(model, monkeypatch, state, many)
    assert 3 + 11 < passes < 3 + 11 * 50
    more = replace(many, sweeps=60)
    assert np.array_equal(generate(model, state, more).grids["rgb"].values, grid.values)
    # a fixed point: each token is the likeliest given all others
    with torch.inference_mode():
        for i in range(3):
            for position in range(5, 16):
                logits = plain_logits(model, one(state, i), grid.values[i], np.array([position]))
                assert logits.argmax(-1).item() == grid.values[i, position]


def test_the_steps_of_sweeps_are_reported(modalities, model):
    state = make_state(modalities, 1)
    options = replace(swept(parts=2), sweeps=2)
    steps = Sampler(model, SENTINELS).steps(state, "rgb", options, np.arange(1), GUIDED)
    assert [(step.done, step.num_steps) for step in steps] == [(i + 1, 7) for i in range(7)]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"parts": 0}, "parts must be at least 1, not 0"),
        ({"temperature": float("nan")}, "temperature must be 0 or from"),
        ({"temperature": -1.0}, "temperature must be 0 or from"),
        ({"order": "maskgit"}, "must be known in advance; that of maskgit is not"),
        ({"order": "haltn"}, "did you mean 'halton'"),
        ({"partz": 3}, "unknown key 'partz'"),
    ],
)
def test_a_wrong_sweep_is_refused_with_a_sentence(wrong, message):
    with pytest.raises(UserError, match=message):
        SamplingOptions(sweep=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        SamplingOptions.read({"sweep": wrong}, "f")


def test_sweeps_are_given_in_yaml_and_from_python_alike():
    read = SamplingOptions.read({"sweeps": 2, "sweep": {"parts": 8, "order": "halton"}}, "f")
    assert read == SamplingOptions(sweeps=2, sweep=Sweep(parts=8, order=Halton()))
