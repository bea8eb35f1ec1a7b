"""A model whose heads are its decoder's token table, with heads of its own: the same function.

4M trains with tied tables and releases untied ones, so a model of ours that was trained as theirs
is untied before it is written in their format.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from accelerate import init_empty_weights
from torch import Tensor

from fourm.model.embedding import TokenTable
from fourm.model.model import FourM


def untied(model: FourM) -> FourM:
    """The model itself if its heads are its own, or factorised over levels; else a copy that
    computes the same.
    """
    tied = model.decoder_tokens or model.tokens
    if not model.config.tie_heads or tied.levels is not None:
        return model
    with init_empty_weights(include_buffers=False):
        result = FourM(replace(model.config, tie_heads=False), model.modalities)
    weights = model.state_dict()
    assert result.heads is not None
    weights["heads.table"] = _rows(tied, result.heads)
    for name in ("tokens", "decoder_tokens"):
        table, before = getattr(result, name), getattr(model, name)
        if table is not None:
            weights[f"{name}.table"] = _rows(before, table)
    result.load_state_dict(weights, assign=True)
    result.provenance = model.provenance
    return result.train(model.training)


def _rows(table: TokenTable, wanted: TokenTable) -> Tensor:
    """The rows of a table that another one with fewer vocabularies has."""
    parts = [table.table.detach()[:0]]
    for vocabulary in wanted.vocabularies:
        start, size = table.vocabularies[vocabulary]
        parts.append(table.table.detach()[start : start + size])
    return torch.cat(parts)
