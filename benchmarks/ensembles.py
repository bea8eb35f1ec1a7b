"""Do ensembles of generations improve determined targets (4M-21, 2406.09406)?

    python benchmarks/ensembles.py MODEL DATA [--given pixels] [--targets depth,normal,semseg]

Each held-out sample is generated ``--num`` times; an ensemble is the mean of decoded numbers (of
normals the mean direction) or the most frequent class at each pixel. Beside it the mean figure of
single generations (temperature 1, ids decoded) with their deviation, and the model's own settings,
which for determined targets may be the mean of the distribution of each token: the same at no cost.
Nothing is asserted: the table says whether ensembles help.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from fourm.evaluation.held_out import Shards, read_samples
from fourm.evaluation.opened import model_folder
from fourm.features.sources import given_values
from fourm.features.write import columns_of
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.raw import Raw
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal

_BATCH = 32


def joined(raw: Raw, generations: list[np.ndarray]) -> np.ndarray:
    """One answer (N, H, W[, C]) out of several."""
    stacked = np.stack(generations)
    if isinstance(raw, Labels):
        votes = [(stacked == number).sum(0) for number in range(raw.num_classes)]
        return np.argmax(votes, 0).astype(raw.dtype)
    mean = stacked.mean(0)
    if isinstance(raw, Normal):
        mean = mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)
    return mean.astype(stacked.dtype)


def generated(
    pipe: AnyToAnyPipeline, given: dict[str, list[Any]], target: str, seed: int, **settings: Any
) -> Any:
    """Values of all samples (N, H, W[, C])."""
    num, found = len(next(iter(given.values()))), []
    for start in range(0, num, _BATCH):
        part = {name: values[start : start + _BATCH] for name, values in given.items()}
        found += pipe(part, [target], seed=seed + start, **settings)[target].values
    return np.stack(found)


def main() -> None:
    """Print a row for each figure of each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--given", default="pixels")
    parser.add_argument("--targets", default="depth,normal,semseg")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--num", type=int, default=10)
    options = parser.parse_args()
    pipe = AnyToAnyPipeline.from_pretrained(model_folder(options.model))
    known = [pipe.modalities[name] for name in options.targets.split(",")]
    inputs = tuple(pipe.modalities[name] for name in options.given.split(","))
    columns = columns_of(Shards.find(options.data, "val"), (*inputs, *known))
    samples = read_samples(columns, options.samples)
    given = {m.name: given_values(samples, m) for m in inputs}
    heads = ("preferred", "single", "±", f"of {options.num}")
    print(f"{'target':<10}{'figure':<11}" + "".join(f"{head:>11}" for head in heads))
    for m in known:
        truth = np.stack(samples.of(m.name))
        each = [
            generated(pipe, given, m.name, 1000 * i, temperature=1.0, decode="ids")
            for i in range(options.num)
        ]
        preferred = m.raw.figures(generated(pipe, given, m.name, 0), truth)
        single = [m.raw.figures(values, truth) for values in each]
        together = m.raw.figures(joined(m.raw, each), truth)
        for name, value in together.items():
            alone = np.array([figures[name] for figures in single])
            numbers = (preferred[name], alone.mean(), alone.std(), value)
            print(f"{m.name:<10}{name:<11}" + "".join(f"{n:>11.4f}" for n in numbers), flush=True)


if __name__ == "__main__":
    main()
