"""``fourm finetune``: train, judge beside what knows nothing, write the model.

The folder ``out`` holds the run (``checkpoints``, ``log.jsonl``), ``done.json`` with the held-out
figures, and ``model``; with adapters also ``adapters``, which are small and belong to ``init``; of
maps ``held_out.png``: what was given, the answer, the truth.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fourm.config import dump, from_mapping, read_yaml, to_mapping
from fourm.errors import UserError
from fourm.evaluation.opened import model_folder
from fourm.finetune.by_decoder import finetune_decoder
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.goals import ClassGoal, Goal, MapGoal, NumbersGoal
from fourm.finetune.judged import Judged
from fourm.finetune.numbers import numbers_of
from fourm.finetune.pictures import write_pictures
from fourm.finetune.samples import Reader, refuse_itself, stream_of
from fourm.finetune.saved import seen_inputs, write_tuned
from fourm.finetune.task import CONFIG, HeadTask
from fourm.finetune.tuned import build_tuned, num_learning, starting_model
from fourm.modalities import Modality, ModalitySet
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.records.provenance import Provenance
from fourm.training.checkpoints import list_checkpoints
from fourm.training.loop import Loop

_log = logging.getLogger(__name__)
_FIRST = 128  # training samples whose rows a head is fitted to
_SHOWN = 6  # held-out samples in a picture


def finetune(config: FinetuneConfig) -> Judged | None:
    """Train to the end, or go on where an earlier run stopped; None on ranks that only train.
    Raises UserError.
    """
    config = replace(config, init=str(model_folder(config.init)))
    _refuse_other_settings(config)
    return finetune_decoder(config) if config.head is None else finetune_head(config)


def finetune_head(config: FinetuneConfig) -> Judged | None:
    """The same with a head on the encoder."""
    out, head = Path(config.out), config.head
    assert head is not None
    pipe = AnyToAnyPipeline.from_pretrained(config.init, config.tokenizers or None)
    inputs = seen_inputs(pipe.modalities, config.inputs)
    task = _task(config, pipe, inputs)
    tuned = build_tuned(starting_model(pipe.model, config), task.goal, inputs, config)
    with torch.no_grad():
        first = range(min(_FIRST, len(task.train)))
        tuned.head.fit(tuned.rows(stream_of(pipe, task.train.given(first))))
    out.mkdir(parents=True, exist_ok=True)
    loop = Loop(tuned.train(), task, config.loop, out)
    if loop.lead:
        dump(config, out / CONFIG)
        learn, whole = num_learning(tuned)
        _log.info("%s of %s numbers of the encoder learn", f"{learn:,}", f"{whole:,}")
    figures = loop.run()
    if not loop.lead:
        return None
    learn, whole = num_learning(tuned)
    judged = Judged(
        step=loop.step,
        target=config.target,
        inputs=config.inputs,
        learned=f"{head.type_name} head, {_told(config)}",
        num_train=len(task.train),
        num_held_out=len(task.held_out),
        learning=learn,
        of=whole,
        figures=figures,
        baseline=task.baseline(),
        upper={},
    )
    made = Provenance(
        steps=loop.step,
        batch_size=config.loop.batch_size,
        num_samples=len(task.train),
        num_held_out=len(task.held_out),
        started_from_weights=config.weights == "trained",
    )
    write_tuned(config, task.goal, inputs, made, figures)
    _pictures(task, inputs, out / "held_out.png")
    judged.write(out)
    return judged


def _told(config: FinetuneConfig) -> str:
    fresh = ", from random weights" if config.weights == "fresh" else ""
    if config.lora is not None:
        return f"adapters of rank {config.lora.rank}"
    return ("encoder too" if config.learns == "all" else "encoder as it is") + fresh


def _task(config: FinetuneConfig, pipe: AnyToAnyPipeline, inputs: tuple[Modality, ...]) -> HeadTask:
    head = config.head
    assert head is not None
    known = ModalitySet.load(config.modalities) if config.modalities else pipe.modalities
    if head.has_places:
        refuse_itself(known[config.target], inputs)
        goal: Goal = MapGoal(raw=known[config.target].raw)
    reader = Reader(pipe, inputs, known, config)
    train, held_out = reader.training(), reader.held_out()
    if config.numbers:
        names = numbers_of(config.target, known, Path(config.data)).names(len(train.truth[0]))
        goal = NumbersGoal.of(names, train.truth)
    elif not head.has_places:
        goal = ClassGoal(classes=tuple(sorted(set(train.truth))))
    return HeadTask(config, pipe, goal, train, held_out)


def _pictures(task: HeadTask, inputs: tuple[Modality, ...], path: Path) -> None:
    """Answers to some held-out samples, where they are maps."""
    if not isinstance(task.goal, MapGoal):
        return
    some = np.linspace(0, len(task.held_out) - 1, min(_SHOWN, len(task.held_out))).astype(int)
    given = [
        (m.raw, [task.held_out.inputs[m.name][i] for i in some])
        for m in inputs
        if m.raw.has_picture and m.kind == "continuous"
    ]
    answers, truth = ([values[i] for i in some] for values in (task.answers, task.held_out.truth))
    write_pictures(given, task.goal.raw, answers, truth, path)


def _refuse_other_settings(config: FinetuneConfig) -> None:
    """Raise UserError where a run would go on with other settings than it began with; how long and
    how fast it learns may change.
    """
    for checkpoint in list_checkpoints(Path(config.out) / "checkpoints")[-1:]:
        places = checkpoint / CONFIG, Path(config.out) / CONFIG
        described = next((place for place in places if place.is_file()), None)
        if described is None:
            raise UserError(f"{config.out} holds another kind of run: choose another out")
        now = to_mapping(config)
        was = to_mapping(from_mapping(FinetuneConfig, read_yaml(described), str(described)))
        for name in (n for n in now if n not in ("out", "loop", "eval_samples")):
            if was[name] != now[name]:
                raise UserError(
                    f"{config.out} was trained with {name} {was[name]}, the config says"
                    f" {now[name]}: give another folder (out=...), or go on as it was"
                )
