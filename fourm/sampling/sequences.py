"""Sequences: decoded from left to right, all samples at once, until each has ended.

What is decoded are the spans that sentinels in the given sequence stand for; a sequence of which
nothing is given is one gap, one given without sentinels is left as it is.
"""

from __future__ import annotations

import numpy as np
import torch

from fourm.item_form import ItemForm
from fourm.modalities import END_ID, FIRST_SENTINEL
from fourm.sampling.answers import Answer
from fourm.sampling.autoregressive import CachedDecoder
from fourm.sampling.choose import choose
from fourm.sampling.draws import Purpose
from fourm.sampling.gaps import fill_gaps, forbidden_ids
from fourm.sampling.state import SampleState
from fourm.sampling.task import Step, Steps, Task


def generate_sequences(
    task: Task, state: SampleState, last_sentinel: int, form: ItemForm | None = None
) -> Steps[list[np.ndarray]]:
    """The target's ids of every sample, with all gaps filled: B arrays; what is given in part is
    filled in the ``form`` of its items. Raises UserError where there are more gaps than sentinels,
    or than have room.
    """
    options, most = task.options, task.target.num_tokens
    nothing = np.zeros(0, dtype=np.int64)
    given = state.sequences.get(task.target.name) or [nothing] * state.num_samples
    answer = Answer(given, last_sentinel, most, options.most_of_gap, form)
    limit = most + int(answer.num_gaps.max()) + 1
    decoder = CachedDecoder(task.model, task.encode(state), limit)
    never = forbidden_ids(task.target.vocab_size)
    tokens = np.full(state.num_samples, FIRST_SENTINEL)
    decoded = [tokens]  # (B,) each; behind its end a sample holds [END]

    def filled() -> list[np.ndarray]:
        told = zip(given, np.stack(decoded, axis=1), strict=True)
        return [fill_gaps(ids, _until_end(new), last_sentinel) for ids, new in told]

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
        yield Step(limit if answer.finished.all() else step + 1, limit, filled)
    return filled()


def _until_end(ids: np.ndarray) -> np.ndarray:
    """Ids (t,) up to the first [END], which stays."""
    ends = np.flatnonzero(ids == END_ID)
    return ids[: ends[0] + 1] if len(ends) else ids
