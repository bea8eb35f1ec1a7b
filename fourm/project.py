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

from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.training.checkpoints import newest_checkpoint


@dataclass(frozen=True)
class Project:
    """Where everything of a project lies."""

    root: Path

    @property
    def modalities(self) -> Path:
        return self.root / "modalities.yaml"

    @property
    def pretrain_config(self) -> Path:
        return self.root / "pretrain.yaml"

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def tokenizers(self) -> Path:
        return self.root / "tokenizers"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def pretrain(self) -> Path:
        return self.root / "pretrain"

    @property
    def model(self) -> Path:
        """The finished pipeline folder."""
        return self.root / "model"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def metrics(self) -> Path:
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

    def seconds(self) -> dict[str, float]:
        path = self.root / "stages.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def stage(self, name: str, run: Callable[[], object], finished: Callable[[], bool]) -> None:
        """Run a stage unless it is finished; its seconds add up over interrupted runs."""
        if finished():
            print(f"== {name}: done before", flush=True)
            return
        print(f"== {name}", flush=True)
        started = time.perf_counter()
        try:
            run()
        finally:
            seconds = self.seconds()
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 1)
            write_json_atomic(self.root / "stages.json", seconds)

    def newest(self) -> Path:
        """The newest checkpoint of the pretraining. Raises UserError if there is none."""
        path = newest_checkpoint(self.pretrain / "checkpoints")
        if path is None:
            raise UserError(f"no checkpoint in {self.pretrain}: pretrain first")
        return path


class StageFailed(ValueError):
    """A stage's command ended badly; it has said why itself."""


def accelerate(module: str, *arguments: str, processes: int = 1, threads: int = 0) -> list[str]:
    """The ``accelerate launch`` command line of a module; on CPUs, ``processes`` ranks over
    gloo.
    """
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    if threads:
        command += ["--num_cpu_threads_per_process", str(threads)]
    return [*command, "-m", module, *arguments]


def shown(command: list[str]) -> str:
    """A command line as one would type it."""
    text = shlex.join(command)
    return text.replace(
        shlex.quote(sys.executable) + " -m accelerate.commands.launch", "accelerate launch"
    ).replace(shlex.quote(sys.executable), "python")


def run_all(commands: list[list[str]], at_once: int = 1) -> None:
    """Run commands, ``at_once`` at a time in their order.

    Raises StageFailed at the first failure, after ending the others.
    """
    waiting, running = list(commands), []
    slots = list(range(at_once))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    try:
        while waiting or running:
            while waiting and slots:
                command, slot = waiting.pop(0), slots.pop(0)
                print("   " + shown(command), flush=True)
                running.append(
                    (
                        subprocess.Popen(command, env={**environment, "TQDM_POSITION": str(slot)}),
                        slot,
                        command,
                    )
                )
            for entry in list(running):
                process, slot, command = entry
                code = process.poll()
                if code is None:
                    continue
                running.remove(entry)
                slots.append(slot)
                if code:
                    raise StageFailed(f"stopped with status {code}: {shown(command)}")
            time.sleep(0.05)
    finally:
        for process, _, _ in running:
            process.terminate()
        for process, _, _ in running:
            process.wait()


def tokenize_command(project: Project) -> list[str]:
    return [
        sys.executable,
        "-m",
        "fourm_data_prep.tokenize",
        "--config",
        str(project.modalities),
        "--raw",
        str(project.raw),
        "--tokenizers",
        str(project.tokenizers),
        "--out",
        str(project.tokens),
    ]


def pretrain_command(project: Project, cores: int, overrides: tuple[str, ...] = ()) -> list[str]:
    return accelerate(
        "fourm.training.pretrain",
        "--config",
        str(project.pretrain_config),
        *overrides,
        threads=cores,
    )


def tokenizer_commands(
    project: Project, modalities: ModalitySet, overrides: tuple[str, ...] = ()
) -> list[list[str]]:
    """One command for each tokenizer, the slowest first."""
    common = (
        "--config",
        str(project.modalities),
        "--raw",
        str(project.raw),
        "--out",
        str(project.tokenizers),
        "--cache",
        str(project.cache),
    )

    def cost(name: str) -> float:
        settings = modalities.tokenizers[name]
        return settings.get("dim", 0) ** 2 * settings.get("train", {}).get("steps", 0)

    names = sorted(modalities.tokenizers, key=cost, reverse=True)
    return [
        accelerate(
            "fourm_tokenizers.train",
            *common,
            "--only",
            n,
            *(overrides if cost(n) else ()),
            threads=1,
        )
        for n in names
    ]


def have_tokenizers(project: Project, modalities: ModalitySet) -> bool:
    """True if every tokenizer of the set has been trained to its end."""
    ends = ("figures.json", "tokenizer.json")
    return all(
        any((project.tokenizers / name / end).is_file() for end in ends)
        for name in modalities.tokenizers
    )
