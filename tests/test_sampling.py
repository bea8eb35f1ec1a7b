"""Sampling: a function of (weights, inputs, seed) alone; cached equals uncached; partial inputs are
kept; schemes do what they say.
"""

import numpy as np
import pytest
import torch

from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID
from fourm.rng import CounterRNG
from fourm.sampling.autoregressive import UncachedDecoder, fill_gaps
from fourm.sampling.choose import choose, filtered
from fourm.sampling.options import SamplingOptions, tokens_done
from fourm.sampling.orders import halton_order, random_order
from fourm.sampling.sampler import Sampler, _best, _within_bound
from fourm.sampling.state import GridState, SampleState

SENTINELS = {"caption": 16, "boxes": 16}


def make_state(modalities, num, seed=0):
    """Depth and a caption are known, the first half of rgb as well; caption lengths differ."""
    rng = np.random.default_rng(seed)
    rgb_known = np.zeros((num, 16), bool)
    rgb_known[:, :5] = True
    return SampleState(
        num,
        {
            "depth": GridState(rng.integers(0, 24, (num, 16)), np.ones((num, 16), bool)),
            "rgb": GridState(rng.integers(0, 60, (num, 16)), rgb_known),
        },
        {"caption": [np.array([*rng.integers(40, 120, 3 + i % 4), END_ID]) for i in range(num)]},
    )


def one(state, i):
    return SampleState(
        1,
        {k: GridState(g.values[i : i + 1], g.known[i : i + 1]) for k, g in state.grids.items()},
        {k: [s[i]] for k, s in state.sequences.items()},
    )


OPTIONS = {
    "maskgit": SamplingOptions(scheme="maskgit", steps=5, guidance_scale=2.0),
    "maskgit remasked": SamplingOptions(scheme="maskgit", steps=5, remask=0.3),
    "roar": SamplingOptions(
        scheme="roar", steps=4, guidance_scale=2.0, top_p=0.9, schedule="linear"
    ),
    "halton": SamplingOptions(
        scheme="halton", steps=4, top_k=7, guidance_scale=3.0, guidance_schedule="linear"
    ),
    "raster": SamplingOptions(scheme="raster", steps=16, temperature=0.5),
    "entropy": SamplingOptions(scheme="entropy", steps=16, entropy_bound=6.0),
    "weighted": SamplingOptions(
        scheme="roar", steps=3, condition_weights={"caption": 2.0, "depth": -0.5}
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_of_eight_equals_eight_batches_of_one_seed_for_seed(modalities, model, name):
    state, seeds = make_state(modalities, 8), np.arange(40, 48)
    sampler = Sampler(model, SENTINELS)
    together = sampler.generate(state, "rgb", OPTIONS[name], seeds, ["caption", "depth"]).grids[
        "rgb"
    ]
    assert together.known.all()
    for i in range(8):
        alone = sampler.generate(
            one(state, i), "rgb", OPTIONS[name], seeds[i : i + 1], ["caption", "depth"]
        ).grids["rgb"]
        assert np.array_equal(alone.values[0], together.values[i])


def test_sequences_of_a_batch_equal_those_sampled_alone(modalities, model):
    state, seeds = make_state(modalities, 6), np.arange(6)
    options = SamplingOptions(temperature=0.8, guidance_scale=1.5)
    sampler = Sampler(model, SENTINELS)
    together = sampler.generate(state, "boxes", options, seeds, ["caption"]).sequences["boxes"]
    for i in range(6):
        alone = sampler.generate(
            one(state, i), "boxes", options, seeds[i : i + 1], ["caption"]
        ).sequences["boxes"]
        assert np.array_equal(alone[0], together[i])


def test_cached_decoding_equals_uncached(modalities, model):
    state, seeds = make_state(modalities, 5), np.arange(5)
    for scale in (1.0, 2.5):
        results = []
        for uncached in (False, True):
            sampler = Sampler(model, SENTINELS)
            if uncached:
                sampler.decoder_type = UncachedDecoder
            results.append(
                sampler.generate(
                    state,
                    "boxes",
                    SamplingOptions(guidance_scale=scale),
                    seeds,
                    ["caption", "depth"],
                )
            )
        for cached, plain in zip(
            results[0].sequences["boxes"], results[1].sequences["boxes"], strict=True
        ):
            assert np.array_equal(cached, plain)


def test_guidance_in_one_pass_equals_separate_passes_on_the_same_positions(modalities, model):
    """Greedy, one step: the guided ids are the argmax of u + s (c - u) of two separate forward
    passes.
    """
    from fourm.batch import MASK_QUERY, StreamRows
    from fourm.sampling.state import encoder_stream

    state = make_state(modalities, 3)
    options = SamplingOptions(scheme="roar", steps=1, temperature=0.0, guidance_scale=3.0)
    guided = (
        Sampler(model, SENTINELS)
        .generate(state, "rgb", options, np.arange(3), ["caption"])
        .grids["rgb"]
        .values
    )
    logits = []
    causal = np.array([m.kind == "sequence" for m in modalities])
    for dropped in (frozenset(), frozenset({"caption"})):
        rows = StreamRows(3)
        sample, position = np.nonzero(~state.grids["rgb"].known)
        rows.add(
            modalities.index("rgb"), sample, position, np.full(len(sample), MASK_QUERY), sample * 0
        )
        with torch.no_grad():
            hidden = model.decode(
                model.encode(encoder_stream(state, modalities, [dropped])), rows.decoder(causal)
            )
            logits.append(model.logits(hidden, "rgb"))
    expected = (logits[1] + 3.0 * (logits[0] - logits[1])).argmax(-1).numpy()
    assert np.array_equal(guided[sample, position], expected)


def test_given_tokens_stay_and_the_caller_s_state_is_not_changed(modalities, model):
    state = make_state(modalities, 4)
    before = state.grids["rgb"].values.copy()
    result = Sampler(model, SENTINELS).generate(
        state, "rgb", OPTIONS["maskgit remasked"], np.arange(4), ["caption"]
    )
    assert np.array_equal(result.grids["rgb"].values[:, :5], before[:, :5])
    assert (
        np.array_equal(state.grids["rgb"].values, before)
        and not state.grids["rgb"].known[:, 5:].any()
    )


def test_global_generators_are_neither_read_nor_moved(modalities, model):
    state = make_state(modalities, 2)
    torch.manual_seed(1)
    np.random.seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = (
        Sampler(model, SENTINELS)
        .generate(state, "rgb", OPTIONS["maskgit"], np.arange(2), [])
        .grids["rgb"]
        .values
    )
    assert torch.equal(torch_state, torch.get_rng_state()) and np.array_equal(
        numpy_state, np.random.get_state()[1]
    )
    torch.manual_seed(2)
    assert np.array_equal(
        first,
        Sampler(model, SENTINELS)
        .generate(state, "rgb", OPTIONS["maskgit"], np.arange(2), [])
        .grids["rgb"]
        .values,
    )


def test_gaps_of_a_text_are_filled_and_the_rest_is_kept(modalities, model):
    given = np.array([50, FIRST_SENTINEL, 60, 61, FIRST_SENTINEL + 1, END_ID])
    decoded = np.array([FIRST_SENTINEL, 70, 71, FIRST_SENTINEL + 1, 72, FIRST_SENTINEL + 2])
    assert fill_gaps(given, decoded, SENTINEL_ID + 15, 20).tolist() == [
        50,
        70,
        71,
        60,
        61,
        72,
        END_ID,
    ]
    # what was given stays
    assert fill_gaps(given, decoded, SENTINEL_ID + 15, 5).tolist() == [50, 70, 60, 61, END_ID]
    ended = np.array([FIRST_SENTINEL, 70, END_ID])
    assert fill_gaps(given, ended, SENTINEL_ID + 15, 20).tolist() == [50, 70, 60, 61, END_ID]
    state = make_state(modalities, 1)
    state.sequences["boxes"] = [given]
    result = (
        Sampler(model, SENTINELS)
        .generate(state, "boxes", SamplingOptions(), np.array([3]), [])
        .sequences["boxes"][0]
        .tolist()
    )
    assert result[0] == 50 and {60, 61} <= set(result)
    assert not any(FIRST_SENTINEL <= i < SENTINEL_ID + 16 for i in result)


def test_schedules_commit_every_token_and_at_least_one_a_step():
    for name in ("cosine", "linear"):
        for steps in (1, 3, 8, 40):
            done = tokens_done(name, steps, np.array([0, 5, 16, 64]))
            assert (done[0] == 0).all() and (done[-1] == [0, 5, 16, 64]).all()
            assert (np.diff(done, axis=0) >= 0).all()
            assert (np.diff(done[:, 3])[: min(steps, 64)] >= 1).all()


def test_sampling_follows_the_distribution_and_its_filters():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(40000, -1)
    uniform = torch.from_numpy(CounterRNG(0, "test").uniform(np.arange(40000)))
    for temperature in (1.0, 0.5):
        ids, log_p, _ = choose(logits, uniform, temperature)
        share = torch.bincount(ids, minlength=4) / 40000
        assert torch.allclose(share, (logits[0] / temperature).softmax(-1), atol=0.01)
        assert torch.allclose(
            log_p, (logits / temperature).log_softmax(-1).gather(1, ids[:, None])[:, 0], atol=1e-5
        )
    assert (choose(logits, uniform, 0.0)[0] == 0).all()
    assert torch.isinf(filtered(logits[:1], 2, 1.0)).tolist() == [[False, False, True, True]]
    probability = logits[0].softmax(-1)
    kept = ~torch.isinf(filtered(logits[:1], 0, float(probability[0]) + 0.01))
    # the token that crosses the threshold stays
    assert kept.tolist() == [[True, True, False, False]]


def test_maskgit_keeps_the_best_and_the_entropy_bound_the_most_certain():
    score, sample = np.array([0.1, 0.9, 0.5, 0.3, 0.8]), np.array([0, 0, 0, 1, 1])
    assert _best(score, sample, 2, np.array([2, 1])).tolist() == [False, True, True, False, True]
    entropy = np.array([0.1, 0.5, 0.3, 9.0, 8.0])
    assert _within_bound(entropy, sample, 2, 0.15).tolist() == [True, False, True, False, True]
    assert _within_bound(entropy, sample, 2, 0.0).tolist() == [True, False, False, False, True]


def test_orders_are_permutations_and_halton_spreads():
    rng = CounterRNG(0, "t")
    for order in (halton_order(rng, np.arange(5), (8, 8)), random_order(rng, np.arange(5), 64)):
        assert (np.sort(order, axis=1) == np.arange(64)).all()
        assert len({tuple(row) for row in order}) == 5
    first = halton_order(rng, np.array([0]), (8, 8))[0].reshape(8, 8) < 16
    quarters = [first[:4, :4].sum(), first[:4, 4:].sum(), first[4:, :4].sum(), first[4:, 4:].sum()]
    assert min(quarters) >= 3


def test_a_target_or_condition_that_is_not_there_is_named(modalities, model):
    sampler = Sampler(model, SENTINELS)
    with pytest.raises(ValueError, match="pixels is no output"):
        sampler.generate(make_state(modalities, 1), "pixels", SamplingOptions(), np.array([0]), [])
    with pytest.raises(ValueError, match="'boxes', which is not given"):
        sampler.generate(
            make_state(modalities, 1),
            "rgb",
            SamplingOptions(condition_weights={"boxes": 1.0}),
            np.array([0]),
            ["caption"],
        )
