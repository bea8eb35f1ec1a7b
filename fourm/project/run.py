"""``fourm run PROJECT``: from raw shards to a trained model and its report, for any set of
modalities.

    fourm run PROJECT [--only tokens,model] [--from tokens] [--minutes 5] [KEY=VALUE]...

``fourm quickstart`` and ``fourm demo`` are this with raw shards of their own (``Making``). Each
stage is an ordinary command, skipped where its result is what the files say (``project_edits``) and
resumed where it was cut short; so the same command goes on after whatever stopped it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fourm.data.ranges import settle_ranges
from fourm.errors import Interrupted, UserError, nearest
from fourm.modalities import ModalitySet
from fourm.project.clean import find_unused, told_size
from fourm.project.defaults import complete_modalities, write_pretrain_config
from fourm.project.edits import Edits, NextRun
from fourm.project.minutes import MINUTES, shortened, steps_in
from fourm.project.project import (
    Project,
    command_line,
    cores_of_pretraining,
    have_tokenizers,
    is_newer,
    pretrain_command,
    run_all,
    tokenize_command,
    tokenizer_commands,
)

STAGES = ("raw", "tokenizers", "tokens", "model", "report")


@dataclass(frozen=True, kw_only=True)
class Making:
    """What a project is made by, where that is more than its folder says.

    ``raw`` makes the raw shards (None: they are there), ``raw_is_made`` tells if it has;
    ``tokenizer_overrides`` turns the steps that a learned tokenizer's config has into overrides,
    ``overrides`` are those of the pretraining, and no edit; ``report`` writes the report instead of
    ``fourm report``.
    """

    raw: Callable[[], object] | None = None
    raw_is_made: Callable[[Edits], bool] = lambda edits: edits.is_made("raw")
    tokenizer_overrides: Callable[[int], tuple[str, ...]] | None = None
    overrides: tuple[str, ...] = ()
    report: Callable[[], object] | None = None


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked for this time.

    ``only`` names stages, ``start`` the first of them; ``minutes`` is about how long to pretrain,
    ``overrides`` are ``KEY=VALUE`` of ``pretrain.yaml``.
    """

    only: tuple[str, ...] = ()
    start: str = ""
    minutes: float | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.only, *([self.start] if self.start else [])):
            if name not in STAGES:
                raise UserError(
                    f"no stage {name!r}; there are {', '.join(STAGES)}{nearest(name, STAGES)}"
                )
        for override in self.overrides:
            if override.partition("=")[0] in ("out", "init", "modalities"):
                raise UserError(f"{override}: this is the project's own; fourm pretrain takes it")

    def has(self, stage: str) -> bool:
        """True if a stage is asked for."""
        first = STAGES.index(self.start) if self.start else 0
        return STAGES.index(stage) >= first and (not self.only or stage in self.only)


def run_project(root: Path, wishes: Wishes | None = None, making: Making | None = None) -> Project:
    """Make what is asked for of a project and is not up to date.

    Raises UserError where something is lacking, StageFailed where a stage ends badly.
    """
    project, wishes, making = Project(root), wishes or Wishes(), making or Making()
    if not root.is_dir():
        raise UserError(
            f"no folder {root}: a project has modalities.yaml and raw shards; fourm import SOURCE"
            f" --config MODALITIES.yaml --out {root / 'raw'} makes these"
        )
    if making.raw is None and any((project.raw / "train").glob("*/*.tar")):
        _settle(project)  # lengths of sequences are measured on numbers that are spelled
    complete_modalities(project)
    modalities = ModalitySet.load(project.modalities)
    if making.raw is None:
        _check_raw(project, modalities)
    write_pretrain_config(project, modalities, wishes.minutes or MINUTES)
    with _ending_stages():
        _Run(project, wishes, making).all()
    return project


def _settle(project: Project) -> bool:
    """Measure ranges that the files leave open; True if there were some."""
    lines = settle_ranges(project.modalities, project.raw)
    for line in lines:
        print(line, flush=True)
    return bool(lines)


def _check_raw(project: Project, modalities: ModalitySet) -> None:
    """Raise UserError where there is nothing to make a modality from."""
    for split in ("train", "val"):
        lacking = [
            m.raw_name
            for m in modalities
            if not any((project.raw / split / m.raw_name).glob("*.tar"))
            and (m.kind == "continuous" or not any((project.tokens / split / m.name).glob("*.*")))
        ]
        if lacking:
            raise UserError(
                f"no shards of {', '.join(dict.fromkeys(lacking))} under {project.raw / split}:"
                f" fourm import SOURCE --config {project.modalities} --out {project.raw} makes them"
                " from files, or take what is not there out of modalities.yaml"
            )


@dataclass
class _Run:
    """The stages of one project, with its files as they are now."""

    project: Project
    wishes: Wishes
    making: Making
    edits: Edits = field(init=False)
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    def all(self) -> None:
        """Run what is asked for and not done."""
        self.edits = Edits(self.project, self.wishes.overrides)
        table = self.edits.table()
        if table:
            print(f"what the YAML files say now, beside what was made:\n{table}\n", flush=True)
        self._raw()
        self._tokens(self._tokenizers())
        if self.wishes.has("model") or self.wishes.has("report"):
            run = self.edits.next_run()
            self._model(run)
            self._report(run)
        unused = find_unused(self.project)
        if unused:
            size = told_size(sum(item.size for item in unused))
            print(f"unused:  {size} that nothing needs any more: fourm clean {self.project.root}")

    def _raw(self) -> None:
        making, edits = self.making, self.edits
        if making.raw is not None and self.wishes.has("raw"):
            self.project.stage("raw", making.raw, lambda: making.raw_is_made(edits))
        if _settle(self.project):
            self.edits = edits = Edits(self.project, self.wishes.overrides)
        if making.raw is not None and self.wishes.has("raw"):
            edits.note("raw")

    def _tokenizers(self) -> bool:
        """True if some have been trained."""
        project, modalities, minutes = self.project, self.edits.modalities, self.wishes.minutes
        changes = self.making.tokenizer_overrides
        if changes is None:
            changes = lambda steps: shortened(minutes, steps) if minutes else ()  # noqa: E731
        commands = tokenizer_commands(project, modalities, changes)
        return self.wishes.has("tokenizers") and project.stage(
            "tokenizers",
            lambda: run_all(commands, at_once=self.cores, threads=1),
            lambda: have_tokenizers(project, modalities),
        )

    def _tokens(self, trained: bool) -> None:
        if self.wishes.has("tokens"):
            self.project.stage(
                "tokens",
                lambda: run_all([tokenize_command(self.project)]),
                lambda: self.edits.is_made("tokens") and not trained,
            )
            self.edits.note("tokens")

    def _model(self, run: NextRun) -> None:
        if not self.wishes.has("model"):
            return
        overrides = self.wishes.overrides
        if self.wishes.minutes is not None and not run.steps:
            steps = steps_in(self.wishes.minutes, self.edits.asked, self.edits.modalities)
            overrides = (f"loop.steps={steps}", *overrides)
        overrides = (*self.making.overrides, *overrides, *run.overrides(self.edits.config))

        def pretrain() -> None:
            if run.why:
                print(f"   a new run, {run.out.name}: {run.why}", flush=True)
            command = pretrain_command(self.project, overrides)
            run_all([command], **cores_of_pretraining(self.project, self.cores))

        self.project.stage("model", pretrain, lambda: run.is_finished)
        self.edits.note("model")

    def _report(self, run: NextRun) -> None:
        project = self.project
        if not self.wishes.has("report"):
            return
        report = self.making.report
        if report is None:
            report = lambda: run_all([command_line("report", project.root)])  # noqa: E731
        made = lambda: is_newer(project.report, run.out / "done.json")  # noqa: E731
        project.stage("report", report, made)
        print(f"project: {project.root} (edit its YAML files and run it again)")
        print(f"report:  {project.report}")


@contextmanager
def _ending_stages():
    """A signal that ends a project lets the commands that run save first, as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped; what is finished is kept, the same command goes on from there")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
