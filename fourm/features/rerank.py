"""The model's own likelihood as a second opinion on what was found: nats of the query's tokens
given each candidate. A pass of encoder and decoder a candidate, so only the nearest few get it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm.errors import UserError
from fourm.evaluation.held_out import Samples, packed
from fourm.evaluation.matrix.scores import score_tokens
from fourm.modalities import Modality
from fourm.pipeline.given import Tokens
from fourm.pipeline.pipeline import AnyToAnyPipeline


def likelihoods(
    pipe: AnyToAnyPipeline, wanted: Modality, value: Any, given: Modality, candidates: Samples
) -> np.ndarray:
    """Log-probability (n,) of a query's tokens given each of n candidates.

    Args:
        wanted, value: the query's modality and its raw value or ids.
        given: the candidates' modality; what the model reads without loss goes before tokens.

    Raises UserError for a query that is no output of the model.
    """
    if not wanted.output:
        raise UserError(f"the model cannot tell how likely {wanted.name} is: it is no output")
    if isinstance(value, Tokens):
        ids = value.ids
    else:
        (ids,) = pipe.codecs[wanted.name].encode([wanted.raw.accept(value)])
    targets = [np.asarray(ids, np.int64)[: wanted.num_tokens]] * len(candidates)
    if given.kind == "continuous":
        tokens = packed({wanted.name: targets}, {given.name: candidates.vectors(given)})
    else:
        shown = candidates.ids(given, pipe.codecs)
        tokens = packed({wanted.name: targets, given.name: shown}, {})
    scores = score_tokens(pipe.model, tokens, (given.name,), wanted.name)
    return np.bincount(scores.sample, scores.log_p, minlength=len(candidates))


def read_directly(pipe: AnyToAnyPipeline, m: Modality) -> Modality:
    """The modality by which the model reads a raw value: patches go before tokens made of them."""
    direct = (c for c in pipe.modalities if c.kind == "continuous" and c.raw_name == m.raw_name)
    return next(direct, m)
