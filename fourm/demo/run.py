"""``make demo``: render a world, train its tokenizers, pretrain, generate any-to-any, examine,
report.

    fourm demo [--size smoke|default|large] [--out runs/demo]

Every stage is skipped if it is done and resumes if it was cut short. At the end ``report.html`` and
``metrics.json`` lie in ``out``.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from fourm.data.shards import write_json_atomic
from fourm.demo.examine import evaluate, finish_metrics, print_summary
from fourm.demo.scenes_to_shards import SHARD_SCENES, VALIDATION_SEED, write_scene_shard
from fourm.errors import UserError
from fourm.evaluation.project_report import assemble
from fourm.modalities import ModalitySet
from fourm.progress import progress_bar
from fourm.project.project import Project
from fourm.project.run import Making, run_project
from fourm.resources import configs_folder


@dataclass(frozen=True)
class DemoSize:
    """How much of everything; ``config`` names the YAML files."""

    config: str
    train_scenes: int
    held_out_scenes: int
    overrides: tuple[str, ...] = ()  # of the pretraining
    tokenizer_overrides: tuple[str, ...] = ()


SIZES = {
    "smoke": DemoSize(
        "demo", 512, 48, ("loop.steps=40", "loop.checkpoint_every=20"), ("train.steps=30",)
    ),
    "default": DemoSize("demo", 10240, 256),
    "large": DemoSize("demo_large", 40960, 512),
}


def run_demo(size: str, out: Path, world_seed: int = 0) -> None:
    """The whole demo. Raises UserError for an unknown size."""
    if size not in SIZES:
        raise UserError(f"unknown size {size!r}; known are {', '.join(SIZES)}")
    chosen, project = SIZES[size], Project(out)
    project.belongs_to(f"the demo world, size {size}")
    project.write_configs(configs_folder(), chosen.config)
    pixels = ModalitySet.load(project.modalities)["rgb"].raw.pixels
    making = Making(
        raw=lambda: _render(project, chosen, world_seed, pixels),
        raw_is_made=lambda edits: (project.raw / "done.json").is_file(),
        tokenizer_overrides=lambda steps: chosen.tokenizer_overrides,
        overrides=chosen.overrides,
        report=lambda: _evaluate(project, chosen),
    )
    run_project(out, making=making)
    print_summary(finish_metrics(project))
    print(
        f"\nfigures: {project.metrics}\ntry:     fourm generate --model"
        f" {project.model} --caption 'a large red cube left of a small blue sphere'"
    )


def _evaluate(project: Project, size: DemoSize) -> None:
    assemble(project)
    evaluate(project, 0, size.held_out_scenes)
    assemble(project)  # its card tells the figures


def _render(project: Project, size: DemoSize, seed: int, pixels: int) -> None:
    jobs = [
        ("val", VALIDATION_SEED + seed, i, size.held_out_scenes)
        for i in range(-(-size.held_out_scenes // SHARD_SCENES))
    ]
    jobs += [
        ("train", seed, i, size.train_scenes) for i in range(-(-size.train_scenes // SHARD_SCENES))
    ]
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
        progress_bar(total=len(jobs), desc="render", unit="shard") as bar,
    ):
        futures = [
            pool.submit(write_scene_shard, project.raw, split, s, i, n, pixels)
            for split, s, i, n in jobs
        ]
        for future in as_completed(futures):
            future.result()
            bar.update()
    write_json_atomic(
        project.raw / "done.json",
        {"train": size.train_scenes, "val": size.held_out_scenes, "seed": seed},
    )
