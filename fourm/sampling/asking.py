"""What the network answers about positions of a grid or set, and where it goes.

The encoder sees what is known, the decoder is asked at the positions, an id is drawn at each.
Shapes: B samples, a answers, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm.batch import MASK_QUERY, StreamRows
from fourm.rng import CounterRNG
from fourm.sampling.choose import choose, log_probability
from fourm.sampling.draws import Purpose
from fourm.sampling.schemes import Answers
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.task import Task


@dataclass(frozen=True)
class Draw:
    """How an id is drawn from logits, and with which numbers."""

    rng: CounterRNG
    step: int
    temperature: float
    guidance_scale: float


def ask(
    task: Task, state: SampleState, sample: np.ndarray, position: np.ndarray, draw: Draw
) -> Answers:
    """What the network draws at positions (a,) of samples (a,)."""
    options = task.options
    num_branches = task.guidance.num_branches
    rows = StreamRows(state.num_samples * num_branches)
    query = np.full(len(sample), MASK_QUERY)
    for branch in range(num_branches):
        rows.add(task.index, sample + branch * state.num_samples, position, query, 0 * query)
    causal = np.array([m.kind == "sequence" for m in task.model.modalities])
    stream = task.on_device(rows.decoder(causal))
    logits = task.logits(task.model.decode(task.encode(state), stream), draw.guidance_scale)
    uniform = draw.rng.uniform(task.seeds[sample], Purpose.TOKEN, draw.step, position)
    filters = draw.temperature, options.top_k, options.top_p
    drawn = choose(logits, task.tensor(uniform), *filters)
    ids, log_p, entropy = (t.cpu().numpy() for t in drawn)
    probability = None
    if options.decode == "mean":
        probability = log_probability(logits, *filters).exp().cpu().numpy()
    return Answers(sample, position, ids, log_p.astype(float), entropy.astype(float), probability)


def commit(grid: GridState, answers: Answers, stays: np.ndarray | slice = slice(None)) -> None:
    """Put those answers that stay, a mask (a,), into a grid."""
    place = answers.sample[stays], answers.position[stays]
    grid.values[place], grid.known[place] = answers.ids[stays], True
    if grid.entropy is not None:
        grid.entropy[place] = answers.entropy[stays]
    if grid.probability is not None and answers.probability is not None:
        grid.probability[place] = answers.probability[stays]
