"""One token from each row of logits, by inverse transform of one uniform number a row.

A row's result depends on its own logits and its own number alone, so it is the same in any batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NUCLEUS = 256  # of the largest logits nearly always hold the nucleus: a sort of all is rare


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (n, V) with all but the ``top_k`` largest, and all past the nucleus of mass ``top_p``,
    set to -inf.

    The token that crosses the threshold is kept, and so are others that equal it.
    """
    size = logits.shape[-1]
    if 0 < top_k < size:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[:, -1:], -torch.inf)
    if top_p < 1.0:
        total = logits.logsumexp(-1, keepdim=True)
        for num in (min(_NUCLEUS, size), size):
            largest = logits.topk(num, dim=-1).values
            short = (largest - total).exp().cumsum(-1) < top_p  # of the mass, so far
            if not short[:, -1].any():
                break
        last = short.sum(-1, keepdim=True).clamp_max(num - 1)
        logits = logits.masked_fill(logits < largest.gather(1, last), -torch.inf)
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
    log_p = log_probability(logits, temperature, top_k, top_p)
    probability = log_p.exp()
    entropy = -(probability * log_p.clamp_min(-1e4)).sum(-1)
    if temperature == 0.0:
        best, ids = log_p.max(-1)
        return ids, best, entropy
    cumulative = probability.cumsum(-1, dtype=torch.float64)
    target = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
    return ids, log_p.gather(1, ids[:, None])[:, 0], entropy
