"""Packed attention against a plain loop over samples and segments, its gradients, and the layouts
of the CUDA back ends.
"""

import numpy as np
import pytest
import torch

from fourm.attention import prepare, resolve_backend
from fourm.attention.varlen import prepare_varlen, xformers_bias
from fourm.layout import Layout

CPU = torch.device("cpu")


def plain(q, k, v, layout):
    """Softmax attention block by block, row by row."""
    out = torch.zeros_like(q)
    i = j = 0
    for n, m, causal in zip(layout.q_lengths, layout.k_lengths, layout.causal, strict=True):
        for row in range(n):
            keys = slice(j, j + (row + 1 if causal else m))
            if m:
                scores = torch.einsum("hk,thk->ht", q[i + row], k[keys]) / q.shape[-1] ** 0.5
                out[i + row] = torch.einsum("ht,thk->hk", scores.softmax(-1), v[keys])
        i, j = i + n, j + m
    return out


LAYOUTS = {
    "equal samples": Layout.per_sample(np.array([5, 5, 5])),
    "ragged samples": Layout.per_sample(np.array([5, 1, 7])),
    "cross": Layout.per_sample(np.array([3, 4, 2]), np.array([6, 1, 5])),
    "a sample without keys": Layout.per_sample(np.array([3, 4, 2]), np.array([6, 0, 5])),
    "a sample without queries": Layout.per_sample(np.array([3, 0, 2]), np.array([6, 4, 5])),
    "segments": Layout.segments(
        np.array([3, 2, 4, 1, 5]),
        np.array([0, 0, 1, 2, 2]),
        3,
        np.array([False, True, True, False, True]),
    ),
    "a sample without segments": Layout.segments(
        np.array([3, 2, 4]), np.array([0, 0, 2]), 3, np.array([True, False, True])
    ),
    "many ragged samples": Layout.per_sample(
        np.array([1, 9, 2, 14, 3, 30, 4, 2, 1, 7]), np.array([2, 8, 1, 20, 0, 3, 17, 5, 6, 1])
    ),
    "many segments": Layout.segments(
        np.array([2, 3, 9, 1, 1, 4, 2, 6, 20, 1, 3]),
        np.array([0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8]),
        9,
        np.arange(11) % 2 == 0,
    ),
    "nothing": Layout.per_sample(np.array([0, 0]), np.array([2, 1])),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_attention_equals_the_plain_loop_with_gradients(name):
    layout = LAYOUTS[name]
    torch.manual_seed(0)
    q = torch.randn(int(layout.q_lengths.sum()), 2, 8, dtype=torch.float64, requires_grad=True)
    k, v = (
        torch.randn(int(layout.k_lengths.sum()), 2, 8, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    out = prepare(layout, q, "sdpa").kernel.attend(q, k, v)
    expected = plain(q, k, v, layout)
    assert torch.allclose(out, expected, atol=1e-12)
    if not expected.requires_grad:  # no row at all: gradients must exist all the same
        assert all(g.abs().sum() == 0 for g in torch.autograd.grad(out.sum(), (q, k, v)))
        return
    weight = torch.randn_like(out)
    got = torch.autograd.grad((out * weight).sum(), (q, k, v))
    wanted = torch.autograd.grad((expected * weight).sum(), (q, k, v), allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, atol=1e-12)


def visible(layout):
    """What each query row sees (T_q, T_k), from the reference."""
    rows, columns = int(layout.q_lengths.sum()), int(layout.k_lengths.sum())
    seen = torch.zeros(rows, columns, dtype=torch.bool)
    i = j = 0
    for n, m, causal in zip(layout.q_lengths, layout.k_lengths, layout.causal, strict=True):
        for row in range(n):
            seen[i + row, j : j + (row + 1 if causal else m)] = True
        i, j = i + n, j + m
    return seen


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n != "nothing"])
def test_the_layout_of_xformers_and_varlen_shows_each_row_what_the_reference_shows(name):
    """Each part's block-diagonal mask, as xformers materialises it, put back to the packed rows."""
    pytest.importorskip("xformers")
    layout = LAYOUTS[name]
    prepared = prepare_varlen(layout, CPU, "xformers")
    seen = torch.zeros(int(layout.q_lengths.sum()), int(layout.k_lengths.sum()), dtype=torch.bool)
    for part in prepared.parts:
        q_rows = torch.arange(len(seen)) if part.q_rows is None else part.q_rows
        k_rows = torch.arange(seen.shape[1]) if part.k_rows is None else part.k_rows
        bias = part.bias.materialize((len(q_rows), len(k_rows)))
        seen[q_rows[:, None], k_rows[None]] = bias == 0
        assert part.cu_q.tolist() == [0, *np.cumsum(np.diff(part.cu_q.numpy()))]
        assert part.max_q == int(part.cu_q.diff().max()) and part.max_k == int(
            part.cu_k.diff().max()
        )
    assert torch.equal(seen, visible(layout))


def test_xformers_mask_of_causal_blocks_is_causal_within_blocks():
    pytest.importorskip("xformers")
    bias = xformers_bias(np.array([2, 3]), np.array([2, 3]), causal=True).materialize((5, 5))
    assert torch.equal(
        bias == 0, torch.block_diag(torch.ones(2, 2).tril(), torch.ones(3, 3).tril()).bool()
    )


def test_a_back_end_that_cannot_run_is_announced_by_name(caplog):
    resolve_backend.cache_clear()
    assert resolve_backend("varlen", "cpu", torch.float32) == "sdpa"
    assert resolve_backend("varlen", "cpu", torch.float32) == "sdpa"
    assert len([r for r in caplog.records if "varlen unavailable" in r.message]) == 1
    with pytest.raises(ValueError, match="'flash' is not one of"):
        resolve_backend("flash", "cpu", torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["varlen", "xformers"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_cuda_back_ends_equal_the_reference(name, backend):
    layout, device = LAYOUTS[name], torch.device("cuda")
    if resolve_backend(backend, "cuda", torch.bfloat16) != backend:
        pytest.skip(f"{backend} is not installed")
    q = torch.randn(int(layout.q_lengths.sum()), 2, 64, device=device, dtype=torch.bfloat16)
    k, v = (
        torch.randn(int(layout.k_lengths.sum()), 2, 64, device=device, dtype=torch.bfloat16)
        for _ in range(2)
    )
    expected = prepare(layout, q.float(), "sdpa").kernel.attend(q.float(), k.float(), v.float())
    out = prepare(layout, q, backend).kernel.attend(q, k, v)
    assert torch.allclose(out.float(), expected, atol=2e-2)
