"""``pipe.score``: equal to slow references, proper where it claims to be, and good enough to
classify pictures by captions.
"""

import numpy as np
import pytest
import torch
from test_sampling import make_state, one
from uncached_decoder import UncachedDecoder

from fourm import AnyToAnyPipeline, Partial, Tokens
from fourm.batches.batch import MASK_QUERY, StreamRows
from fourm.errors import UserError
from fourm.modalities import END_ID, FIRST_SENTINEL
from fourm.pipeline.scoring import Scorer, order_of
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import GridState, SampleState, encoder_stream


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@torch.inference_mode()
def test_a_sequence_s_score_is_the_sum_of_its_steps(modalities, model):
    """The reference runs the whole prefix for each id, a sample at a time."""
    state = make_state(modalities, 3)
    rng = np.random.default_rng(0)
    ids = [np.array([*rng.integers(30, 60, n), END_ID]) for n in (4, 0, 7)]
    m = modalities["boxes"]
    scores = Scorer(model).score(state, m, ids)
    for i in range(3):
        alone = one(state, i)
        encoded = model.encode(encoder_stream([alone], modalities))
        decoder, total = UncachedDecoder(model, encoded, 40), 0.0
        for before, wanted in zip([FIRST_SENTINEL, *ids[i][:-1]], ids[i], strict=True):
            hidden = decoder.step(modalities.index("boxes"), torch.tensor([before]))
            total += float(model.logits(hidden, "boxes").log_softmax(-1)[0, wanted])
        assert scores[i] == pytest.approx(total, abs=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("method, parts", [("chain", 1), ("chain", 5), ("pseudo", 4)])
def test_a_grid_s_score_is_that_of_its_parts_asked_one_after_another(
    modalities, model, method, parts
):
    """The reference: one sample, one part and one row of logits at a time."""
    state, m = make_state(modalities, 2), modalities["rgb"]
    ids = np.random.default_rng(1).integers(0, m.vocab_size, (2, m.num_tokens))
    scores = Scorer(model, parts, method).score(state, m, list(ids))
    part_of = order_of(m) * parts // m.num_tokens
    assert sorted(order_of(m)) == list(range(m.num_tokens))
    for i in range(2):
        total = 0.0
        for part in range(parts):
            known = part_of < part if method == "chain" else part_of != part
            seen = one(state, i)
            seen.grids["rgb"] = GridState(ids[i : i + 1], known[None])
            rows = StreamRows(1)
            position = np.flatnonzero(part_of == part)
            none, query = 0 * position, np.full(len(position), MASK_QUERY)
            rows.add(modalities.index("rgb"), none, position, query, none)
            stream = rows.decoder(np.array([k.kind == "sequence" for k in modalities]))
            encoded = model.encode(encoder_stream([seen], modalities))
            for row, at in zip(model.decode(encoded, stream), position, strict=True):
                total += float(model.logits(row[None], "rgb").log_softmax(-1)[0, ids[i, at]])
        assert scores[i] == pytest.approx(total, abs=1e-3)


def test_a_chain_token_by_token_is_a_distribution(modalities, model):
    """Over all values of the token that comes last, probabilities add up to that of the others."""
    m = modalities["rgb"]
    last = int(np.argmax(order_of(m)))
    ids = np.tile(np.arange(m.num_tokens) % m.vocab_size, (m.vocab_size, 1))
    ids[:, last] = np.arange(m.vocab_size)
    every = Scorer(model, m.num_tokens).score(SampleState(m.vocab_size), m, list(ids))
    halves = [Scorer(model, m.num_tokens).score(SampleState(3), m, list(ids[:3]))]
    np.testing.assert_allclose(halves[0], every[:3], atol=1e-3)  # alone as in the batch
    grid = GridState(ids[:1], (order_of(m) < m.num_tokens - 1)[None])
    once = SamplingOptions(scheme="roar", steps=1, decode="mean")
    state = SampleState(1, {"rgb": grid})
    out = Sampler(model).generate(state, "rgb", once, np.zeros(1, int), []).grids["rgb"]
    assert out.probability is not None
    shares = np.exp(every - np.logaddexp.reduce(every))
    np.testing.assert_allclose(shares, out.probability[0, last], atol=1e-4)


WORDS = ("red", "green", "blue", "yellow", "purple")


def test_a_picture_is_classified_by_the_captions_that_it_makes_likely(pipe):
    kinds = ["cube", "sphere", "cone", "cylinder"]
    captions = [f"a large {c} {k} left of a small blue sphere" for c in WORDS for k in kinds]
    wanted = [0, 6, 11, 17]
    pictures = pipe({"caption": [captions[i] for i in wanted]}, "rgb", seed=5)["rgb"].values
    for picture, number in zip(pictures, wanted, strict=True):
        scores = pipe.score({"rgb": picture}, {"caption": captions})["caption"]
        assert scores.shape == (20,) and (scores < 0).all()
        assert captions[int(scores.argmax())] == captions[number]


def test_targets_are_scored_given_those_before_them(pipe):
    out = pipe({"caption": "a red cube"}, ["depth", "rgb"], seed=2)
    depth, rgb = out["depth"].values[0], out["rgb"].values[0]
    both = pipe.score({"caption": "a red cube"}, {"depth": depth, "rgb": rgb}, parts=4)
    after = pipe.score({"caption": "a red cube", "depth": depth}, {"rgb": [rgb, rgb]}, parts=4)
    np.testing.assert_allclose(after["rgb"], [both["rgb"][0]] * 2, atol=1e-3)
    alone = pipe.score({"caption": "a red cube"}, {"rgb": rgb}, parts=4)
    assert abs(alone["rgb"][0] - both["rgb"][0]) > 1
    ids = Tokens(pipe.codecs["rgb"].encode([rgb])[0])
    same = pipe.score({"caption": "a red cube"}, {"rgb": ids}, parts=4)
    np.testing.assert_allclose(same["rgb"], alone["rgb"], atol=1e-3)


@pytest.mark.parametrize(
    "call, why",
    [
        (({}, {"caption": "a [S_1] cube"}), "value of caption: whole values"),
        (({}, {"rgb": Partial(np.zeros((64, 64, 3), np.uint8), np.eye(8))}), "value of rgb: whole"),
        (({"caption": "a"}, {"caption": "b"}), "caption: given and to be scored"),
        (({}, {}), "values are a mapping of targets"),
        (({}, {"pixels": 1}), "pixels cannot be generated"),
        (({"rgb": [np.zeros((64, 64, 3), np.uint8)] * 2}, {"caption": ["a"] * 3}), "rgb 2, capti"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_what_cannot_be_scored_is_refused(pipe, call, why):
    with pytest.raises(UserError, match=why):
        pipe.score(*call)


@pytest.mark.parametrize("wrong", [{"parts": 0}, {"method": "pseudo"}, {"method": "sum"}], ids=str)
def test_a_score_has_parts_and_a_method_that_mean_something(pipe, wrong):
    with pytest.raises(UserError, match="must be at least|is not one of chain, pseudo"):
        pipe.score({}, {"caption": "a"}, **wrong)
