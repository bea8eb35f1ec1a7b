"""Runs a step of data preparation over its shards: on this machine's cores, or on a Ray cluster.

A step is a pure function of one shard. Each finished shard leaves a manifest (hash of its inputs
and settings, what was written, what was skipped and why, seconds); a rerun does what has none, so a
killed run, a killed worker or a full disk costs the shards in flight and nothing else. The shards'
bytes depend neither on the engine nor on the number of workers. A step whose shards are several
files may also note what each file is made from, and make again only those for which that has
changed.

    fourm import ... --engine ray --address auto        (or --engine local, the default)
    fourm tokenize ... --shard-range 0:100              (one task of a Slurm array)
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

from fourm.data.shards import Damage, DamageReport, shard_paths, write_json_atomic
from fourm.errors import UserError
from fourm.files.formats import FORMAT, check_format
from fourm.files.json_files import parse_mapping
from fourm.progress import progress_bar
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.remarks import Remarks

MANIFESTS = "manifests"  # folder of the completion manifests beside the outputs
_PRELOADED = (
    "fourm",
    "fourm_data_prep",
    "fourm_tokenizers",
    "vector_quantize_pytorch",
)  # slow to import; what else is used is imported by workers
_TRIES = 3  # of a shard whose worker died
_STAMP_BYTES = 1 << 16
_DAMAGE_KEYS = {f.name for f in fields(Damage)}


@dataclass(frozen=True)
class Job:
    """One shard of one split; ``inputs`` identifies what it is made from."""

    split: str
    number: int
    inputs: str

    @property
    def name(self) -> str:
        """Name of the shard in manifests, ``<split>-<number>``."""
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class ShardResult:
    """What a step made of one shard."""

    outputs: tuple[str, ...]  # files, relative to the step's folder
    num_samples: int
    damage: tuple[Damage, ...] = ()
    # of a step that makes several files: file -> fingerprint of all that it is made from
    made_from: Mapping[str, str] = field(default_factory=dict)
    # of a step that tells: samples of each ``<split>`` and of each ``<split>/<modality>``
    counts: Mapping[str, int] = field(default_factory=dict)
    # samples that were looked at, where some are both written and listed as damaged
    num_seen: int | None = None
    remarks: Remarks = field(default_factory=Remarks)


@dataclass(frozen=True)
class Before:
    """What an earlier run of a step, with whatever settings, left of a shard."""

    folder: Path  # that outputs are relative to
    made_from: Mapping[str, str]
    num_samples: int
    damage: tuple[Damage, ...]
    counts: Mapping[str, int]
    remarks: Remarks

    @staticmethod
    def of(folder: Path, step: str, job: Job) -> Before:
        """Read the shard's manifest; nothing is left where it is not there or cut short."""
        manifest = _read(folder / MANIFESTS / step / f"{job.name}.json") or {"skipped": ()}
        return Before(
            folder,
            manifest.get("made_from", {}),
            manifest.get("samples", 0),
            tuple(Damage(**entry) for entry in manifest["skipped"]),
            _counts(manifest),
            Remarks.from_json(manifest.get("remarks", {})),
        )

    def has(self, output: str, made_from: str) -> bool:
        """True if a file is there and would be the same if it were made again."""
        return self.made_from.get(output) == made_from and (self.folder / output).is_file()

    def remove_others(self, outputs: Iterable[str], modalities: Iterable[str]) -> None:
        """Remove what the earlier run wrote of some modalities besides these files: of splits in
        which the shard has no sample now.
        """
        names = set(modalities)
        for output in set(self.made_from).difference(outputs):
            if Path(output).parts[1] in names:
                (self.folder / output).unlink(missing_ok=True)


class ShardStep(Protocol):
    """A step of data preparation.

    It is sent to workers, so it holds settings only and opens what it needs there.
    """

    @property
    def name(self) -> str:
        """Name of the step in manifests."""
        ...

    @property
    def out(self) -> Path:
        """Folder that outputs are relative to."""
        ...

    def described(self) -> dict[str, Any]:
        """Settings that change the result, for the manifests."""
        ...

    def jobs(self) -> list[Job]:
        """All shards, in order."""
        ...

    def run(self, job: Job) -> ShardResult:
        """Make one shard: under temporary names, then renamed."""
        ...


def splits_of(folder: Path) -> list[str]:
    """Splits that lie under a folder of shards."""
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name != MANIFESTS
    )


def jobs_of(folder: Path, modality: str) -> list[Job]:
    """A job for each shard of one modality, in order."""
    paths = [
        (split, path)
        for split in splits_of(folder)
        for path in shard_paths(folder, split, modality)
    ]
    return [Job(split, int(path.stem), fingerprint(stamp(path))) for split, path in paths]


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
        self.counts.update(_counts(manifest))
        self.remarks.merge(Remarks.from_json(manifest.get("remarks", {})))


def manifest_path(step: ShardStep, job: Job) -> Path:
    """Where a step notes that a shard is done."""
    return step.out / MANIFESTS / step.name / f"{job.name}.json"


def stamp(path: Path) -> list[Any]:
    """What tells a file from another version of it: name, size, and a hash of its first and last 64
    KiB.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        digest = hashlib.sha256(stream.read(_STAMP_BYTES))
        stream.seek(max(0, size - _STAMP_BYTES))
        digest.update(stream.read(_STAMP_BYTES))
    return [path.name, size, digest.hexdigest()[:16]]


def fingerprint(described: Any) -> str:
    """What tells settings or inputs from others: 16 hexadecimal digits of their JSON."""
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]


def finished(step: ShardStep, job: Job) -> dict[str, Any] | None:
    """The manifest of a shard that is done with these inputs and settings and whose files are
    there, or None.
    """
    manifest = _read(manifest_path(step, job))
    if manifest is None:
        return None
    same = manifest.get("inputs") == job.inputs and manifest.get("settings") == fingerprint(
        step.described()
    )
    return (
        manifest
        if same and all(os.path.isfile(step.out / name) for name in manifest["outputs"])
        else None
    )


def _read(path: Path) -> dict[str, Any] | None:
    """A manifest, or None if it is not there or was cut short by a crash."""
    if not path.is_file():
        return None
    try:
        manifest = parse_mapping(path.read_bytes(), path)
    except UserError:
        return None
    check_format(manifest, path)
    return manifest if _is_whole(manifest) else None


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """False for one that something else than this software has changed."""
    outputs, skipped = manifest.get("outputs"), manifest.get("skipped")
    mappings = (manifest.get(name, {}) for name in ("counts", "made_from", "remarks"))
    return (
        isinstance(outputs, list)
        and all(isinstance(name, str) for name in outputs)
        and isinstance(skipped, list)
        and all(isinstance(one, dict) and set(one) == _DAMAGE_KEYS for one in skipped)
        and isinstance(manifest.get("samples", 0), int)
        and all(isinstance(mapping, dict) for mapping in mappings)
    )


def _counts(manifest: Mapping[str, Any]) -> Mapping[str, int]:
    """Samples of splits and modalities that a manifest tells of; in manifests of releases up to
    0.7 all files of a shard have all its samples.
    """
    if "counts" in manifest:
        return manifest["counts"]
    places = [Path(output).parts[:2] for output in manifest.get("outputs", ())]
    num: int = manifest.get("samples", 0)
    return {name: num for place in places for name in (place[0], "/".join(place))}


def run_job(step: ShardStep, job: Job) -> dict[str, Any]:
    """Make one shard and its manifest."""
    started = time.perf_counter()
    result = step.run(job)
    manifest = {
        "format": FORMAT,
        "inputs": job.inputs,
        "settings": fingerprint(step.described()),
        "outputs": list(result.outputs),
        "samples": result.num_samples,
        "skipped": [asdict(entry) for entry in result.damage],
        "seconds": round(time.perf_counter() - started, 3),
    }
    if result.remarks.num_seen:
        manifest["remarks"] = result.remarks.to_json()
    if result.made_from:
        manifest["made_from"] = dict(result.made_from)
    if result.counts:
        manifest["counts"] = dict(result.counts)
    if result.num_seen is not None:
        manifest["seen"] = result.num_seen
    write_json_atomic(manifest_path(step, job), manifest)
    return manifest


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
    run = _run_ray if config.engine == "ray" else _run_local
    with progress_bar(
        total=len(jobs), initial=len(jobs) - len(open_jobs), desc=step.name, unit="shard"
    ) as bar:
        for manifest in run(step, open_jobs, config):
            progress.add(manifest)
            bar.update()
    progress.report.entries.sort(key=lambda entry: (entry.shard, entry.key))
    progress.report.check(step.out / f"damage-{step.name}.json")
    return progress


# ---- engines -------------------------------------------------------------------------------------


def _num_workers(config: EngineConfig, jobs: list[Job]) -> int:
    return max(1, min(config.workers or os.cpu_count() or 1, len(jobs)))


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


def _run_local(step: ShardStep, jobs: list[Job], config: EngineConfig) -> Iterator[dict[str, Any]]:
    """A pool of processes; when a worker dies, a new pool goes on with what was in flight."""
    if not jobs:
        return
    workers = _num_workers(config, jobs)
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
                    if tries[job] >= _TRIES:
                        raise UserError(
                            f"{step.name}: the worker of shard {job.name} died {_TRIES} times (out"
                            " of memory?)"
                        ) from None
                    manifest = finished(step, job)
                    if manifest is not None:
                        yield manifest
                waiting = lost + waiting
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _run_ray(step: ShardStep, jobs: list[Job], config: EngineConfig) -> Iterator[dict[str, Any]]:
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
        task = ray.remote(num_cpus=1, num_gpus=config.num_gpus, max_retries=_TRIES)(run_job)
        shared = ray.put(step)
        waiting, running = list(jobs), {}
        while waiting or running:
            while waiting and len(running) < 4 * _num_workers(config, jobs):
                job = waiting.pop(0)
                running[task.remote(shared, job)] = job
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                job = running.pop(reference)
                try:
                    yield ray.get(reference)
                except RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except WorkerCrashedError:
                    raise UserError(
                        f"{step.name}: the worker of shard {job.name} died {_TRIES} times (out of"
                        " memory?)"
                    ) from None
    finally:
        if started:
            ray.shutdown()
