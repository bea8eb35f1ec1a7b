"""How sure a model is of boxes that it said, which is what a detection is ranked by.

A sequence has no scores of its own. A box's score is the probability that the model gives to its
tokens, corners and label, after the condition and all boxes said before it: their geometric mean,
so that long labels are no surer than short ones (Pix2Seq, 2109.10852, takes the label's alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from fourm.batches.tokens import SampleTokens
from fourm.evaluation.held_out import packed
from fourm.evaluation.matrix.scores import score_tokens
from fourm.modalities import Modality
from fourm.pipeline.pipeline import AnyToAnyPipeline

Boxes = list[dict[str, Any]]


def scored_boxes(
    pipe: AnyToAnyPipeline,
    tokens: SampleTokens,
    given: Sequence[str],
    target: Modality,
    values: list[Boxes],
) -> list[Boxes]:
    """The same boxes, each with its ``score``: one more pass of the model.

    Args:
        tokens: of all samples; only what is ``given`` is shown.
        values: boxes of each sample, as the model said them.
    """
    codec = pipe.codecs[target.name]
    ids = [np.asarray(said, np.int64)[: target.num_tokens] for said in codec.encode(values)]
    shown = {name: tokens.content[name] for name in given}
    asked = replace(tokens, content=shown | packed({target.name: ids}, {}).content)
    scores = score_tokens(pipe.model, asked, given, target.name)
    (closing,) = map(len, codec.encode([[]]))  # ids that end a sequence
    found = []
    for number, boxes in enumerate(values):
        own = scores.sample == number
        assert np.array_equal(scores.ids[own][: len(ids[number])], ids[number])
        lengths = [len(said) - closing for said in codec.encode([[box] for box in boxes])]
        parts = pairwise(accumulate(lengths, initial=0))
        sure = [_mean_probability(scores.log_p[own][slice(*part)]) for part in parts]
        found.append([box | {"score": p} for box, p in zip(boxes, sure, strict=True)])
    return found


def _mean_probability(log_p: np.ndarray) -> float:
    """Of a box's tokens; 0 for one that lies behind the end of what the model takes."""
    return float(np.exp(log_p.mean())) if len(log_p) else 0.0
