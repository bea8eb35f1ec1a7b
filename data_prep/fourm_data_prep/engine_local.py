"""Runs a step's shards in processes of this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any

from fourm.errors import UserError
from fourm_data_prep.engine_options import TRIES, EngineConfig
from fourm_data_prep.shard_steps import Job, ShardStep, finished, run_job

_PRELOADED = (
    "fourm",
    "fourm_data_prep",
    "fourm_tokenizers",
    "vector_quantize_pytorch",
)  # slow to import; what else is used is imported by workers


_step: ShardStep


def start_workers(config: EngineConfig, *modules: str) -> None:
    """Begin to import ``modules`` for the workers of a step to come, while this process goes on
    preparing it.
    """
    if config.engine == "local" and (config.workers or os.cpu_count() or 1) > 1:
        _pool_context(*modules)
        multiprocessing.forkserver.ensure_running()


def _pool_context(*modules: str) -> BaseContext:
    """Workers fork from a server that imports what this process has imported of these packages,
    once: a worker's own imports take seconds.

    Forking this process itself would be quicker still and is not safe: it may hold threads and a
    GPU.
    """
    context = multiprocessing.get_context("forkserver")
    ours = sorted(name for name in sys.modules if name.partition(".")[0] in _PRELOADED)
    context.set_forkserver_preload(["__main__", *ours, *modules])
    return context


def _open_worker(step: ShardStep) -> None:
    global _step
    _step = step
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for shards for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(job: Job) -> dict[str, Any]:
    return run_job(_step, job)


def _submitted(pool: ProcessPoolExecutor, job: Job) -> Future:
    """A job that is in the pool; lost already where the server that workers fork from is gone."""
    try:
        return pool.submit(_run_in_worker, job)
    except (EOFError, ConnectionError):
        lost: Future = Future()
        lost.set_exception(BrokenProcessPool("no worker can be started"))
        return lost


def run_local(step: ShardStep, jobs: list[Job], config: EngineConfig) -> Iterator[dict[str, Any]]:
    """A pool of processes; when a worker dies, a new pool goes on with what was in flight."""
    if not jobs:
        return
    workers = config.num_at_once(len(jobs))
    if workers == 1:
        for job in jobs:
            yield run_job(step, job)
        return
    tries = dict.fromkeys(jobs, 0)
    waiting = list(jobs)
    while waiting:
        with ProcessPoolExecutor(
            workers, mp_context=_pool_context(), initializer=_open_worker, initargs=(step,)
        ) as pool:
            running: dict[Any, Job] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        job = waiting.pop(0)
                        running[_submitted(pool, job)] = job
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        manifest = future.result()
                        del running[future]
                        yield manifest
            except BrokenProcessPool:
                lost = [job for job in running.values() if finished(step, job) is None]
                for job in running.values():
                    tries[job] += 1
                    if tries[job] >= TRIES:
                        raise UserError(
                            f"{step.name}: the worker of shard {job.name} died {TRIES} times (out"
                            " of memory?)"
                        ) from None
                    manifest = finished(step, job)
                    if manifest is not None:
                        yield manifest
                waiting = lost + waiting
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
