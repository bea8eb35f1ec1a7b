"""One token from each row of logits, by inverse transform of one uniform number a row.

A row's result depends on its own logits and its own number alone, so it is the same in any batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 1024  # rows handled at once: a handful of (rows x vocabulary) arrays must fit the cache


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (n, V) with all but the ``top_k`` largest, and all past the nucleus of mass ``top_p``,
    set to -inf.

    The token that crosses the threshold is kept.
    """
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[:, -1:], -torch.inf)
    if top_p < 1.0:
        ordered, index = logits.sort(dim=-1, descending=True)
        probability = ordered.softmax(-1)
        outside = probability.cumsum(-1) - probability >= top_p
        logits = logits.masked_fill(
            torch.zeros_like(outside).scatter(1, index, outside), -torch.inf
        )
    return logits


def log_probability(
    logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Logarithm (n, V) of the distribution that ``choose`` draws from; at temperature 0, which
    draws nothing, that of temperature 1 without filters.
    """
    if temperature == 0.0:
        return logits.float().log_softmax(-1)
    return (filtered(logits.float(), top_k, top_p) / temperature).log_softmax(-1)


def choose(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample an id from each row.

    Args:
        logits: (n, V); uniform: (n,) in (0, 1).
        temperature: divides the logits after filtering; 0 takes the largest.

    Returns:
        ids (n,), log-probability of each id under the distribution drawn from (n,) - at temperature
        0 under temperature 1 -
        and that distribution's entropy in nats (n,).
    """
    parts = [
        _choose(rows, numbers, temperature, top_k, top_p)
        for rows, numbers in zip(logits.split(_ROWS), uniform.split(_ROWS), strict=True)
    ]
    ids, log_p, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
    return ids, log_p, entropy


def _choose(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    log_p = log_probability(logits, temperature, top_k, top_p)
    if temperature == 0.0:
        best, ids = log_p.max(-1)
        return ids, best, _entropy(log_p)
    cumulative = log_p.double().exp().cumsum(-1)
    target = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
    return ids, log_p.gather(1, ids[:, None])[:, 0], _entropy(log_p)


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)
