"""Where a run begins: a trained model, and what of it learns first.

What a model has never seen begins at random. While that finds its place, its gradients would pull
the rest away from what it knows; so new rows may first learn alone, with everything that was kept
exactly as it was. Then all learn: the optimizers begin anew, and their rates may rise anew. Both
depend on the step alone, so that a run resumed at any step is the run that was never stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fourm.config import at_least, from_mapping, to_mapping
from fourm.errors import UserError
from fourm.files.model_files import read_description
from fourm.modalities import ModalitySet
from fourm.model.model import FourM, ModelConfig, load_model
from fourm.records.hub import find_model
from fourm.training.checkpoints import list_checkpoints
from fourm.training.differences import (
    Fingerprints,
    other_sizes,
    other_vocabularies,
    read_vocabularies,
)
from fourm.training.sharding import local, rows_of
from fourm.training.transplant import TRANSPLANT_FILE, Resized, Rows, Transplant, transplant

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """How what is new joins what ``init`` knows."""

    steps: int = 0  # in which what is new learns alone
    warmup: int = 0  # steps of linear rise of the learning rates after that
    # rows that were kept stay as they are in tables that new rows have joined: what is known loses
    # most by their moving at the rates that new ones need
    hold: bool = True
    grown: tuple[str, ...] = ()  # vocabularies that were added to: their first ids are kept
    stretched: tuple[str, ...] = ()  # sets whose learned places are interpolated to a new number
    # vocabularies whose tokenizer was trained again, so that they begin fresh
    retrained: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least(self, 0, "steps", "warmup")

    def check(self, other: Iterable[str], start: str) -> None:
        """Raise UserError for a vocabulary whose ids mean other things than in ``start``, unless
        it is known here.
        """
        known = {*self.grown, *self.retrained}
        unknown = sorted(set(other) - known)
        if unknown:
            name = unknown[0]
            raise UserError(
                f"the tokenizer of {name} is not the one {start} was trained with: use that one, or"
                f" say warm_start.retrained=[{name}] and its ids begin fresh (grown=[{name}] if ids"
                " were only added)"
            )


@dataclass(frozen=True)
class Start:
    """A model and what became of the weights that it has from another."""

    model: FourM
    moved: Transplant | None = None  # None: all are its own


def start_from(
    name: str | Path,
    modalities: ModalitySet,
    fingerprints: Fingerprints,
    seed: int,
    warm: WarmStartConfig | None = None,
) -> Start:
    """A model for ``modalities`` with the weights of another that still fit; it keeps its size.

    Args:
        name: model folder or hub id, ours or a released one.
        fingerprints: of the tokenizers in use, as far as they are known.
        seed: of the weights that are fresh.
        warm: what is meant; without it, whatever does not fit is fresh.

    Raises UserError if there is no such model or nothing of it fits.
    """
    folder = find_model(name, "init")
    old = load_model(folder)
    known = read_vocabularies(folder)
    other = other_vocabularies(old.modalities, modalities, known, fingerprints)
    if warm is not None:
        warm.check(other, str(name))
    # their order too: rows of both have numbers that follow from it
    if old.modalities.modalities == modalities.modalities and not other:
        return Start(old)
    _need_overlap(str(name), old.modalities, modalities)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        new = FourM(old.config, modalities)
    resized = Resized(grown=warm.grown, stretched=warm.stretched) if warm is not None else None
    return Start(new, transplant(old, new, known, fingerprints, resized))


def resumed(out: Path, modalities: ModalitySet) -> Start | None:
    """The model of a run that has checkpoints, before their weights are loaded: what it began with
    need not be there any more. None if there is nothing to go on with.
    """
    for checkpoint in list_checkpoints(out / "checkpoints")[-1:]:
        described = read_description(checkpoint)
        if described is not None and "model" in described:
            config = from_mapping(ModelConfig, described["model"], str(checkpoint))
            told = out / TRANSPLANT_FILE
            model = FourM(config, modalities)
            return Start(model, Transplant.read(told) if told.is_file() else None)
    return None


def warn_of_other_sizes(start: str, model: FourM, wanted: ModelConfig) -> None:
    """Say so where a config asks for another size of model than the one it begins with has."""
    found = other_sizes(to_mapping(model.config), to_mapping(wanted))
    if found and wanted != ModelConfig():
        _log.warning("the model keeps the size of %s, although %s", start, "; ".join(found))


def _need_overlap(start: str, old: ModalitySet, new: ModalitySet) -> None:
    names, vocabularies = {m.name for m in old}, set(old.vocab_sizes)
    if not names & {m.name for m in new} and not vocabularies & set(new.vocab_sizes):
        raise UserError(
            f"{start} and this run have no modality in common ({', '.join(m.name for m in old)};"
            f" {', '.join(m.name for m in new)}): leave init out, or name them alike"
        )


# ---- what learns when ----------------------------------------------------------------------------


class Stages:
    """Which parameters learn at a step (the loop's ``Staged`` protocol).

    Args:
        fresh: tensor -> its rows that are new, None = all of it; these alone learn in the first
            ``config.steps``.
        frozen: kept rows of tensors in ``fresh`` never learn (all other tensors that do not are
            ``requires_grad`` False).
    """

    def __init__(
        self, config: WarmStartConfig, fresh: dict[str, list[Rows] | None], frozen: bool = False
    ) -> None:
        self._config, self._fresh, self._frozen = config, fresh, frozen
        self._masks: dict[str, Tensor] = {}
        if config.steps and not fresh:
            raise UserError(
                "warm_start.steps: nothing in the model is new that could learn alone; leave it out"
            )

    def begin(self, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> float:
        """Ready the optimizers for ``step`` (from 0); returns the share of the learning rates."""
        steps, warmup = self._config.steps, self._config.warmup
        if step == 0 and steps:
            _log.info("steps 1 to %d: what is new learns alone (%s)", steps, self._told())
        if step == steps and steps:
            _log.info("from step %d on all that is trained learns", steps + 1)
            for optimizer in optimizers:
                optimizer.state.clear()
        self._hold_decay(self._alone(step) or self._frozen, model, optimizers)
        return 1.0 if step < steps or not warmup else min(1.0, (step - steps + 1) / warmup)

    def restrict(self, step: int, model: nn.Module) -> None:
        """Take away the gradients of what does not learn at ``step``: none, an optimizer leaves a
        tensor alone; zero from the first step on, it leaves rows as they are.
        """
        alone = self._alone(step)
        if not (alone or self._frozen):
            return
        for name, p in model.named_parameters():
            if p.grad is None:
                continue
            if alone and name not in self._fresh:
                p.grad = None
            elif self._fresh.get(name) is not None:
                local(p.grad).mul_(self._mask(name, p))

    def _alone(self, step: int) -> bool:
        return step < self._config.steps

    def _hold_decay(
        self, held: bool, model: nn.Module, optimizers: list[torch.optim.Optimizer]
    ) -> None:
        """Decay would move rows that are held."""
        parts = {p for name, p in model.named_parameters() if self._fresh.get(name) is not None}
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if "weight_decay" not in group:
                continue
            decay = group.setdefault("usual_decay", group["weight_decay"])
            holds = held and any(p in parts for p in group["params"])
            group["weight_decay"] = 0.0 if holds else decay

    def _mask(self, name: str, parameter: nn.Parameter) -> Tensor:
        """(V, 1): 1 for rows that are new, of those that this rank has."""
        if name not in self._masks:
            mask = torch.zeros(len(parameter), *(1 for _ in parameter.shape[1:]))
            for rows in self._fresh[name] or ():
                mask[slice(*rows)] = 1.0
            own = rows_of(parameter)
            if own is not None:
                mask = mask[own.start : own.stop]
            self._masks[name] = mask.to(parameter.device)
        return self._masks[name]

    def _told(self) -> str:
        return ", ".join(
            name if rows is None else f"{name}: {sum(b - a for a, b in rows):,} rows"
            for name, rows in self._fresh.items()
        )
