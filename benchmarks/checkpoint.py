"""How long a save stops a training, and what a sharded start leaves of a rank's memory.

    python benchmarks/checkpoint.py [--dim 512] [--depth 6] [--batch 4] [--saves 3] [--ranks 2]

Saving: 4M-7 with AdamW and an average trains in one process, on made-up tokens. Checkpoints are
taken by turns as they were until 0.6.0 (the training waits until tensors are written, read again
for checksums and synced) and in the background. ``stopped`` is the time that the training thread
cannot step; ``whole`` the time until the checkpoint is on the disk; ``peak`` what a save lets
memory (RSS) grow by. Starting: the memory (RSS) that each rank's peak grows by from before the
model is made until it is ready to train, where every rank makes all of it and where the first one
hands it out. The row is added to ``checkpoint.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from workload import Step, Workload, workload_of_4m

from fourm.model.model import FourM, ModelConfig
from fourm.training.checkpoints import list_checkpoints
from fourm.training.cpu_ranks import rank_environments
from fourm.training.ranks import Ranks
from fourm.training.saving import Saver, Snapshot
from fourm.training.sharding import made_once, shard_model
from fourm.training.state import TrainingState

MIB, GIB = 1 << 20, 1 << 30
HERE = Path(__file__).parent


def as_until_0_6_0(snapshot: Snapshot, folder: Path) -> None:
    """Write, read again, sync, all while the training waits."""
    folder.mkdir()
    for name, tensors in (("model", snapshot.model), ("training", snapshot.others)):
        path = folder / f"{name}.safetensors"
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path)
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256")
            os.fsync(file.fileno())


def seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def saves(work: Workload, num: int) -> dict[str, Any]:
    """Medians over ``num`` saves of each kind, by turns."""
    step = Step(work)
    batch = work.batch(0)
    step(batch)  # makes the optimizer's state
    state = TrainingState(step.model, step.state.optimizers, 0.999)
    with tempfile.TemporaryDirectory(dir=HERE) as name:
        folder = Path(name)
        saver = Saver(folder / "new", 1, Ranks(0, 1, 60.0))

        def snapshot(number: int) -> Snapshot:
            return Snapshot(number, *state.tensors(), {}, lambda path: None)

        # a first save takes the memory that all others write from
        peaks = {
            name: _grown(lambda i=i: (saver.start(snapshot(i)), saver.wait()))
            for i, name in ((1, "first_save_peak_gib"), (2, "next_save_peak_gib"))
        }
        found: dict[str, list[float]] = {k: [] for k in ("before", "stopped", "whole")}
        alone, beside = [], []
        for i in range(3, num + 3):
            found["before"].append(
                seconds(lambda i=i: as_until_0_6_0(snapshot(i), folder / f"old{i}"))
            )
            alone += [seconds(lambda: step(batch)) for _ in range(2)]
            began = time.perf_counter()
            found["stopped"].append(seconds(lambda i=i: saver.start(snapshot(i))))
            while saver.busy:
                beside.append(seconds(lambda: step(batch)))
            found["whole"].append(time.perf_counter() - began)
            saver.wait()
        files = list_checkpoints(folder / "new")[-1].glob("*.safetensors")
        size = sum(path.stat().st_size for path in files)
    return {
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "checkpoint_gib": size / GIB,
        "stopped_until_0.6.0": median(found["before"]),
        "stopped": median(found["stopped"]),
        "whole": median(found["whole"]),
        **peaks,
        "step_alone": median(alone),
        "step_beside_a_write": median(beside),
    }


def _grown(action: Callable[[], Any]) -> float:
    """GiB that memory (RSS) grows by at most while something is done."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = _peak()
    action()
    return (_peak() - before) * 1024 / GIB


def _peak() -> int:
    """KiB that this process has had at most (``getrusage`` counts its parent's, too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _start(environment: dict[str, str], work: Workload, once: bool, told: Any) -> None:
    os.environ.update(environment)
    torch.distributed.init_process_group("gloo")
    before = _peak()
    if once:
        with made_once("all"):
            model = FourM(work.model, work.modalities)
        shard_model(model, "all", torch.device("cpu"), "no")
    else:
        model = FourM(work.model, work.modalities)
    torch.distributed.barrier()
    peak = _peak()
    told.put((int(environment["RANK"]), (peak - before) * 1024 / MIB))
    torch.distributed.destroy_process_group()


def starts(work: Workload, num: int) -> dict[str, list[float]]:
    """MiB by rank, both ways."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name, once in (("every rank makes all", False), ("the first hands out", True)):
        told = context.Queue()
        ranks = [
            context.Process(target=_start, args=(environment, work, once, told))
            for environment in rank_environments(num)
        ]
        for process in ranks:
            process.start()
        found[name] = [grown for _, grown in sorted(told.get(timeout=300) for _ in ranks)]
        for process in ranks:
            process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "checkpoint.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    depth = given.depth
    model = ModelConfig(dim=given.dim, encoder_depth=depth, decoder_depth=depth, num_heads=8)
    work = workload_of_4m(7, model, 128, given.batch)
    row = {"dim": given.dim, "depth": depth, **saves(work, given.saves)}
    row["start_mib_by_rank"] = starts(work, given.ranks)
    rows = json.loads(given.out.read_text()) if given.out.is_file() else []
    given.out.write_text(json.dumps([*rows, row], indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
