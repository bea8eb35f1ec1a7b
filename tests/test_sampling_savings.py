"""What sampling saves changes nothing: each saving beside the plain way, to rounding."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from test_sampling import SENTINELS, make_state, one

from fourm.sampling import asking, choose
from fourm.sampling.guidance import Guidance
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.task import Task

GUIDED = SamplingOptions(scheme="halton", steps=3, guidance_scale=2.0)


def generate(model, options, state, target="rgb", seed=40):
    seeds = np.arange(seed, seed + state.num_samples)
    return Sampler(model, SENTINELS).generate(state, target, options, seeds, ["caption"])


def sorted_nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Mask (n, V) of what stays, by a sort of all."""
    ordered, index = logits.sort(dim=-1, descending=True)
    probability = ordered.softmax(-1)
    inside = probability.cumsum(-1) - probability < top_p
    return torch.zeros_like(inside).scatter(1, index, inside)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])  # flat ones need the sort, peaked ones do not
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_among_the_largest_is_that_of_a_sort_of_all(spread, top_p):
    logits = spread * torch.randn(40, 1500, generator=torch.Generator().manual_seed(1))
    kept = ~torch.isinf(choose.filtered(logits, 0, top_p))
    assert torch.equal(kept, sorted_nucleus(logits, top_p))
    few = choose.filtered(logits, 5, top_p)
    assert (~torch.isinf(few)).sum(-1).max() <= 5 and (~torch.isinf(few)).any(-1).all()


def test_what_equals_the_last_of_the_nucleus_stays_too():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, -3.0]])
    assert (~torch.isinf(choose.filtered(logits, 0, 0.6)))[0].tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("decode", ["ids", "mean"])
def test_rows_answered_in_chunks_are_those_answered_at_once(modalities, model, decode, monkeypatch):
    options = SamplingOptions(scheme="halton", steps=2, guidance_scale=2.0, decode=decode)
    state = make_state(modalities, 4)
    at_once = generate(model, options, state).grids["rgb"]
    monkeypatch.setattr(asking, "_ROWS", 3)
    in_chunks = generate(model, options, state).grids["rgb"]
    assert np.array_equal(at_once.values, in_chunks.values)
    np.testing.assert_allclose(at_once.entropy, in_chunks.entropy, atol=1e-5)
    if decode == "mean":
        np.testing.assert_allclose(at_once.probability, in_chunks.probability, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("num", [1, 8, 9, 50])
def test_logits_of_guided_rows_are_guided_logits_of_rows(modalities, model, num):
    rows = torch.randn(3 * num, model.config.dim, generator=torch.Generator().manual_seed(2))
    weighted = Guidance.weighted(["caption", "depth"], {"caption": 2.0, "depth": -0.5})
    for guidance in (Guidance.off(), Guidance.between(["caption"]), weighted):
        own = rows[: guidance.num_branches * num]
        task = Task(model, modalities["rgb"], GUIDED, guidance, np.arange(1))
        branches = model.logits(own, "rgb").unflatten(0, (guidance.num_branches, num))
        weights = zip(guidance.constant, guidance.slope, strict=True)
        wanted = sum((c + 3.0 * s) * b for (c, s), b in zip(weights, branches, strict=True))
        found = task.logits(guidance.combine(own, 3.0))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_head_s_weights_are_made_once_a_call(modalities, model, monkeypatch):
    calls, head = [], model.head
    monkeypatch.setattr(model, "head", lambda name: calls.append(name) or head(name))
    generate(model, GUIDED, make_state(modalities, 2))
    generate(model, SamplingOptions(), make_state(modalities, 2), "boxes")
    assert calls == ["rgb", "boxes"]


def encoded_samples(model, monkeypatch, options, state, target="rgb"):
    """Samples of each pass of the encoder."""
    seen, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda s: seen.append(len(s.lengths)) or encode(s))
    generate(model, options, state, target)
    monkeypatch.undo()
    return seen


def test_without_guidance_there_is_no_second_branch(modalities, model, monkeypatch):
    plain = SamplingOptions(scheme="halton", steps=3)
    assert encoded_samples(model, monkeypatch, plain, make_state(modalities, 2)) == [2, 2, 2]
    assert encoded_samples(model, monkeypatch, GUIDED, make_state(modalities, 2)) == [4, 4, 4]


def test_texts_of_one_input_share_one_pass_of_the_encoder(modalities, model, monkeypatch):
    state = make_state(modalities, 1)
    for grid in state.grids.values():
        grid.values, grid.known = grid.values.repeat(6, 0), grid.known.repeat(6, 0)
    state.num_samples, state.sequences["caption"] = 6, state.sequences["caption"] * 6
    options = SamplingOptions(guidance_scale=2.0)
    assert encoded_samples(model, monkeypatch, options, state, "boxes") == [2]


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_logits_of_a_batch_are_those_of_its_singles_to_rounding(
    modalities, model, dtype, most, monkeypatch
):
    """What is promised: ids may differ where a random number lies that near to a border."""
    network, seen = deepcopy(model).to(dtype), []

    def recorded(logits, *arguments):
        seen.append(logits)
        return choose.choose(logits, *arguments)

    monkeypatch.setattr(asking, "choose", recorded)
    options = SamplingOptions(scheme="roar", steps=1, guidance_scale=2.0)
    state = make_state(modalities, 6)
    generate(network, options, state)
    for i in range(6):
        generate(network, options, one(state, i), seed=40 + i)
    together, alone = seen[0].float(), torch.cat(seen[1:]).float()
    assert (together - alone).abs().max() <= most * together.std()
