"""Sampling: a function of (weights, inputs, seed) alone; cached equals uncached; partial inputs are
kept; schemes do what they say.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from spiral_scheme import Spiral
from uncached_decoder import UncachedDecoder

from fourm.config import from_mapping, to_mapping
from fourm.errors import UserError
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID
from fourm.numbers.ragged import ranks
from fourm.numbers.rng import CounterRNG
from fourm.sampling.choose import choose, filtered
from fourm.sampling.earlier_options import EARLIER_KEYS
from fourm.sampling.gaps import fill_gaps
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.schedules import tokens_done
from fourm.sampling.schemes import ROAR, Answers, Canvas, Entropy, Halton, MaskGIT, Raster, Scheme
from fourm.sampling.state import GridState, SampleState

SENTINELS = {"caption": 16, "boxes": 16}


@dataclass(frozen=True, kw_only=True)
class Idle(Scheme):
    """Never commits anything."""

    def keep(self, canvas, step, answers):
        return np.zeros(len(answers), bool)


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
    "maskgit noisy": SamplingOptions(scheme=MaskGIT(noise=3.0), steps=5),
    "roar": SamplingOptions(
        scheme="roar", steps=4, guidance_scale=2.0, top_p=0.9, schedule="linear"
    ),
    "halton": SamplingOptions(scheme="halton", steps=4, top_k=7, guidance_scale=3.0),
    "raster": SamplingOptions(scheme="raster", steps=16, temperature=0.5),
    "entropy": SamplingOptions(scheme=Entropy(bound=6.0), steps=16),
    "spiral": SamplingOptions(scheme="spiral_scheme:Spiral", steps=4),
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


def test_cached_decoding_equals_uncached(modalities, model, monkeypatch):
    state, seeds = make_state(modalities, 5), np.arange(5)
    for scale in (1.0, 2.5):
        results = []
        for uncached in (False, True):
            monkeypatch.undo()
            sampler = Sampler(model, SENTINELS)
            if uncached:
                monkeypatch.setattr("fourm.sampling.sequences.CachedDecoder", UncachedDecoder)
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
    from fourm.batches.batch import MASK_QUERY, StreamRows
    from fourm.sampling.state import Branch, encoder_stream

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
                model.encode(encoder_stream([Branch(dropped).of(state)], modalities)),
                rows.decoder(causal),
            )
            logits.append(model.logits(hidden, "rgb"))
    expected = (logits[1] + 3.0 * (logits[0] - logits[1])).argmax(-1).numpy()
    assert np.array_equal(guided[sample, position], expected)


@pytest.mark.parametrize("name", ["maskgit noisy", "halton", "entropy", "spiral"])
def test_given_tokens_stay_and_the_caller_s_state_is_not_changed(modalities, model, name):
    state = make_state(modalities, 4)
    before = state.grids["rgb"].values.copy()
    result = Sampler(model, SENTINELS).generate(
        state, "rgb", OPTIONS[name], np.arange(4), ["caption"]
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
    assert fill_gaps(given, decoded, SENTINEL_ID + 15).tolist() == [50, 70, 71, 60, 61, 72, END_ID]
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


def canvas(modality, num, steps, schedule="linear"):
    """Nothing given, nothing committed."""
    shape = (num, modality.num_tokens)
    return Canvas(
        modality=modality,
        schedule=schedule,
        steps=steps,
        rng=CounterRNG(0, "t"),
        seeds=np.arange(num),
        given=np.zeros(shape, bool),
        known=np.zeros(shape, bool),
    )


def test_maskgit_keeps_the_best_and_the_entropy_bound_the_most_certain(modalities):
    sample, position = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])
    log_p, entropy = np.array([-9, -1, -5, -7, -2.0]), np.array([0.1, 0.5, 0.3, 9.0, 8.0])
    answers = Answers(sample, position, position, log_p, entropy)
    wide = canvas(modalities["rgb"], 2, steps=8)  # two of 16 tokens a step
    kept = MaskGIT(noise=0.0).keep(wide, 0, answers)
    assert kept.tolist() == [False, True, True, True, True]
    assert Entropy(bound=0.15).keep(wide, 0, answers).tolist() == [True, False, True, False, True]
    assert Entropy(bound=0.0).keep(wide, 0, answers).tolist() == [True, False, False, False, True]
    assert Entropy(bound=0.0).keep(wide, 7, answers).all()  # nothing is open after the last step


def test_an_order_asks_every_position_once_in_its_turn(modalities):
    for scheme in (ROAR(), Halton(), Raster(), Spiral()):
        drawn = canvas(modalities["rgb"], 3, steps=5, schedule="cosine")
        for step in range(5):
            asked = scheme.ask(drawn, step)
            assert not (asked & drawn.known).any()
            assert asked.sum(1).tolist() == drawn.due(step).tolist()
            drawn.known[asked] = True
        assert drawn.known.all()
    first = Raster().ask(canvas(modalities["rgb"], 1, steps=4), 0)
    assert np.flatnonzero(first).tolist() == [0, 1, 2, 3]
    # the four cells around the centre of 4 x 4
    first = Spiral().ask(canvas(modalities["rgb"], 1, steps=4), 0)
    assert np.flatnonzero(first).tolist() == [5, 6, 9, 10]


def test_random_and_halton_orders_differ_by_sample_and_halton_spreads(modalities):
    square = replace(modalities["rgb"], grid=(8, 8))
    for scheme in (ROAR(), Halton()):
        order = ranks(scheme.order(canvas(square, 5, steps=4)))
        assert len({tuple(row) for row in order}) == 5
    first = Halton().order(canvas(square, 1, steps=4))[0].reshape(8, 8) < 16
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


def test_a_scheme_that_leaves_tokens_open_is_named(modalities, model):
    state, options = make_state(modalities, 1), SamplingOptions(scheme=Idle())
    with pytest.raises(UserError, match="test_sampling:Idle left 11 tokens of rgb open after 12"):
        Sampler(model, SENTINELS).generate(state, "rgb", options, np.array([0]), [])


def test_the_halton_order_refuses_a_set(modalities, model):
    options = SamplingOptions(scheme="halton")
    with pytest.raises(UserError, match="needs a grid; code has none"):
        Sampler(model).generate(make_state(modalities, 1), "code", options, np.array([0]), [])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"scheme": "haltn"}, "'haltn' is not one of entropy, .*; did you mean 'halton'"),
        ({"scheme": "fourm.sampling.schemes:InOrder"}, "is a base for others"),
        ({"scheme": {"type": "maskgit", "nose": 2.0}}, "'nose'; did you mean 'noise'"),
        ({"scheme": {"type": "maskgit", "noise": float("nan")}}, "noise must be a finite number"),
        ({"scheme": {"type": "entropy", "bound": float("nan")}}, "bound must be at least 0"),
        ({"schedule": "cosin"}, "'cosin' is not one of cosine, linear; did you mean 'cosine'"),
        ({"temperature_schedule": "onx"}, "'onx' is not one of linear, onex"),
        ({"steps": 2.5}, "steps: expected int, found 2.5"),
        ({"steps": True}, "steps: expected int, found True"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"top_k": 1.5}, "top_k: expected int, found 1.5"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, "top_p must be more than 0"),
        ({"top_p": float("nan")}, "top_p must be a finite number"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"temperature": "warm"}, "temperature: expected a number, found 'warm'"),
        ({"temperature_end": -0.1}, "temperature_end must be 0 or from"),
        ({"condition_weights": {"caption": float("inf")}}, r"weights\.caption must be a finite"),
        (
            {"confidence_noise": 0.3, "scheme": "roar"},
            "confidence_noise is a setting of the scheme maskgit, .* roar",
        ),
        ({"entropy_bound": 2.0}, "scheme: {type: entropy, bound: 2.0}"),
        ({"confidence_noise": 3.0, "scheme": {"type": "maskgit"}}, "noise stands beside a scheme"),
        ({"confidence_noise": "much"}, "noise: expected a number"),
    ],
)
def test_options_are_refused_with_a_sentence_from_python_as_from_yaml(wrong, message):
    if not EARLIER_KEYS.keys() & wrong.keys():
        with pytest.raises(UserError, match=message):
            SamplingOptions(**wrong)
    with pytest.raises(UserError, match=f"f: .*{message}"):
        SamplingOptions.read(wrong, "f")
    with pytest.raises(UserError, match=message):
        SamplingOptions().changed(wrong)


def test_an_unknown_option_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown sampling option 'step'.*did you mean 'steps'"):
        SamplingOptions().changed({"step": 3})


def test_a_scheme_is_given_by_name_as_a_mapping_or_as_itself_and_written_back():
    noisy = SamplingOptions(scheme=MaskGIT(noise=2.0), steps=np.int64(8))
    assert noisy == SamplingOptions(scheme={"type": "maskgit", "noise": 2}, steps=8)
    assert SamplingOptions(scheme="halton").scheme == Halton()
    turned = {"type": "spiral_scheme:Spiral", "clockwise": False}
    for options in (noisy, SamplingOptions(scheme=turned)):
        assert SamplingOptions.read(to_mapping(options), "f") == options
        assert from_mapping(SamplingOptions, to_mapping(options), "f") == options


def test_settings_of_schemes_that_stood_beside_them_are_read():
    defaults = {"confidence_noise": 1.0, "entropy_bound": 0.5, "remask": 0.0}
    for name in ("maskgit", "roar", "halton", "raster", "entropy"):
        read = SamplingOptions.read({"scheme": name, **defaults}, "f")
        assert read == SamplingOptions(scheme=name)
    read = SamplingOptions.read({**defaults, "confidence_noise": 3}, "f")
    assert read.scheme == MaskGIT(noise=3.0)
    read = SamplingOptions.read({"scheme": "entropy", "entropy_bound": 2.0}, "f")
    assert read.scheme == Entropy(bound=2.0)
    read = SamplingOptions(scheme=MaskGIT(noise=3.0))
    assert read.changed({"confidence_noise": 1.0}).scheme == MaskGIT()
    assert read.changed({"scheme": "halton"}).scheme == Halton()


GONE = (
    ({"remask": 0.0}, {"remask": 0.3}),
    ({"guidance_schedule": "constant"}, {"guidance_schedule": "linear"}),
    (
        {"scheme": {"type": "maskgit", "remask": 0.0}},
        {"scheme": {"type": "maskgit", "remask": 0.1}},
    ),
    ({"sweep": {"least_entropy": 0.0}}, {"sweep": {"parts": 4, "least_entropy": 1.0}}),
)


@pytest.mark.parametrize("off, on", GONE, ids=str)
def test_settings_that_are_gone_are_passed_over_where_they_are_off_and_else_refused(off, on):
    assert SamplingOptions.read(off, "f") == SamplingOptions() == SamplingOptions().changed(off)
    with pytest.raises(UserError, match="f: there is no .* any more: .* pictures"):
        SamplingOptions.read(on, "f")
    with pytest.raises(UserError, match="there is no .* any more"):
        SamplingOptions().changed(on)
