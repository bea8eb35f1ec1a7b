"""Sequences: decoded from left to right, all samples at once, until each has ended.

What is decoded are the spans that sentinels in the given sequence stand for; a sequence of which
nothing is given is one gap, one given without sentinels is left as it is.
"""

from __future__ import annotations

import numpy as np
import torch

from fourm.answers import Answer
from fourm.modalities import END_ID, FIRST_SENTINEL
from fourm.sampling.autoregressive import CachedDecoder
from fourm.sampling.choose import choose
from fourm.sampling.draws import Purpose
from fourm.sampling.gaps import fill_gaps, forbidden_ids
from fourm.sampling.state import SampleState
from fourm.sampling.task import Task


def generate_sequences(
    task: Task,
    state: SampleState,
    last_sentinel: int,
) -> list[np.ndarray]:
    """The target's ids of every sample, with all gaps filled: B arrays. Raises UserError where
    there are more gaps than sentinels.
    """
    nothing = np.zeros(0, dtype=np.int64)
    given = state.sequences.get(task.target.name) or [nothing] * state.num_samples
    answer = Answer(given, last_sentinel, task.target.num_tokens, task.options.most_of_gap)
    whole = answer.finished.copy()
    decoded = _decode(task, state, answer)
    return [
        given[i] if whole[i] else fill_gaps(given[i], _until_end(ids), last_sentinel)
        for i, ids in enumerate(decoded)
    ]


def _decode(task: Task, state: SampleState, answer: Answer) -> np.ndarray:
    """Decoder ids (B, t) from the first sentinel on; behind its end a sample holds [END]."""
    options, model, most = task.options, task.model, task.target.num_tokens
    limit = most + int(answer.num_gaps.max()) + 1
    decoder = CachedDecoder(model, task.encode(state), limit)
    never = forbidden_ids(task.target.vocab_size, torch.device("cpu")).numpy()
    tokens = np.full(state.num_samples, FIRST_SENTINEL)
    decoded = [tokens]
    for step in range(limit):
        if answer.finished.all():
            break
        every_branch = task.tensor(np.tile(tokens, task.guidance.num_branches))
        uniform = task.rng.uniform(task.seeds, Purpose.TOKEN, step, 0)
        rows = decoder.step(task.index, every_branch)
        rows = task.guidance.combine(rows, options.guidance_scale)
        ids, _, _ = choose(
            task.logits(rows).masked_fill(task.tensor(answer.banned(never)), -torch.inf),
            task.tensor(uniform),
            options.temperature,
            options.top_k,
            options.top_p,
        )
        tokens = np.where(answer.finished, END_ID, ids.cpu().numpy())
        decoded.append(tokens)
        answer.add(tokens)
        task.report(limit if answer.finished.all() else step + 1, limit)
    return np.stack(decoded, axis=1)


def _until_end(ids: np.ndarray) -> np.ndarray:
    """Ids (t,) up to the first [END], which stays."""
    ends = np.flatnonzero(ids == END_ID)
    return ids[: ends[0] + 1] if len(ends) else ids
