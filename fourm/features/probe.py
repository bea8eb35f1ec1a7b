"""``fourm probe``: how well classes are told from frozen features with few labels, and what a model
must be better than. Shots are labels in all, not of each class; each seed draws its own, the same
for every source and head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourm.config import at_least, check_fields, to_mapping
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError, nearest
from fourm.features.heads import HEADS, Frozen, Head
from fourm.features.labels import Labels, labels_of
from fourm.features.opening import encoder_source
from fourm.features.sources import FeatureSource, baselines
from fourm.features.write import write_features
from fourm.files.formats import FORMAT

MAJORITY = "majority"


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """What is probed, and with how much."""

    inputs: str = "rgb"
    layers: str = "-1"
    heads: tuple[str, ...] = tuple(HEADS)
    shots: tuple[int, ...] = (30, 100, 1000)
    seeds: int = 3
    train_split: str = "train"
    split: str = "val"
    samples: int = 1000  # most that are judged
    with_baselines: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        at_least(self, 1, "seeds", "samples")
        if not self.shots or min(self.shots) < 2:
            raise UserError(f"shots must be at least 2 labels, not {list(self.shots)}")
        for name in self.heads:
            if name not in HEADS:
                raise UserError(f"no probe {name!r}: {', '.join(HEADS)}{nearest(name, HEADS)}")


@dataclass(frozen=True)
class Score:
    """Accuracy of one head on one source's features, of one label with a number of shots."""

    label: str
    source: str
    head: str
    shots: int
    accuracy: float  # mean over seeds
    deviation: float  # over seeds


@dataclass(frozen=True)
class Task:
    """A label's known classes in both splits."""

    name: str
    train: np.ndarray  # (n,) numbers of samples that have a class
    train_classes: np.ndarray  # (n,) text
    test: np.ndarray  # (m,)
    test_classes: np.ndarray  # (m,)

    @property
    def majority(self) -> float:
        """Accuracy of the training split's commonest class."""
        commonest = Counter(self.train_classes.tolist()).most_common(1)[0][0]
        return float((self.test_classes == commonest).mean())

    def drawn(self, shots: int, seed: int) -> np.ndarray:
        """Places of ``shots`` training samples; those of few are among those of many."""
        return np.random.default_rng(seed).permutation(len(self.train))[:shots]


@dataclass(frozen=True)
class ProbeTable:
    """All scores."""

    num_test: dict[str, int]  # by label
    scores: tuple[Score, ...]

    def text(self) -> str:
        """A table for a terminal, per cent."""
        shots = list(dict.fromkeys(score.shots for score in self.scores if score.shots))
        cells = {(s.label, s.source, s.head, s.shots): s for s in self.scores}
        lines = [f"{'label':<12}{'features':<20}{'probe':<11}" + "".join(f"{n:>14}" for n in shots)]
        for label, source, head in dict.fromkeys(key[:3] for key in cells):
            each = [cells.get((label, source, head, n)) for n in (shots if head else [0])]
            shown = "".join(f"{_per_cent(score):>14}" for score in each)
            lines.append(f"{label:<12}{source:<20}{head:<11}{shown}")
        return "\n".join(lines)


def _per_cent(score: Score | None) -> str:
    if score is None:
        return ""
    spread = f" ± {100 * score.deviation:.1f}" if score.head else ""
    return f"{100 * score.accuracy:.1f}{spread}"


def probe(
    model: str | Path, data: Path, labels: Sequence[str], out: Path, settings: ProbeSettings
) -> ProbeTable:
    """Train and judge all probes; features are kept under ``out`` for the next time. Writes
    ``probe.json``.
    """
    source = encoder_source(model, settings.inputs, out, settings.layers, "none")
    known = [labels_of(text, source.pipe.modalities, data) for text in labels]
    sources: list[FeatureSource] = [source]
    if settings.with_baselines:
        sources += baselines(source)
    scores: list[Score] = []
    tasks: list[Task] = []
    for each in sources:
        train, test = _both_splits(each, data, out, settings)
        if not tasks:
            tasks = [_task(label, train, test, settings) for label in known]
            scores += [Score(t.name, MAJORITY, "", 0, t.majority, 0.0) for t in tasks]
        for task in tasks:
            scores += _scores(each.name, task, train, test, settings)
    ordered = sorted(scores, key=lambda score: [task.name for task in tasks].index(score.label))
    table = ProbeTable({task.name: len(task.test) for task in tasks}, tuple(ordered))
    described = {"format": FORMAT, "model": str(model), "data": str(data)}
    described |= {"settings": to_mapping(settings), **to_mapping(table)}
    write_json_atomic(out / "probe.json", described)
    return table


def _both_splits(
    source: FeatureSource, data: Path, out: Path, settings: ProbeSettings
) -> tuple[Frozen, Frozen]:
    """Features to learn from, of twice as many samples as are ever drawn, and to be judged by."""
    folder = out / "features" / source.name.replace(" ", "-")
    train = write_features(
        source, data, settings.train_split, folder / "train", 2 * max(settings.shots)
    )
    test = write_features(source, data, settings.split, folder / "test", settings.samples)
    return Frozen(train), Frozen(test)


def _task(label: Labels, train: Frozen, test: Frozen, settings: ProbeSettings) -> Task:
    """Raises UserError where a label is known of too few samples, or tells nothing."""
    found = []
    for frozen, split in ((train, settings.train_split), (test, settings.split)):
        classes = label.of(frozen.latents.keys, split)
        at = np.array([i for i, name in enumerate(classes) if name is not None], int)
        found += [at, np.array([name for name in classes if name is not None], str)]
    task = Task(label.name, *found)
    if len(task.train) < max(settings.shots) or not len(task.test):
        raise UserError(
            f"label {label.name} is known of {len(task.train)} samples of {settings.train_split}"
            f" and {len(task.test)} of {settings.split}: {max(settings.shots)} shots are too many"
            if len(task.test)
            else f"label {label.name} is known of no sample of {settings.split}"
        )
    num = len(set(task.train_classes.tolist()))
    if num < 2 or num > len(task.train) // 2:
        raise UserError(
            f"label {label.name} has {num} classes in {len(task.train)} samples: nothing to learn"
        )
    return task


def _scores(
    source: str, task: Task, train: Frozen, test: Frozen, settings: ProbeSettings
) -> list[Score]:
    heads = [HEADS[name] for name in settings.heads]
    found = []
    for head in (head for head in heads if train.have_tokens or not head.needs_tokens):
        for shots in settings.shots:
            accuracies = [
                _accuracy(head, task, shots, seed, train, test) for seed in range(settings.seeds)
            ]
            mean, spread = float(np.mean(accuracies)), float(np.std(accuracies))
            found.append(Score(task.name, source, head.name, shots, mean, spread))
    return found


def _accuracy(head: Head, task: Task, shots: int, seed: int, train: Frozen, test: Frozen) -> float:
    at = task.drawn(shots, seed)
    classes = task.train_classes[at]
    if len(set(classes.tolist())) < 2:  # nothing to be learnt: the one class is the answer
        return float((task.test_classes == classes[0]).mean())
    predicted = head.predict(train, task.train[at], classes, test, seed)
    return float((predicted[task.test] == task.test_classes).mean())
