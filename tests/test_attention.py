"""Packed attention against a plain loop over samples and segments, its gradients, and the layouts
of the CUDA back ends.
"""

import numpy as np
import pytest
import torch

import fourm.model.attention as attention
from fourm.batches.batch import map_tensors
from fourm.batches.layout import Layout
from fourm.model.attention import Backend, prepare, resolve_backend
from fourm.model.attention.blockwise import BlockwiseKernel, worth_it
from fourm.model.attention.padded import prepare_padded
from fourm.model.attention.varlen import order_of_kinds, prepare_varlen, xformers_bias


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


def equals_the_plain_loop(layout, attend):
    """Whether ``attend(q, k, v)`` and its gradients are those of the plain loop."""
    torch.manual_seed(0)
    q = torch.randn(int(layout.q_lengths.sum()), 2, 8, dtype=torch.float64, requires_grad=True)
    k, v = (
        torch.randn(int(layout.k_lengths.sum()), 2, 8, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    out, expected = attend(q, k, v), plain(q, k, v, layout)
    assert torch.allclose(out, expected, atol=1e-12)
    if not expected.requires_grad:  # no row at all: gradients must exist all the same
        assert all(g.abs().sum() == 0 for g in torch.autograd.grad(out.sum(), (q, k, v)))
        return
    weight = torch.randn_like(out)
    got = torch.autograd.grad((out * weight).sum(), (q, k, v))
    wanted = torch.autograd.grad((expected * weight).sum(), (q, k, v), allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, atol=1e-12)


@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_attention_equals_the_plain_loop_with_gradients(name):
    layout = LAYOUTS[name]
    equals_the_plain_loop(layout, prepare(layout, torch.zeros(0), "sdpa", 8).kernel.attend)
    equals_the_plain_loop(layout, prepare_padded(layout).attend)
    if not layout.is_empty:
        equals_the_plain_loop(layout, BlockwiseKernel.of(layout).attend)


def test_blocks_are_taken_one_by_one_where_padding_would_cost_more():
    equal = Layout.per_sample(np.full(8, 128))
    ragged = Layout.per_sample(np.array([128, 100, 60, 60, 50, 40, 30, 20]))
    tiny = Layout.segments(np.full(64, 4), np.repeat(np.arange(8), 8), 8, np.zeros(64, bool))
    assert [worth_it(layout) for layout in (equal, ragged, tiny)] == [False, True, False]


@pytest.mark.parametrize("name", LAYOUTS)
def test_varlen_attention_equals_the_plain_loop_with_gradients(name, varlen_on_cpu):
    """Its calls are emulated block by block; slices, orders and ``cu_seqlens`` are the real
    ones.
    """
    layout = LAYOUTS[name]
    prepared = Backend("varlen", False).prepare(layout)
    order = prepared.order

    def attend(q, k, v):
        if order is None:
            return prepared.kernel.attend(q, k, v)
        k, v = (order(k), order(v)) if layout.causal.any() else (k, v)
        return order.back(prepared.kernel.attend(order(q), k, v))

    equals_the_plain_loop(layout, attend)


def test_the_number_of_blocks_that_varlen_is_given_does_not_change():
    for lengths in ([3, 2], [3, 2, 4], [1, 1, 1, 1, 1]):
        num = len(lengths)
        causal = np.arange(num) % 2 == 0
        kernel = prepare_varlen(
            Layout.segments(np.array(lengths), np.zeros(num, int), 1, causal, max_blocks=6),
            "varlen",
        )
        for part in kernel.parts:
            assert len(part.cu_q) == len(part.cu_k) == 7 and part.max_q == 128
            assert (part.cu_q.diff() >= 0).all()
        assert sum(int(part.cu_q[-1]) for part in kernel.parts) == sum(lengths)


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
    kernel, order = prepare_varlen(layout, "xformers"), order_of_kinds(layout)
    order = np.arange(layout.q_lengths.sum()) if order is None else order
    columns = order if layout.causal.any() else np.arange(layout.k_lengths.sum())
    seen = torch.zeros(len(order), len(columns), dtype=torch.bool)
    i = j = 0
    for part, n, m in zip(kernel.parts, kernel.q_sizes, kernel.k_sizes, strict=False):
        moved = map_tensors(part, lambda t: t.clone())  # as moved to a device
        assert torch.equal(part.bias.materialize((n, m)), moved.bias.materialize((n, m)))
        seen[i : i + n, j : j + m] = moved.bias.materialize((n, m)) == 0
        i, j = i + n, j + m
    back = torch.zeros_like(seen)
    back[torch.from_numpy(order)[:, None], torch.from_numpy(columns)] = seen
    seen = back
    assert torch.equal(seen, visible(layout))


def test_xformers_mask_of_causal_blocks_is_causal_within_blocks():
    pytest.importorskip("xformers")
    bias = xformers_bias(np.array([2, 3]), np.array([2, 3]), causal=True).materialize((5, 5))
    assert torch.equal(
        bias == 0, torch.block_diag(torch.ones(2, 2).tril(), torch.ones(3, 3).tril()).bool()
    )


def test_a_back_end_that_cannot_run_is_announced_by_name(caplog):
    resolve_backend.cache_clear()
    assert resolve_backend("varlen", "cpu", torch.float32, 64) == "sdpa"
    assert resolve_backend("varlen", "cpu", torch.float32, 64) == "sdpa"
    assert len([r for r in caplog.records if "varlen unavailable" in r.message]) == 1
    with pytest.raises(ValueError, match="'flash' is not one of"):
        resolve_backend("flash", "cpu", torch.float32, 64)


def test_varlen_wants_a_gpu_of_ampere_or_later_and_heads_that_are_a_multiple_of_8(monkeypatch):
    why_not = attention.why_not
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "capability 7.5" in why_not("varlen", "cuda", torch.float16, 64)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert "60 wide" in why_not("varlen", "cuda", torch.bfloat16, 60)
    assert "264 wide" in why_not("varlen", "cuda", torch.bfloat16, 264)
    assert why_not("varlen", "cuda", torch.bfloat16, 64) == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["varlen", "xformers"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_cuda_back_ends_equal_the_reference(name, backend):
    layout, device = LAYOUTS[name], torch.device("cuda")
    if resolve_backend(backend, "cuda", torch.bfloat16, 64) != backend:
        pytest.skip(f"{backend} is not installed")
    q = torch.randn(int(layout.q_lengths.sum()), 2, 64, device=device, dtype=torch.bfloat16)
    k, v = (
        torch.randn(int(layout.k_lengths.sum()), 2, 64, device=device, dtype=torch.bfloat16)
        for _ in range(2)
    )
    expected = prepare(layout, q.float(), "sdpa", 64).kernel.attend(q.float(), k.float(), v.float())
    prepared = prepare(layout, q, backend, 64)
    if prepared.order is not None:
        q = prepared.order(q)
        k, v = (prepared.order(k), prepared.order(v)) if layout.causal.any() else (k, v)
    out = prepared.kernel.attend(q, k, v)
    out = out if prepared.order is None else prepared.order.back(out)
    assert torch.allclose(out.float(), expected, atol=2e-2)
