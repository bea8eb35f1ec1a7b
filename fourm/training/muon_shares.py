"""Matrices that are sharded by rows, each made orthogonal by one rank.

An orthogonal factor needs the whole matrix. Gathering every matrix on every rank would undo what
sharding saves, and do the same work on each. Here the ranks take turns: of a group of matrices each
rank is sent the rows of its own few, makes them orthogonal, and sends the rows back (two
``all_to_all``). What one group gathers is bounded; no rank ever has more. The same exchange is in
Dion's and Moonshot's distributed Muon (2502.16982).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from fourm.training.sharding import num_rows

GATHERED = 1 << 25  # numbers of whole matrices that a rank holds at once, if one is not more


def orthogonalize_shares(
    shares: list[Tensor],
    rows: int,
    pieces: int,
    group: dist.ProcessGroup,
    orthogonalize: Callable[[Tensor], Tensor],
) -> Iterator[Tensor]:
    """Yields each rank's rows of the orthogonalised matrices, in the order of ``shares``.

    Args:
        shares: this rank's rows (r, C) of matrices (R, C) of one shape.
        rows: R.
        pieces: row blocks of a matrix that are maps of their own.
        orthogonalize: (n, R / pieces, C) -> the same shape.
    """
    num, columns = dist.get_world_size(group), shares[0].shape[1]
    each = max(1, GATHERED // (rows * columns))  # whole matrices of a rank at once
    for start in range(0, len(shares), each * num):
        some = shares[start : start + each * num]
        owned = [len(some[i * each : (i + 1) * each]) for i in range(num)]
        whole = _gathered(some, owned, rows, group)
        if len(whole):
            blocks = whole.reshape(len(whole) * pieces, rows // pieces, columns)
            whole = orthogonalize(blocks).reshape(whole.shape)
        yield from _returned(whole, owned, some, rows, group)


def _gathered(some: list[Tensor], owned: list[int], rows: int, group: dist.ProcessGroup) -> Tensor:
    """This rank's matrices (n, R, C), whole."""
    num, mine = len(owned), owned[dist.get_rank(group)]
    columns, heights = some[0].shape[1], [num_rows(rows, num, i) for i in range(num)]
    sent = torch.stack(some).flatten()
    received = sent.new_empty(mine * rows * columns)
    sizes_in = [mine * height * columns for height in heights]
    sizes_out = [count * some[0].numel() for count in owned]
    dist.all_to_all_single(received, sent, sizes_in, sizes_out, group=group)
    parts = zip(received.split(sizes_in), heights, strict=True)
    return torch.cat([part.view(mine, height, columns) for part, height in parts], dim=1)


def _returned(
    whole: Tensor, owned: list[int], some: list[Tensor], rows: int, group: dist.ProcessGroup
) -> list[Tensor]:
    """This rank's rows (r, C) of everyone's matrices."""
    num, columns = len(owned), some[0].shape[1]
    heights = [num_rows(rows, num, i) for i in range(num)]
    sent = torch.cat([part.flatten() for part in whole.split(heights, dim=1)])
    received = sent.new_empty(sum(owned) * some[0].numel())
    sizes_in = [count * some[0].numel() for count in owned]
    sizes_out = [len(whole) * height * columns for height in heights]
    dist.all_to_all_single(received, sent, sizes_in, sizes_out, group=group)
    return list(received.view(len(some), *some[0].shape))
