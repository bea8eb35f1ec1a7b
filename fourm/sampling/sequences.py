"""Sequences: decoded from left to right, all samples at once, until each has ended.

What is decoded are the spans that sentinels in the given sequence stand for; a sequence of which
nothing is given is one gap, one given without sentinels is left as it is.
"""

from __future__ import annotations

import numpy as np
import torch

from fourm.modalities import END_ID, FIRST_SENTINEL
from fourm.sampling.autoregressive import CachedDecoder
from fourm.sampling.choose import choose
from fourm.sampling.draws import Purpose
from fourm.sampling.gaps import count_gaps, fill_gaps, forbidden_ids
from fourm.sampling.state import SampleState
from fourm.sampling.task import Task


def generate_sequences(
    task: Task,
    state: SampleState,
    last_sentinel: int,
) -> list[np.ndarray]:
    """The target's ids of every sample, with all gaps filled: B arrays."""
    most = task.target.num_tokens
    nothing = np.zeros(0, dtype=np.int64)
    given = state.sequences.get(task.target.name) or [nothing] * state.num_samples
    whole = np.array([len(ids) > 0 and not _has_gap(ids, last_sentinel) for ids in given])
    gaps = np.array([count_gaps(ids, last_sentinel) for ids in given])
    decoded = _decode(task, state, gaps, whole)
    return [
        given[i] if whole[i] else fill_gaps(given[i], _until_end(ids), last_sentinel, most)
        for i, ids in enumerate(decoded)
    ]


def _decode(
    task: Task,
    state: SampleState,
    gaps: np.ndarray,
    whole: np.ndarray,
) -> np.ndarray:
    """Decoder ids (B, t) from the first sentinel on.

    A sample ends with [END] or the sentinel behind its last gap (``gaps`` (B,) of them); after that
    it holds [END]. Those that are ``whole`` (B,) are not waited for.
    """
    options, model = task.options, task.model
    limit = task.target.num_tokens + int(gaps.max()) + 1
    decoder = CachedDecoder(model, task.encode(state), limit)
    banned = forbidden_ids(task.target.vocab_size, model.device)
    tokens = np.full(state.num_samples, FIRST_SENTINEL)
    decoded = [tokens]
    finished = whole.copy()
    for step in range(limit):
        if finished.all():
            break
        every_branch = task.tensor(np.tile(tokens, task.guidance.num_branches))
        rows = decoder.step(task.index, every_branch)
        uniform = task.rng.uniform(task.seeds, Purpose.TOKEN, step, 0)
        ids, _, _ = choose(
            task.logits(rows, options.guidance_at(step, limit)).masked_fill(banned, -torch.inf),
            task.tensor(uniform),
            options.temperature,
            options.top_k,
            options.top_p,
        )
        tokens = np.where(finished, END_ID, ids.cpu().numpy())
        decoded.append(tokens)
        finished |= (tokens == END_ID) | (tokens == FIRST_SENTINEL + gaps)
        task.report(step + 1, limit)
    return np.stack(decoded, axis=1)


def _has_gap(ids: np.ndarray, last_sentinel: int) -> bool:
    """True if a sentinel is among the ids (L,)."""
    return bool(((ids >= FIRST_SENTINEL) & (ids <= last_sentinel)).any())


def _until_end(ids: np.ndarray) -> np.ndarray:
    """Ids (t,) up to the first [END], which stays."""
    ends = np.flatnonzero(ids == END_ID)
    return ids[: ends[0] + 1] if len(ends) else ids
