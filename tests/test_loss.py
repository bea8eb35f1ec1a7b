"""Losses of linear heads and their gradients, against torch's own functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fourm.model.loss import linear_cross_entropy
from fourm.model.pieces import cut

SIZES = [11, 40, 7]


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(sum(SIZES), 16, generator=generator)
    rows = torch.randn(30, 16, generator=generator)
    ids = [torch.randint(size, (10,), generator=generator) for size in SIZES]
    return table, rows, ids


def plain(table, rows, ids, use):
    """Sum of losses of some pieces, each with a factor of its own."""
    pieces = table.split(SIZES)
    parts = rows.split(10)
    return sum(
        factor * F.cross_entropy(parts[i] @ pieces[i].T, ids[i], reduction="sum")
        for i, factor in use
    )


def ours(table, rows, ids, use, chunk_logits, autocast=False):
    pieces = cut(table, SIZES)
    parts = rows.split(10)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return sum(
            factor
            * linear_cross_entropy(
                parts[i], pieces[i][0], ids[i], chunk_logits=chunk_logits, slot=pieces[i][1]
            )
            for i, factor in use
        )


# the second piece is used by two modalities, the third by none
USES = [[(0, 1.0), (1, 0.5), (2, 2.0)], [(0, 0.3), (1, 1.0), (1, 2.0)], [(1, 1.0)]]


@pytest.mark.parametrize("chunk_logits", [1 << 24, 60], ids=["whole", "chunks"])
@pytest.mark.parametrize("use", USES)
def test_heads_cut_from_one_table_have_the_gradients_of_split_and_cross_entropy(
    parts, use, chunk_logits
):
    table, rows, ids = parts
    grads = []
    for loss in (plain, lambda *args: ours(*args, chunk_logits)):
        leaf, given = table.clone().requires_grad_(), rows.clone().requires_grad_()
        value = loss(leaf, given, ids, use)
        value.backward()
        grads.append((value.detach(), leaf.grad, given.grad))
    for expected, found in zip(*grads, strict=True):
        assert torch.allclose(expected, found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_logits", [1 << 24, 60], ids=["whole", "chunks"])
def test_under_autocast_gradients_of_the_table_are_not_rounded_to_half(parts, chunk_logits):
    table, rows, ids = parts
    use = USES[0]
    leaf, given = table.clone().requires_grad_(), rows.clone().requires_grad_()
    ours(leaf, given, ids, use, chunk_logits, autocast=True).backward()
    expected = table.clone().requires_grad_()
    plain(expected, rows, ids, use).backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.float32
    assert (leaf.grad - expected.grad).abs().max() < 0.05 * expected.grad.abs().max()


class Sizes(TorchDispatchMode):
    """Collects the operations that write as much as a table."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        writes = isinstance(result, torch.Tensor) and result.numel() >= self.size
        if writes and "empty" not in str(func) and "detach" not in str(func):
            self.found.append(str(func))
        return result


def test_the_gradient_of_the_table_is_made_without_a_copy_of_it(parts):
    table, rows, ids = parts
    found = []
    for loss in (plain, lambda *args: ours(*args, 1 << 24)):
        value = loss(table.clone().requires_grad_(), rows, ids, USES[0])
        with Sizes(table.numel()) as seen:
            value.backward()
        found.append(seen.found)
    assert found == [["aten.cat.default"], []]


def test_without_gradients_no_gradient_is_made(parts):
    table, rows, ids = parts
    with torch.no_grad():
        pieces = cut(table.requires_grad_(), SIZES)
        assert all(slot is None for _, slot in pieces)
        whole = linear_cross_entropy(rows[:10], pieces[1][0], ids[1])
        chunks = linear_cross_entropy(rows[:10], pieces[1][0], ids[1], chunk_logits=80)
    assert not chunks.requires_grad
    assert torch.allclose(whole, chunks)
