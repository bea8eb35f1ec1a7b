"""Data preparation over shards: killed, crashed or cut short, a rerun finishes; the bytes depend on
no engine and no number of workers.
"""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fourm_data_prep.engine import run_step
from fourm_data_prep.engine_options import EngineConfig, parse_range
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint, finished, manifest_path
from PIL import Image

from fourm.cli import main
from fourm.data.shards import shard_path, write_shard
from fuzz.engines import Case, Shard, engines_agree, start_ray

NUM_PICTURES, NUM_KILLS = 1800, 5
ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(["tokenizers", "data_prep", "."])}
CONFIG = """
modalities:
  rgb: {kind: grid, raw: {type: image, size: 32}, vocab_size: 8, grid: [2, 2]}
  edges: {kind: grid, raw: {type: array, size: 32, channels: 1}, labeller: edges,
          vocab_size: 8, grid: [2, 2]}
  palette: {kind: sequence, raw: {type: palette}, labeller: palette, vocab_size: 300,
            max_tokens: 20}
  caption: {kind: sequence, raw: {type: text}, vocab_size: 300, max_tokens: 20}
"""


@dataclass(frozen=True)
class Squares:
    """A step that writes a number's square; shard ``fatal`` kills its worker until the file
    ``allow`` is there.
    """

    out: Path
    num: int
    fatal: int = -1
    allow: Path = Path("/nowhere")
    scale: int = 1
    name: str = "squares"

    def described(self):
        return {"scale": self.scale}

    def jobs(self):
        return [Job("train", i, fingerprint(i)) for i in range(self.num)]

    def run(self, job):
        if job.number == self.fatal and not self.allow.exists():
            self.allow.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        path = shard_path(self.out, job.split, "n", job.number)
        write_shard(path, [("a", "txt", str(self.scale * job.number**2).encode())])
        return ShardResult((str(path.relative_to(self.out)),), 1)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.tar"))
    }


def test_what_is_done_is_not_done_again_and_what_changed_is(tmp_path):
    step = Squares(tmp_path, 5)
    first = run_step(step, EngineConfig(workers=1), 0.0)
    assert (first.num_done, first.num_before) == (5, 0)
    assert run_step(step, EngineConfig(workers=1), 0.0).num_before == 5
    shard_path(tmp_path, "train", "n", 3).unlink()
    manifest_path(step, step.jobs()[1]).write_text("{")
    assert run_step(step, EngineConfig(workers=1), 0.0).num_before == 3
    # other settings
    assert run_step(Squares(tmp_path, 5, scale=2), EngineConfig(workers=1), 0.0).num_before == 0
    manifest = json.loads(manifest_path(step, step.jobs()[0]).read_text())
    told = {"format", "inputs", "settings", "outputs", "samples", "skipped", "seconds"}
    assert set(manifest) == told


def test_ranges_of_an_array_add_up_to_the_whole(tmp_path):
    whole, parts = Squares(tmp_path / "whole", 7), Squares(tmp_path / "parts", 7)
    run_step(whole, EngineConfig(workers=1), 0.0)
    for text in ("0:3", "3:7"):
        run_step(parts, EngineConfig(workers=1, shard_range=parse_range(text)), 0.0)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    for text in ("3", "a:b", "5:2"):
        with pytest.raises(ValueError, match="first"):
            EngineConfig(shard_range=parse_range(text))


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    step = Squares(tmp_path / "out", 8, fatal=4, allow=tmp_path / "allow")
    progress = run_step(step, EngineConfig(workers=2), 0.0)
    assert progress.num_done == 8 and all(finished(step, job) for job in step.jobs())


@pytest.mark.slow
def test_the_server_that_workers_fork_from_may_be_killed_too(tmp_path, monkeypatch):
    submit, calls = ProcessPoolExecutor.submit, iter(range(100))

    def once_without_server(self, *arguments):
        if next(calls) == 1:
            raise EOFError  # what starting a worker raises then
        return submit(self, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", once_without_server)
    step = Squares(tmp_path / "out", 8)
    progress = run_step(step, EngineConfig(workers=2), 0.0)
    assert progress.num_done == 8 and all(finished(step, job) for job in step.jobs())


@pytest.mark.slow
def test_a_shard_that_always_kills_its_worker_is_named(tmp_path):
    step = Squares(tmp_path / "out", 4, fatal=2, allow=tmp_path / "no" / "such")
    with pytest.raises(ValueError, match="the worker of shard train-0000[0-3] died 3 times"):
        run_step(Fatal(**vars(step)), EngineConfig(workers=2), 0.0)


class Fatal(Squares):
    def run(self, job):
        if job.number == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(job)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(NUM_PICTURES):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3)).astype(np.uint8)).save(
            root / f"{i:04d}.png"
        )
        (root / f"{i:04d}.txt").write_text(f"picture number {i}")
    (root / "modalities.yaml").write_text(CONFIG)
    return root


def import_command(pictures, out, *options):
    return [
        sys.executable,
        "-m",
        "fourm.cli",
        "import",
        str(pictures),
        "--config",
        str(pictures / "modalities.yaml"),
        "--out",
        str(out),
        *options,
    ]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    main(import_command(pictures, out, "--workers", "1")[3:])
    return digest(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("--workers", "2"), ("--engine", "ray", "--workers", "2")], ids=lambda o: o[1]
)
def test_killed_at_five_random_moments_and_run_again_gives_the_bytes_of_an_uninterrupted_run(
    options, pictures, whole, tmp_path
):
    if "ray" in options:
        pytest.importorskip("ray")
    rng = random.Random(0)
    command = import_command(pictures, tmp_path / "out", *options)
    killed = 0
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        done = len(list((tmp_path / "out").rglob("manifests/*/*.json")))
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and len(list((tmp_path / "out").rglob("*.tmp*"))) == 0
        ):
            time.sleep(0.02)
            if len(list((tmp_path / "out").rglob("manifests/*/*.json"))) > done:
                break
        time.sleep(rng.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == NUM_KILLS
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == whole
    assert (
        json.loads((tmp_path / "out" / "done.json").read_text())["train"]
        + json.loads((tmp_path / "out" / "done.json").read_text())["val"]
        == NUM_PICTURES
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_is_one_line_and_a_rerun_finishes(pictures, whole, tmp_path, workers):
    """The limit on a file's size stands in for a full disk: it needs no right to mount one, and
    writing fails at the same place.
    """
    part = tmp_path / "part"

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))

    command = import_command(pictures, part, "--workers", str(workers))
    ended = subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, preexec_fn=small_files
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "error: File too large; what is finished is kept" in ended.stderr.splitlines()[-1]
    assert not list(part.rglob("*.tmp*"))  # nothing half written keeps the disk full
    subprocess.run(command, check=True, env=ENVIRONMENT, cwd=ROOT, capture_output=True)
    assert digest(part) == whole


@pytest.mark.slow
def test_workers_end_with_the_run_that_started_them(pictures, tmp_path):
    command = import_command(pictures, tmp_path / "out", "--workers", "2")
    run = subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not list(tmp_path.rglob("manifests/import/*.json")):
        time.sleep(0.05)
        assert run.poll() is None
    os.kill(run.pid, signal.SIGKILL)  # the run alone, not its group
    run.wait()
    for _ in range(100):
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("workers go on")


@pytest.mark.slow
def test_what_a_shard_refuses_is_the_same_sentence_from_ray(tmp_path):
    """Found by fuzzing: Ray's own text of an error in a task is a traceback."""
    ray = pytest.importorskip("ray")
    start_ray()
    try:
        engines_agree(Case((Shard((b"a",), 0, "done"), Shard((b"b",), 1, "fails")), 1), tmp_path)
    finally:
        ray.shutdown()
