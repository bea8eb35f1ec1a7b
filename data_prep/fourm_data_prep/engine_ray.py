"""Runs a step's shards on a Ray cluster (https://docs.ray.io)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from fourm.errors import UserError
from fourm_data_prep.engine_options import TRIES, EngineConfig
from fourm_data_prep.shard_steps import Job, ShardStep, run_job


def run_ray(step: ShardStep, jobs: list[Job], config: EngineConfig) -> Iterator[dict[str, Any]]:
    """One Ray task for each shard; Ray repeats those whose worker died."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayTaskError, WorkerCrashedError  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'fourm[ray]'") from None
    if not jobs:
        return
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {
            "num_cpus": config.workers or os.cpu_count(),
            "include_dashboard": False,
        }
        if config.address:
            options = {"address": config.address}
        ray.init(log_to_driver=False, configure_logging=False, **options)
    try:
        task = ray.remote(num_cpus=1, num_gpus=config.num_gpus, max_retries=TRIES)(run_job)
        shared = ray.put(step)
        waiting, running = list(jobs), {}
        while waiting or running:
            while waiting and len(running) < 4 * config.num_at_once(len(jobs)):
                job = waiting.pop(0)
                running[task.remote(shared, job)] = job
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                job = running.pop(reference)
                try:
                    yield ray.get(reference)
                except RayTaskError as error:
                    # the text of what Ray raises in its place is a traceback
                    known = isinstance(error.cause, UserError)
                    raise error.cause if known else error.as_instanceof_cause() from None
                except WorkerCrashedError:
                    raise UserError(
                        f"{step.name}: the worker of shard {job.name} died {TRIES} times (out of"
                        " memory?)"
                    ) from None
    finally:
        if started:
            ray.shutdown()
