"""Runs a step of data preparation over its shards: on this machine's cores, or on a Ray cluster.

A step is a pure function of one shard (``shard_steps.py``). Each finished shard leaves a manifest;
a rerun does what has none, so a killed run, a killed worker or a full disk costs the shards in
flight and nothing else. The shards' bytes depend neither on the engine nor on the number of
workers.

    fourm import ... --engine ray --address auto        (or --engine local, the default)
    fourm tokenize ... --shard-range 0:100              (one task of a Slurm array)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fourm.data.shards import Damage, DamageReport
from fourm.progress import progress_bar
from fourm_data_prep.engine_local import run_local
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.engine_ray import run_ray
from fourm_data_prep.remarks import Remarks
from fourm_data_prep.shard_steps import ShardStep, counts_of, finished


@dataclass
class Progress:
    """Sum of the manifests of a run."""

    report: DamageReport = field(default_factory=DamageReport)
    remarks: Remarks = field(default_factory=Remarks)
    num_done: int = 0
    num_before: int = 0  # shards that were done already
    counts: Counter[str] = field(default_factory=Counter)  # see ShardResult

    def add(self, manifest: dict[str, Any]) -> None:
        """Count the manifest of one shard."""
        self.num_done += 1
        skipped = DamageReport(entries=[Damage(**entry) for entry in manifest["skipped"]])
        skipped.num_seen = manifest.get("seen", manifest["samples"] + len(skipped.samples))
        self.report.merge(skipped)
        self.counts.update(counts_of(manifest))
        self.remarks.merge(Remarks.from_json(manifest.get("remarks", {})))


def run_step(
    step: ShardStep, config: EngineConfig, max_damage: float, damage: Sequence[Damage] = ()
) -> Progress:
    """Run a step over all its shards (or the range asked for) that are not done.

    Args:
        damage: what was found damaged before there were shards.

    Raises:
        UserError: more than ``max_damage`` of the samples were skipped, or a shard's worker died
            again and again.
    """
    jobs = step.jobs()
    if config.shard_range is not None:
        jobs = jobs[slice(*config.shard_range)]
    progress = Progress(report=DamageReport(max_damage, list(damage), len(damage)))
    open_jobs = []
    for job in jobs:
        manifest = finished(step, job)
        if manifest is None:
            open_jobs.append(job)
        else:
            progress.add(manifest)
            progress.num_before += 1
    run = run_ray if config.engine == "ray" else run_local
    with progress_bar(
        total=len(jobs), initial=len(jobs) - len(open_jobs), desc=step.name, unit="shard"
    ) as bar:
        for manifest in run(step, open_jobs, config):
            progress.add(manifest)
            bar.update()
    progress.report.entries.sort(key=lambda entry: (entry.shard, entry.key))
    progress.report.check(step.out / f"damage-{step.name}.json")
    return progress
