"""A project: one folder with configs, shards, tokenizers, checkpoints, a report, and the stages
that make them.

``make demo`` and ``fourm quickstart`` are projects. Each stage is an ordinary command that a user
could type; it is skipped if its result is there, and every stage resumes by itself, so an
interrupted project is simply started again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fourm.cli.ending import INTERRUPTED, LAST_LINE
from fourm.config import read_yaml
from fourm.data.shards import write_json_atomic
from fourm.errors import StageFailed, UserError
from fourm.modalities import ModalitySet
from fourm.records.tokenizer_settings import state_of
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.cpu_ranks import num_cpu_ranks, rank_environments


@dataclass(frozen=True)
class Project:
    """Where everything of a project lies."""

    root: Path

    @property
    def modalities(self) -> Path:
        """YAML of the modalities and their tokenizers."""
        return self.root / "modalities.yaml"

    @property
    def pretrain_config(self) -> Path:
        """YAML of the pretraining."""
        return self.root / "pretrain.yaml"

    @property
    def raw(self) -> Path:
        """Raw shards."""
        return self.root / "raw"

    @property
    def tokenizers(self) -> Path:
        """Trained tokenizers, a folder each."""
        return self.root / "tokenizers"

    @property
    def tokens(self) -> Path:
        """Token shards."""
        return self.root / "tokens"

    @property
    def cache(self) -> Path:
        """Columns that are read in training; may be deleted."""
        return self.root / "cache"

    @property
    def pretrain(self) -> Path:
        """The newest run: ``pretrain``; ``pretrain-2`` and so on where what is trained has changed
        since.
        """
        return self._run(max(self._runs(), default=1))

    def old_runs(self) -> list[Path]:
        """The runs before the newest, oldest first."""
        return [self._run(number) for number in sorted(self._runs())[:-1]]

    def new_run(self) -> Path:
        """A run folder that is not there yet, for after the newest."""
        return self._run(max(self._runs(), default=1) + 1)

    def _run(self, number: int) -> Path:
        return self.root / ("pretrain" if number < 2 else f"pretrain-{number}")

    def _runs(self) -> set[int]:
        """Numbers of the runs that are there: old ones may have been deleted."""
        endings = (path.name.removeprefix("pretrain-") for path in self.root.glob("pretrain-*/"))
        found = {int(ending) for ending in endings if ending.isdigit()}
        return found | ({1} if (self.root / "pretrain").is_dir() else set())

    @property
    def model(self) -> Path:
        """The finished pipeline folder."""
        return self.root / "model"

    @property
    def report(self) -> Path:
        """The page that shows everything."""
        return self.root / "report.html"

    @property
    def metrics(self) -> Path:
        """Figures as JSON."""
        return self.root / "metrics.json"

    def write_configs(self, source: Path, name: str) -> None:
        """Copy the modality, pretraining and generation configs called ``name`` with this project's
        paths, unless they are there.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for kind, target in (
            ("modalities", self.modalities),
            ("pretrain", self.pretrain_config),
            ("generate", self.root / "generation.yaml"),
        ):
            if not target.is_file():
                target.write_text(
                    (source / kind / f"{name}.yaml")
                    .read_text()
                    .replace("runs/demo", str(self.root))
                )

    def belongs_to(self, source: str) -> None:
        """Note what the project is made from. Raises UserError if it was made from something else:
        its stages would all count as done.
        """
        note = self.root / "project.json"
        made_from = json.loads(note.read_text())["source"] if note.is_file() else source
        if made_from != source:
            raise UserError(
                f"{self.root} was made from {made_from}, not from {source}: give another --out, or"
                " delete it first"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        write_json_atomic(note, {"source": source})

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        path = self.root / "stages.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def stage(self, name: str, run: Callable[[], object], finished: Callable[[], bool]) -> bool:
        """Run a stage unless it is finished; True if it ran. Its seconds add up over interrupted
        runs.

        Raises StageFailed that says how to go on.
        """
        if finished():
            print(f"== {name}: done before", flush=True)
            return False
        print(f"== {name}", flush=True)
        started = time.perf_counter()
        try:
            run()
        except StageFailed as failed:
            if failed.status == INTERRUPTED:
                raise
            line = f"{failed} (in the stage {name} of {self.root}; what is finished is kept: when"
            raise StageFailed(
                f"{line} this is mended, the same command goes on from here)", failed.status
            ) from None
        finally:
            seconds = self.seconds()
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 1)
            write_json_atomic(self.root / "stages.json", seconds)
        return True

    def newest(self) -> Path:
        """The newest checkpoint of the pretraining. Raises UserError if there is none."""
        path = newest_checkpoint(self.pretrain / "checkpoints")
        if path is None:
            raise UserError(f"no checkpoint in {self.pretrain}: pretrain first")
        return path


def is_newer(result: Path, source: Path) -> bool:
    """True if both files are there and ``result`` was written last."""
    if not (result.is_file() and source.is_file()):
        return False
    return result.stat().st_mtime_ns >= source.stat().st_mtime_ns


def command_line(verb: str, *arguments: str | Path) -> list[str]:
    """The command line ``fourm verb arguments...``, by this Python."""
    return [sys.executable, "-m", "fourm", verb, *map(str, arguments)]


def shown(command: list[str]) -> str:
    """A command line as one would type it."""
    return shlex.join(command).replace(f"{shlex.quote(sys.executable)} -m fourm", "fourm")


@dataclass
class _Stage:
    """A command as it runs."""

    command: list[str]
    slot: int  # line of its progress bar
    process: subprocess.Popen[bytes]
    last_line: Path  # where it leaves what it has to say at its end

    def failure(self) -> StageFailed | None:
        """What went wrong, once it has ended."""
        code = self.process.returncode
        if not code:
            return None
        if self.last_line.is_file():
            return StageFailed(self.last_line.read_text(), code)
        how = f"was ended by signal {-code}" if code < 0 else f"stopped with status {code}"
        return StageFailed(f"error: this {how}: {shown(self.command)}", abs(code))


_SAVING_SECONDS = 30.0  # that commands have to end by themselves after Ctrl-C


def run_all(commands: list[list[str]], at_once: int = 1, threads: int = 0, ranks: int = 1) -> None:
    """Run commands, ``at_once`` at a time in their order, with ``threads`` CPU threads each (0 =
    torch's choice), or a single one as so many ``ranks``.

    Raises StageFailed at the first failure, after ending the others.
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    assert ranks == 1 or len(commands) == 1, "ranks of one training at a time"
    waiting = [(command, of_rank) for command in commands for of_rank in rank_environments(ranks)]
    slots = list(range(at_once * ranks))
    running: list[_Stage] = []
    with TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and slots:
                    (command, of_rank), slot = waiting.pop(0), slots.pop(0)
                    if of_rank.get("RANK", "0") == "0":
                        print("   " + shown(command), flush=True)
                    last_line = Path(folder, str(len(waiting)))
                    theirs = {"TQDM_POSITION": str(slot), LAST_LINE: str(last_line)}
                    process = subprocess.Popen(command, env={**environment, **theirs, **of_rank})
                    running.append(_Stage(command, slot, process, last_line))
                for stage in list(running):
                    if stage.process.poll() is None:
                        continue
                    running.remove(stage)
                    slots.append(stage.slot)
                    failure = stage.failure()
                    if failure is not None:
                        raise failure
                time.sleep(0.05)
        except KeyboardInterrupt:
            # a terminal sends Ctrl-C to the commands as well, and one that trains saves: a second
            # signal now would end it before it has
            patience = time.monotonic() + _SAVING_SECONDS
            while any(s.process.poll() is None for s in running) and time.monotonic() < patience:
                time.sleep(0.05)
            raise
        finally:
            for stage in running:
                stage.process.terminate()
            for stage in running:
                stage.process.wait()


def tokenize_command(project: Project) -> list[str]:
    """``fourm tokenize`` of a whole project."""
    return command_line("tokenize", project.root)


def pretrain_command(project: Project, overrides: tuple[str, ...] = ()) -> list[str]:
    """``fourm pretrain`` with the project's config."""
    return command_line("pretrain", project.pretrain_config, *overrides)


def cores_of_pretraining(project: Project, cores: int) -> dict[str, int]:
    """How ``run_all`` pretrains on all cores: as several ranks where there is no accelerator."""
    loop = read_yaml(project.pretrain_config)["loop"]
    ranks = num_cpu_ranks(cores, loop["batch_size"] // loop.get("micro_batches", 1))
    return {"threads": cores // ranks, "ranks": ranks}


def tokenizer_commands(
    project: Project,
    modalities: ModalitySet,
    changes: Callable[[int], tuple[str, ...]],
    missing_only: bool = True,
) -> list[list[str]]:
    """One command for each tokenizer (that is not trained), the slowest first; ``changes`` makes
    overrides from the steps that a learned one's config has.
    """

    def steps(name: str) -> int:
        return modalities.tokenizers[name].get("train", {}).get("steps", 0)

    def cost(name: str) -> float:
        return modalities.tokenizers[name].get("dim", 0) ** 2 * steps(name)

    return [
        command_line(
            "train-tokenizer",
            project.modalities,
            *(changes(steps(name)) if cost(name) else ()),
            "--raw",
            project.raw,
            "--out",
            project.tokenizers,
            "--cache",
            project.cache,
            "--only",
            name,
        )
        for name in sorted(modalities.tokenizers, key=cost, reverse=True)
        if not (missing_only and has_tokenizer(project, modalities, name))
    ]


def has_tokenizer(project: Project, modalities: ModalitySet, name: str) -> bool:
    """True if a tokenizer of the set has been trained to its end as the set declares it, or is used
    by none of its modalities.
    """
    used = any(m.tokenizer == name for m in modalities)
    return not used or state_of(project.tokenizers / name, name, modalities) == "unchanged"


def have_tokenizers(project: Project, modalities: ModalitySet) -> bool:
    """That of every tokenizer of the set."""
    return all(has_tokenizer(project, modalities, name) for name in modalities.tokenizers)
