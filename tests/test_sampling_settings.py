"""Settings of sampling: which hold for which question, what temperature 0 promises, mean codes and
entropy in the result, and that wrong ones are refused with a sentence.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_model
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from fourm_tokenizers.quantizers import QuantizerConfig
from test_sampling import OPTIONS, SENTINELS, make_state, one

from fourm import AnyToAnyPipeline, Partial, Tokens
from fourm.config import choose as chosen_kind
from fourm.errors import UserError
from fourm.model.distinct import encode_distinct
from fourm.model.encoder import Latent
from fourm.pipeline.automatic import DETERMINED, DRAWN, ONCE
from fourm.pipeline.together import together
from fourm.resources import demo_model_folder
from fourm.sampling import asking
from fourm.sampling.choose import choose
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.schemes import MaskGIT
from fourm.sampling.state import Branch, GridState, SampleState, encoder_stream

CAPTION = {"caption": "a large red cube left of a small blue sphere"}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def picture(pipe) -> dict:
    return {"rgb": pipe(CAPTION, "rgb", seed=3)["rgb"].values[0]}


# ---- temperature 0 -------------------------------------------------------------------------------


def greedy(model, state, seed, scheme):
    options = SamplingOptions(scheme=scheme, steps=4, temperature=0.0, guidance_scale=2.0)
    seeds = np.full(state.num_samples, seed)
    return Sampler(model, SENTINELS).generate(state, "rgb", options, seeds, ["caption"])


@pytest.mark.parametrize("scheme", ["maskgit", MaskGIT(noise=5.0), "entropy", "raster"])
def test_at_temperature_0_the_result_does_not_depend_on_the_seed(modalities, model, scheme):
    state = make_state(modalities, 3)
    first, second = (greedy(model, state, seed, scheme).grids["rgb"].values for seed in (0, 99))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("scheme", ["roar", "halton"])
def test_an_order_that_is_random_by_its_nature_stays_so_at_temperature_0(modalities, model, scheme):
    state = make_state(modalities, 3)
    first, second = (greedy(model, state, seed, scheme).grids["rgb"].values for seed in (0, 99))
    assert not np.array_equal(first, second)


# ---- settings by condition and target ------------------------------------------------------------


def test_settings_of_an_input_and_a_target_go_before_those_of_the_target(pipe, picture):
    once, thrice = replace(ONCE, steps=1), replace(ONCE, steps=3)
    own = AnyToAnyPipeline(
        pipe.model, pipe.tokenizers_folder, {"depth": thrice, "rgb->depth": once}
    )
    steps: list[int] = []
    own(picture, "depth", callback_on_step_end=lambda step: steps.append(step.num_steps))
    assert steps == [1]
    own(CAPTION, "depth", callback_on_step_end=lambda step: steps.append(step.num_steps))
    assert steps == [1, 3, 3, 3]


def test_the_shipped_model_takes_one_pass_for_what_a_picture_determines(pipe, picture):
    for target in ("depth", "normal", "semseg"):
        steps: list[int] = []
        pipe(picture, target, callback_on_step_end=lambda step, s=steps: s.append(step.num_steps))
        assert steps == [1], target


@pytest.fixture(scope="module")
def unsaid(pipe) -> AnyToAnyPipeline:
    """The same model without settings of its own."""
    return AnyToAnyPipeline(pipe.model, pipe.tokenizers_folder)


def test_the_shipped_settings_do_not_erase_objects_as_confidence_does(pipe):
    """With nothing given MaskGIT takes the background first, and then there is nothing else: its
    pictures hardly differ (deviation over 256 pictures 11.5, of the shipped settings 36.9).
    """
    made = [
        np.stack(pipe({}, "rgb", num_samples=12, options=options)["rgb"].values).std(0).mean()
        for options in ({}, {"rgb": SamplingOptions(steps=8, temperature=0.3)})
    ]
    assert made[0] > 2 * made[1]


def test_where_nothing_is_said_a_determined_target_is_taken_from_one_pass(unsaid, picture):
    out = unsaid(picture, "semseg", seed=8)["semseg"]
    again = unsaid(picture, "semseg", seed=8, options={"semseg": replace(ONCE, decode="mean")})
    assert np.array_equal(out.ids[0], again["semseg"].ids[0])
    assert np.array_equal(out.values[0], again["semseg"].values[0])
    assert out.entropy[0].mean() < DETERMINED * np.log(240)


def test_where_nothing_is_said_an_open_target_is_drawn_and_swept(unsaid):
    out = unsaid(CAPTION, "rgb", seed=8)["rgb"]
    again = unsaid(CAPTION, "rgb", seed=8, options={"rgb": DRAWN})["rgb"]
    assert np.array_equal(out.ids[0], again.ids[0])
    assert np.array_equal(out.values[0], again.values[0])


def test_where_nothing_is_said_each_sample_is_judged_by_itself(unsaid, pipe, monkeypatch):
    captions = ["a red cube", "a small green cone right of a large blue sphere", "a cylinder"]
    one_pass = unsaid({"caption": captions}, "semseg", options={"semseg": ONCE})["semseg"]
    shares = [e.mean() / np.log(240) for e in one_pass.entropy]
    monkeypatch.setattr(
        "fourm.pipeline.automatic.DETERMINED", float(np.median(shares))
    )  # two of three
    mixed = unsaid({"caption": captions}, "semseg")["semseg"]
    for i, caption in enumerate(captions):
        alone = unsaid({"caption": caption}, "semseg", seed=i)["semseg"]
        assert np.array_equal(alone.ids[0], mixed.ids[i])
        np.testing.assert_array_equal(alone.values[0], mixed.values[i])
    determined = [np.array_equal(a, b) for a, b in zip(one_pass.ids, mixed.ids, strict=True)]
    assert determined == [share <= np.median(shares) for share in shares]


# ---- mean codes and entropy ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantizer",
    [
        {"type": "fsq", "levels": [4, 3, 5]},
        {"type": "vq", "codebook_size": 24, "code_dim": 8},
        {"type": "lfq", "codebook_size": 16},
        {"type": "residual", "codebook_size": 12, "code_dim": 8, "num_codebooks": 2},
    ],
    ids=lambda q: q["type"],
)
def test_a_mean_code_is_the_sum_of_all_codes_weighted_by_their_probabilities(quantizer):
    torch.manual_seed(0)
    config = AutoencoderConfig(
        channels=3,
        image_size=16,
        patch_size=4,
        dim=16,
        num_heads=2,
        quantizer=chosen_kind(QuantizerConfig, quantizer, "quantizer"),
    )
    network = Autoencoder(config).eval()
    q, places = network.quantizer, 5
    num = places * config.quantizer.codes_per_place
    with torch.no_grad():
        certain = torch.randint(config.codebook_size, (2, num))
        one_hot = torch.nn.functional.one_hot(certain, config.codebook_size).float()
        torch.testing.assert_close(q.mean_codes(one_hot), q.codes(certain))
        # the expectation over draws of the ids, written as a sum over all values of one of them
        probability = one_hot.clone()
        probability[0, 1] = torch.rand(config.codebook_size).softmax(0)
        expected = torch.zeros_like(q.codes(certain))
        for i, p in enumerate(probability[0, 1]):
            drawn = certain.clone()
            drawn[0, 1] = i
            expected += p * q.codes(drawn)
        torch.testing.assert_close(q.mean_codes(probability), expected, rtol=1e-4, atol=1e-5)


def test_decoding_the_mean_of_certain_tokens_is_decoding_their_ids(pipe, picture):
    codec = pipe.codecs["depth"]
    ids = pipe(picture, "depth", decode="ids")["depth"].ids
    certain = np.eye(240, dtype=np.float32)[ids[0]]
    np.testing.assert_array_equal(codec.decode_mean([certain])[0], codec.decode(ids)[0])


def test_the_mean_code_is_decoded_and_ids_stay_the_likeliest(pipe, picture):
    plain = pipe(picture, "depth", decode="ids")["depth"]
    mean = pipe(picture, "depth", decode="mean")["depth"]
    assert np.array_equal(plain.ids[0], mean.ids[0])
    difference = np.abs(plain.values[0] - mean.values[0])
    assert 0 < difference.mean() < 0.5  # metres


def test_a_codec_that_knows_ids_alone_refuses_means_before_anything_is_generated(
    pipe, picture, monkeypatch
):
    class IdsAlone:
        codebook_size, fingerprint = 240, ""
        encode = decode = staticmethod(lambda values: [])

    monkeypatch.setitem(pipe.codecs._open, "depth", IdsAlone())
    monkeypatch.setattr(pipe.sampler, "generate", None)
    with pytest.raises(UserError, match="decode: mean needs a codec.* that of depth does not"):
        pipe(picture, "depth", decode="mean")


def test_the_result_has_a_map_of_entropies_that_is_0_where_tokens_were_given(pipe, picture):
    keep = np.zeros((8, 8), bool)
    keep[:, :3] = True
    out = pipe({"rgb": Partial(picture["rgb"], keep), **CAPTION}, "rgb", steps=2)["rgb"]
    (entropy,) = out.entropy
    assert entropy.shape == (8, 8)
    assert (entropy[:, :3] == 0).all() and (entropy[:, 3:] > 0).all()
    assert pipe(picture, "caption")["caption"].entropy == []


# ---- mistakes ------------------------------------------------------------------------------------

WRONG = [
    ({"scheme": "foo"}, "'foo' is not one of entropy, halton"),
    ({"schedule": "constantt"}, "'constantt' is not one of cosine, linear"),
    ({"guidance_schedule": "linear"}, "there is no guidance_schedule any more"),
    ({"temperature": float("nan")}, "temperature must be a finite number, not nan"),
    ({"temperature": 1e-30}, "temperature must be 0 or from 0.0001 to 10000"),
    ({"temperature": -1.0}, "temperature must be 0 or from"),
    ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number, not inf"),
    ({"guidance_scale": 1e30}, "guidance_scale must be from -1000 to 1000"),
    ({"condition_weights": {"caption": -1e9}}, "weights.caption must be from -1000 to 1000"),
    ({"steps": 10**9}, "steps must be at most 10000"),
    ({"steps": -3}, "steps must be at least 1"),
    ({"sweeps": -1}, "sweeps must be at least 0"),
    ({"sweeps": 10**9}, "sweeps must be at most 10000"),
    ({"sweeps": 1.5}, "sweeps: expected int"),
    ({"scheme": {"type": "maskgit", "noise": -1.0}}, "noise must be a finite number from 0 on"),
    ({"scheme": "halton", "remask": 0.3}, "there is no remask any more"),
    ({"decode": "means"}, "'means' is not one of ids, mean"),
    ({"options": {"rgb": SamplingOptions()}}, "options name rgb, which is no target"),
]


@pytest.mark.parametrize("wrong, message", WRONG, ids=lambda x: str(x)[:40])
def test_a_wrong_setting_of_a_call_is_refused_with_a_sentence(pipe, wrong, message):
    with pytest.raises(UserError, match=message):
        pipe(CAPTION, "depth", **wrong)


# ---- what is computed once -----------------------------------------------------------------------


def assert_shared(model, stream, num_distinct, monkeypatch):
    """Alike samples go through the encoder once, and all get what encoding each would give."""
    plain, encoded = model.encode(stream), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda s: encoded.append(len(s.lengths)) or encode(s))
    shared = encode_distinct(model, stream, lambda s: s)
    assert encoded == [num_distinct]
    assert np.array_equal(shared.lengths, plain.lengths)
    assert np.array_equal(shared.num_features, plain.num_features)
    torch.testing.assert_close(shared.features, plain.features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.context, plain.context, rtol=1e-4, atol=1e-5)
    if plain.turn is not None:
        torch.testing.assert_close(shared.turn.cos, plain.turn.cos)


@torch.inference_mode()
@pytest.mark.parametrize(
    "config",
    [{}, {"positions": "both", "num_registers": 2}, {"encoder": Latent(num_tokens=4)}],
    ids=["plain", "rotary", "latent"],
)
def test_samples_that_are_alike_are_encoded_once(modalities, config, monkeypatch):
    """Of four samples the first and the third are alike; what leaves out all that differs is alike
    for all.
    """
    model = make_model(modalities, **config)
    four = make_state(modalities, 4)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(4, 16, modalities["pixels"].width)).astype(np.float32)
    four.grids["pixels"] = GridState(pixels, np.ones((4, 16), bool))
    for grid in four.grids.values():
        grid.values[2], grid.known[2] = grid.values[0], grid.known[0]
    four.sequences["caption"][2] = four.sequences["caption"][0]
    nothing = Branch(frozenset({"rgb", "depth", "caption", "pixels"}))
    stream = encoder_stream([four, nothing.of(four)], modalities)
    assert_shared(model, stream, 4, monkeypatch)


@torch.inference_mode()
def test_samples_that_differ_in_one_number_of_a_vector_are_encoded_apart(
    modalities, model, monkeypatch
):
    values = np.zeros((2, 16, modalities["pixels"].width), np.float32)
    values[1, 15, -1] = 1e-6
    state = SampleState(2, {"pixels": GridState(values, np.ones((2, 16), bool))})
    assert_shared(model, encoder_stream([state], modalities), 2, monkeypatch)


def test_targets_without_a_chain_are_given_the_inputs_alone(pipe, picture):
    together = pipe(picture, ["depth", "semseg"], chain=False)
    chained = pipe(picture, ["depth", "semseg"], chain=True)
    for name, result in together.items():
        assert np.array_equal(result.ids[0], pipe(picture, name)[name].ids[0])
    assert not np.array_equal(together["semseg"].ids[0], chained["semseg"].ids[0])


THREE = ["depth", "normal", "semseg"]


def test_determined_targets_in_a_row_take_one_pass_and_equal_separate_ones(
    pipe, picture, monkeypatch
):
    """Ids, entropies and what mean codes decode to are those of a call for each."""
    passes, encode, decode = [], pipe.model.encode, pipe.model.decode
    monkeypatch.setattr(pipe.model, "encode", lambda s: passes.append("e") or encode(s))
    monkeypatch.setattr(pipe.model, "decode", lambda *a: passes.append("d") or decode(*a))
    pictures = {"rgb": [picture["rgb"], picture["rgb"][::-1]]}
    together = pipe(pictures, [*THREE, "caption"], seed=1)
    assert passes == ["e", "d", "e"]  # a text has a decoder of its own
    for name in THREE:
        alone = pipe(pictures, name, seed=1)[name]
        for i in range(2):
            assert np.array_equal(together[name].ids[i], alone.ids[i])
            np.testing.assert_allclose(together[name].entropy[i], alone.entropy[i], atol=1e-4)
            np.testing.assert_allclose(
                together[name].values[i].astype(float), alone.values[i], rtol=1e-3, atol=1e-2
            )
    # what comes after them is given them, as in a chain
    given = {**pictures, **{name: [Tokens(i) for i in together[name].ids] for name in THREE}}
    assert together["caption"].texts == pipe(given, "caption", seed=1)["caption"].texts


def test_drawn_targets_of_one_pass_are_drawn_as_apart(modalities, model):
    once = SamplingOptions(scheme="roar", steps=1, temperature=0.7)
    state, seeds = make_state(modalities, 3), np.arange(3)
    del state.grids["depth"]
    sampler = Sampler(model, SENTINELS)
    found = together(sampler, state, {"depth": once, "code": once, "rgb": once}, seeds)
    for name in ("depth", "code", "rgb"):
        alone = sampler.generate(state, name, once, seeds, []).grids[name]
        assert np.array_equal(found.grids[name].values, alone.values)
        assert found.grids[name].known.all()


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.5}, {"guidance_scale": 2.0}, {"steps": 2}, {"scheme": "maskgit"}]
)
def test_what_is_drawn_guided_or_takes_steps_is_a_chain(pipe, picture, settings):
    once = {"scheme": "roar", "steps": 1, "temperature": 0.0, "decode": "ids"}
    left_out, chained = (
        pipe(picture, ["depth", "semseg"], **{**once, **settings}, chain=chain)
        for chain in (None, True)
    )
    assert np.array_equal(left_out["semseg"].ids[0], chained["semseg"].ids[0])


# ---- a batch and its singles ---------------------------------------------------------------------


def test_rounding_changes_an_id_only_where_its_number_lies_at_a_border():
    """Logits of a batch and of its singles differ by rounding, at most about 5e-5. That changes an
    id only where its random number lies that near to the border between two ids: the promise that
    batches equal their singles holds up to these near-ties.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 200, generator=generator) * 2
    noise = 5e-5 * (2 * torch.rand(logits.shape, generator=generator) - 1)
    border = logits.double().softmax(-1).cumsum(-1)
    uniform = torch.rand(4000, generator=generator, dtype=torch.float64)
    uniform[::2] = border[::2, 90] + 1e-5 * (2 * uniform[::2] - 1)  # half of them near one
    ids, _, _ = choose(logits, uniform, 1.0)
    noisy, _, _ = choose(logits + noise, uniform, 1.0)
    distance = (border - uniform[:, None]).abs().min(1).values
    changed = ids != noisy
    assert changed.any()
    assert distance[changed].max() < 5e-5
    assert (ids == noisy)[distance > 5e-5].all()


def test_a_batch_differs_from_its_singles_in_logits_by_rounding_alone(modalities, monkeypatch):
    """Near-ties are all that can differ: the numbers are the same, the logits are to rounding."""
    model, seen = make_model(modalities), []

    def recorded(logits, uniform, *filters):
        seen.append((logits, uniform))
        return choose(logits, uniform, *filters)

    monkeypatch.setattr(asking, "choose", recorded)
    state, sampler = make_state(modalities, 4), Sampler(model, SENTINELS)
    options = replace(OPTIONS["roar"], steps=1)
    sampler.generate(state, "rgb", options, np.arange(4), ["caption"])
    (together,) = seen
    for i in range(4):
        seen.clear()
        sampler.generate(one(state, i), "rgb", options, np.array([i]), ["caption"])
        rows = slice(11 * i, 11 * (i + 1))
        assert torch.equal(seen[0][1], together[1][rows])
        torch.testing.assert_close(seen[0][0], together[0][rows], rtol=0, atol=5e-5)
