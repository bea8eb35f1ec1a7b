"""What the network answers about positions of a grid or set, and where it goes.

The encoder sees what is known, the decoder is asked at the positions, an id is drawn at each.
Shapes: B samples, a answers, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fourm.batches.batch import MASK_QUERY, StreamRows
from fourm.numbers.rng import CounterRNG
from fourm.sampling.choose import choose, log_probability
from fourm.sampling.draws import Purpose
from fourm.sampling.schemes import Answers
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.task import Task

_ROWS = 1024  # answered at once: a handful of (rows x vocabulary) arrays must fit the cache


@dataclass(frozen=True)
class Draw:
    """How an id is drawn from logits, and with which numbers."""

    rng: CounterRNG
    step: int
    temperature: float


@dataclass(frozen=True)
class Question:
    """Positions (a,) of samples (a,), ascending, of one target."""

    task: Task
    sample: np.ndarray
    position: np.ndarray
    draw: Draw


def ask(state: SampleState, *questions: Question) -> list[Answers]:
    """What the network draws, for each question; those of one pass are about targets whose branches
    are the same, and the decoder sees no target from another.
    """
    task = questions[0].task
    num_branches = task.guidance.num_branches
    rows = StreamRows(state.num_samples * num_branches)
    for question in sorted(questions, key=lambda q: q.task.index):
        query = np.full(len(question.sample), MASK_QUERY)
        for branch in range(num_branches):
            sample = question.sample + branch * state.num_samples
            rows.add(question.task.index, sample, question.position, query, 0 * query)
    causal = np.array([m.kind == "sequence" for m in task.model.modalities])
    stream = task.on_device(rows.decoder(causal))
    decoded = task.model.decode(task.encode(state), stream)
    of_modality = decoded[stream.by_modality].split(stream.counts)
    return [_answers(q, of_modality[q.task.index]) for q in questions]


def _answers(question: Question, decoded: Tensor) -> Answers:
    """Ids drawn from decoder output (branches * a, D)."""
    task, draw, sample = question.task, question.draw, question.sample
    options = task.options
    uniform = draw.rng.uniform(task.seeds[sample], Purpose.TOKEN, draw.step, question.position)
    filters = draw.temperature, options.top_k, options.top_p
    parts = []
    for rows, numbers in zip(
        task.guidance.combine(decoded, options.guidance_scale).split(_ROWS),
        task.tensor(uniform).split(_ROWS),
        strict=True,
    ):
        logits = task.logits(rows)
        drawn = choose(logits, numbers, *filters)
        if options.decode == "mean":
            drawn = *drawn, log_probability(logits, *filters).exp()
        parts.append(drawn)
    ids, log_p, entropy, *probability = (
        torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)
    )
    log_p, entropy = log_p.astype(float), entropy.astype(float)
    return Answers(sample, question.position, ids, log_p, entropy, *probability)


def commit(grid: GridState, answers: Answers, stays: np.ndarray | slice = slice(None)) -> None:
    """Put those answers that stay, a mask (a,), into a grid."""
    place = answers.sample[stays], answers.position[stays]
    grid.values[place], grid.known[place] = answers.ids[stays], True
    if grid.entropy is not None:
        grid.entropy[place] = answers.entropy[stays]
    if grid.probability is not None and answers.probability is not None:
        grid.probability[place] = answers.probability[stays]
