"""Is the stream of samples and masks the same after 20 kills, on other ranks and workers each time?

    python benchmarks/soak.py OUT [--kills 20] [--steps 90]

Two ragged sources on a web server that fails now and then, read through a small cache that all
share, an adaptive mixture of them, and real `fourm pretrain` processes of up to four gloo ranks. A
run is killed (SIGKILL, all of its processes or one) at a random moment and goes on with other
numbers of ranks and loader workers. Whatever any loader made on the way is compared, draw by draw,
with what one undisturbed rank made.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from remote_servers import http_server
from remote_worlds import MASKING, modality_mapping, write_world

from fourm.numbers.rng import CounterRNG
from fourm.training.cpu_ranks import rank_environments

# processes are forked from a server that has imported everything once
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fourm.training.pretrain", "fourm.cli", "remote_servers"])

BATCH = 24
Stream = dict[int, str]  # digest of a draw: its sample, its source, and all rows of its masks


# ---- in a process of the training ----------------------------------------------------------------


def record(folder: Path) -> None:
    """From now on every batch that is made leaves the digests of its draws in ``folder``."""
    from fourm.data.masked_batches import MaskedBatches

    make = MaskedBatches.__getitem__

    def made(self: MaskedBatches, step: int) -> list:
        batches = make(self, step)
        digests = [digest for batch in batches for digest in digests_of(batch)]
        found = dict(zip(self._draws(step).tolist(), digests, strict=True))
        path = folder / f"{step:06d}-{self._rank}of{self._world}-{os.getpid()}"
        path.with_suffix(".tmp").write_text(json.dumps(found))
        path.with_suffix(".tmp").replace(path.with_suffix(".json"))
        return batches

    MaskedBatches.__getitem__ = made  # type: ignore[method-assign]


def digests_of(batch: object) -> list[str]:
    """A digest of everything that is in a masked batch of each of its samples."""
    encoder, decoder = batch.encoder, batch.decoder  # type: ignore[attr-defined]
    columns = [
        (encoder.lengths, (encoder.modality, encoder.position, encoder.token)),
        (decoder.lengths, (decoder.modality, decoder.position, decoder.input, decoder.target)),
    ]
    digests = []
    for b, sample in enumerate(batch.samples.tolist()):  # type: ignore[attr-defined]
        digest = hashlib.sha256(str(sample).encode())
        for lengths, rows in columns:
            start = int(lengths[:b].sum())
            for values in rows:
                digest.update(values[start : start + int(lengths[b])].numpy().tobytes())
        digests.append(digest.hexdigest()[:16])
    return digests


def train(
    environment: dict[str, str],
    config: Path,
    out: Path,
    workers: int,
    screen: Path,
    prepare: Callable[[], None] | None,
) -> None:
    """`fourm pretrain`, recorded, as a process group of its own."""
    from fourm.__main__ import main

    os.setpgrp()
    # a process of a fork server would start its loader workers so too, without the recording
    multiprocessing.set_start_method("fork", force=True)
    with open(screen, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    record(out / "stream")
    own = [f"out={out / 'run'}", f"data.cache={out / 'cache'}", f"loop.num_workers={workers}"]
    sys.argv = ["fourm", "pretrain", str(config), *own]
    main()


# ---- outside -------------------------------------------------------------------------------------


def write_config(root: Path, addresses: list[str], steps: int) -> Path:
    """A pretraining of a tiny model on these sources; returns the file."""
    (root / "modalities.yaml").write_text(yaml.safe_dump(modality_mapping(), sort_keys=False))
    order = {"block": 96, "window": 3}
    config = {
        "out": str(root / "run"),
        "modalities": str(root / "modalities.yaml"),
        "model": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2},
        "masking": MASKING,
        "data": {
            "sources": [
                {"tokens": url, "order": order, "weight": 1 + i} for i, url in enumerate(addresses)
            ],
            "cache": str(root / "cache"),
            "cache_bytes": 40 * 4096,
            "read_ahead": 6,
        },
        "adaptive": {"of": "both", "every": 10, "probe_samples": 32},
        "eval_samples": 16,
        "loop": {
            "steps": steps,
            "batch_size": BATCH,
            "checkpoint_every": 2,
            "log_every": 1,
            "num_workers": 0,
            "threads": 1,
            "optimizer": {"lr": 1e-3},
            "schedule": {"warmup": 4},
        },
    }
    path = root / "pretrain.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def start(
    config: Path,
    out: Path,
    ranks: int,
    workers: int,
    prepare: Callable[[], None] | None = None,
    output: str = "output.txt",
) -> list[ForkServerProcess]:
    """Processes of a training that goes on from what ``out`` has; each calls ``prepare`` first,
    and what all say goes to a file ``output``.
    """
    (out / "stream").mkdir(parents=True, exist_ok=True)
    (out / output).touch()
    processes = []
    for environment in rank_environments(ranks):
        environment["ACCELERATE_USE_CPU"] = "true"
        arguments = environment, config, out, workers, out / output, prepare
        processes.append(_CONTEXT.Process(target=train, args=arguments))
        processes[-1].start()
    return processes


def finish(processes: list[ForkServerProcess]) -> None:
    """Wait for the end of a training. Raises RuntimeError if a rank fails."""
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a rank ended with {process.exitcode}")


def kill(processes: list[ForkServerProcess]) -> None:
    """SIGKILL for all of these and for the loader workers that they started."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def last_step(out: Path) -> int:
    """Steps that a training has logged."""
    log = out / "run" / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    steps = [0]
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the line that was being written
            steps.append(json.loads(line).get("step", 0))
    return max(steps)


def reach(processes: list[ForkServerProcess], out: Path, step: int, most: float = 300) -> None:
    """Wait until a training has logged a step. Raises RuntimeError if it ends before, or has not
    come there after ``most`` seconds.
    """
    deadline = time.monotonic() + most
    while last_step(out) < step:
        ended = [p for p in processes if not p.is_alive()]
        if ended or time.monotonic() > deadline:
            kill(processes)
            raise RuntimeError(f"stopped by itself, or is too slow: see the newest file in {out}")
        time.sleep(0.05)


def stream_of(out: Path) -> tuple[Stream, int]:
    """All that was made, and how many draws were made again.

    Raises AssertionError where a draw was made differently at different times.
    """
    stream: Stream = {}
    num_made = 0
    for path in sorted((out / "stream").glob("*.json")):
        made = json.loads(path.read_text())
        num_made += len(made)
        for draw, digest in made.items():
            known = stream.setdefault(int(draw), digest)
            assert known == digest, f"draw {draw} of {path.name} differs from an earlier one"
    return stream, num_made - len(stream)


def disturb(config: Path, out: Path, kills: int, steps: int, seed: int = 0) -> int:
    """Kill a training again and again, then let it end; returns how often it was killed."""
    rng = CounterRNG(seed, "soak")
    for number in range(kills):
        ranks = int(np.array([1, 2, 4])[rng.integers(0, 2, number, 0)])
        workers, more = int(rng.integers(0, 2, number, 1)), int(rng.integers(1, 4, number, 2))
        before = last_step(out)
        if before + more >= steps:
            break
        processes = start(config, out, ranks, workers)
        reach(processes, out, before + more)
        time.sleep(float(rng.uniform(number, 3)) * 0.3)
        if number % 2:  # one alone first: the others are then in the middle of waiting for it
            kill(processes[-1:])
            time.sleep(0.2)
        kill(processes)
        print(
            f"kill {number + 1}: {ranks} ranks, {workers} workers, step {last_step(out)}",
            flush=True,
        )
    finish(start(config, out, 2, 1))
    return kills


def soak(root: Path, kills: int, steps: int) -> dict[str, int]:
    """The whole comparison; raises AssertionError where the streams differ."""
    root.mkdir(parents=True, exist_ok=True)
    for i, num in enumerate((900, 1_500)):
        write_world(root / f"world{i}", num, seed=i, splits=("train", "val"))
    with contextlib.ExitStack() as servers:
        running = [
            servers.enter_context(http_server(root / f"world{i}", broken_share=0.02))
            for i in range(2)
        ]
        config = write_config(root, [server.url for server in running], steps)
        finish(start(config, root / "undisturbed", 1, 0))
        disturb(config, root / "disturbed", kills, steps)
    return {**compare(root, steps), "kills": kills}


def compare(root: Path, steps: int) -> dict[str, int]:
    """Whether both trainings made the same draws; raises AssertionError where they differ."""
    undisturbed, _ = stream_of(root / "undisturbed")
    disturbed, num_again = stream_of(root / "disturbed")
    wanted = set(range(steps * BATCH))
    assert wanted <= set(undisturbed) and wanted <= set(disturbed)
    different = [draw for draw in wanted if undisturbed[draw] != disturbed[draw]]
    assert not different, f"{len(different)} draws differ, the first is {min(different)}"
    return {"draws": len(wanted), "made_again": num_again}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=90)
    given = parser.parse_args()
    print(json.dumps(soak(given.out, given.kills, given.steps)))
