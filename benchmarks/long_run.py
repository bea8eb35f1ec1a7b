"""Do memory, open files and speed stay where they are, hour after hour?

    python benchmarks/long_run.py OUT [--minutes 120]
    python benchmarks/long_run.py OUT --judge       # of a run that goes on or was cut short

A pretraining of a tiny model, a sampler that goes through many tasks of the shipped one, and the
page (``fourm app``) with a visitor in a real browser, who asks, looks and reloads, run beside each
other. The time begins when each has done something, and ends not before each has done ``LEAST``.
Every few seconds the memory and the open files of each of the three (with their children), its CPU
seconds and what it has done so far are written to ``OUT/samples.jsonl``. In the end the first
fifth, in which caches fill, is left out and the rest is taken in blocks; a straight line through
the blocks is the slope, with its standard error. Speed is CPU seconds a piece of work, which other
work on the machine changes little. Exit status 0 where over the whole time none of them grows by
more than ``MOST_CHANGE``, or by more than three standard errors, and no visitor waited in vain.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

MOST_CHANGE = 0.03  # share of the mean
NUM_BLOCKS = 20
LEAST = 100  # that each has done in the end, on a machine with other work
PATIENCE = 7200  # seconds that a visitor waits there
CAPTION = "a large red cube left of a small blue sphere"


# ---- the three -----------------------------------------------------------------------------------


def sample_forever(progress: Path) -> None:
    """Captions, pictures, gaps, guidance, sweeps and one pass, again and again."""
    from fourm import AnyToAnyPipeline, Partial
    from fourm.resources import demo_model_folder

    pipe = AnyToAnyPipeline.from_pretrained(demo_model_folder())
    seed = 0
    while True:
        made = pipe({"caption": CAPTION}, ["rgb"], seed=seed)["rgb"]
        pipe({"rgb": made.images[0]}, ["depth", "normal", "semseg", "caption", "boxes"], seed=seed)
        kept = np.zeros(np.asarray(made.images[0]).shape[:2], bool)
        kept[:, : kept.shape[1] // 2] = True
        pipe({"rgb": Partial(made.images[0], kept), "caption": CAPTION}, ["rgb"], seed=seed)
        pipe({"caption": ["a small [S_1] cube", CAPTION]}, ["caption"], seed=seed)
        seed += 1
        progress.write_text(str(seed))


def visit_forever(address: str, progress: Path) -> None:
    """A visitor of the page."""
    from playwright.sync_api import TimeoutError, sync_playwright

    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    visits = 0
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        while True:
            with contextlib.closing(browser.new_context()) as context:
                page = context.new_page()
                page.set_default_timeout(1000 * PATIENCE)
                page.goto(address)
                for number in (1, 2):
                    page.fill("#given-caption textarea", CAPTION)
                    page.click("#go")
                    try:
                        page.wait_for_function(
                            "n => { const e = document.querySelector('#now .made');"
                            " return e && e.innerText.startsWith(`${n}.`)"
                            " && !e.querySelector('.made-steps'); }",
                            arg=number,
                        )
                    except TimeoutError:
                        page.screenshot(path=progress.with_name(f"missed-{visits}.png"))
                        break  # a new visitor tries again; what is missed is counted
                    visits += 1
                    progress.write_text(str(visits))


def write_training(out: Path) -> Path:
    """A training that does not end by itself; returns its config."""
    from worlds import write_project

    return write_project(out)


# ---- outside -------------------------------------------------------------------------------------


@dataclass
class Watched:
    """A program that runs, and the file that says what it has done."""

    process: subprocess.Popen
    progress: Path

    def look(self) -> dict[str, float]:
        """Bytes, open files, CPU seconds and what is done, of it and all that it has started."""
        memory, files = 0, 0
        root = psutil.Process(self.process.pid)
        times = root.cpu_times()
        cpu = times.children_user + times.children_system  # of those that have ended
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory += process.memory_info().rss
                files += process.num_fds()
                cpu += sum(process.cpu_times()[:2])
        return {"memory": memory, "files": files, "cpu": cpu, "done": done_of(self.progress)}


def done_of(progress: Path) -> float:
    """Steps of a log, or the number that a file holds."""
    if not progress.is_file():
        return 0.0
    text = progress.read_text()
    if progress.suffix != ".jsonl":
        return float(text or 0)
    lines = [line for line in text.splitlines()[-3:] if line.endswith("}")]
    return max((json.loads(line).get("step", 0) for line in lines), default=0)


@dataclass(frozen=True)
class Slope:
    """How a quantity changes over the whole time, as shares of its mean."""

    mean: float
    growth: float
    error: float

    @classmethod
    def of(cls, blocks: np.ndarray) -> Slope:
        """Of the means of blocks that lie at equal distances (n,)."""
        at = np.linspace(-0.5, 0.5, len(blocks))
        slope = float(at @ blocks / (at @ at))
        rest = blocks - blocks.mean() - slope * at
        error = float(np.sqrt(rest @ rest / (len(blocks) - 2) / (at @ at)))
        mean = float(blocks.mean())
        return cls(mean, slope / max(mean, 1e-12), error / max(mean, 1e-12))

    @property
    def is_level(self) -> bool:
        """Whether it does not grow, or by no more than chance."""
        return self.growth <= max(MOST_CHANGE, 3 * self.error)


def slopes_of(samples: list[dict[str, dict[str, float]]], name: str) -> dict[str, Slope]:
    """Memory, files and CPU seconds a piece of work of one of the three, after the first fifth."""
    kept = [sample[name] for sample in samples[len(samples) // 5 :]]
    parts = np.array_split(np.arange(len(kept)), min(NUM_BLOCKS, len(kept) // 2))
    found = {
        key: np.array([np.mean([kept[i][key] for i in part]) for part in parts])
        for key in ("memory", "files")
    }
    ends = [0, *(part[-1] for part in parts)]
    done, cpu = (np.diff([kept[i][key] for i in ends]) for key in ("done", "cpu"))
    found["cpu_seconds_each"] = (cpu / np.maximum(done, 1e-12))[done > 0]
    return {key: Slope.of(blocks) for key, blocks in found.items() if len(blocks) > 2}


def started(out: Path) -> dict[str, Watched]:
    """The three programs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(name: str, *command: str) -> subprocess.Popen:
        with open(out / f"{name}.txt", "w") as screen:
            return subprocess.Popen(
                [sys.executable, *command], stdout=screen, stderr=screen, env=environment
            )

    config = write_training(out / "world")
    more = ["loop.steps=10000000", "loop.checkpoint_every=500", "loop.num_workers=1"]
    train = start("train", "-m", "fourm", "pretrain", str(config), f"out={out / 'run'}", *more)
    sampler = start("sample", __file__, "sample", str(out / "sampled"))
    page = start("page", "-m", "fourm", "app", "--port", "7899")
    while "the page is at" not in (out / "page.txt").read_text():
        assert page.poll() is None, f"the page does not start: see {out}/page.txt"
        time.sleep(0.2)
    visitor = start("visitor", __file__, "visit", "http://127.0.0.1:7899", str(out / "visited"))
    return {
        "train": Watched(train, out / "run" / "log.jsonl"),
        "sample": Watched(sampler, out / "sampled"),
        "page": Watched(page, out / "visited"),
        "visitor": Watched(visitor, out / "visited"),
    }


def check_all_run(running: dict[str, Watched], out: Path) -> None:
    """Raise AssertionError where one has ended by itself."""
    ended = [name for name, watched in running.items() if watched.process.poll() is not None]
    assert not ended, f"{ended} ended by itself: see {out}/{ended[0]}.txt"


def long_run(out: Path, minutes: float) -> None:
    """Let all run, look, and end them."""
    out.mkdir(parents=True, exist_ok=True)
    running = started(out)
    every = max(minutes * 60 / 1_000, 0.5)
    try:
        while not all(watched.look()["done"] for watched in running.values()):
            time.sleep(1)
            check_all_run(running, out)
        end = time.monotonic() + minutes * 60
        with open(out / "samples.jsonl", "w") as file:
            least = 0.0
            while time.monotonic() < end or least < LEAST:
                time.sleep(every)
                check_all_run(running, out)
                sample = {name: watched.look() for name, watched in running.items()}
                file.write(json.dumps(sample) + "\n")
                file.flush()
                least = min(it["done"] for it in sample.values())
    finally:
        for watched in running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(watched.process.pid).children(recursive=True)
                watched.process.send_signal(signal.SIGTERM)
                psutil.wait_procs([psutil.Process(watched.process.pid)], timeout=30)
                for child in children:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()


def judged(out: Path) -> bool:
    """Print the slopes of what is written in a folder; True where all are level."""
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    slopes = {name: slopes_of(samples, name) for name in samples[0] if name != "visitor"}
    figures = {n: {k: asdict(s) for k, s in of.items()} for n, of in slopes.items()}
    missed = len(list(out.glob("missed-*.png")))  # pictures that a visitor waited for
    print(json.dumps({**figures, "samples": len(samples), "missed": missed}))
    return not missed and all(s.is_level for of in slopes.values() for s in of.values())


if __name__ == "__main__":
    if sys.argv[1:2] == ["sample"]:
        sample_forever(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["visit"]:
        visit_forever(sys.argv[2], Path(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("out", type=Path)
        parser.add_argument("--minutes", type=float, default=120.0)
        parser.add_argument("--judge", action="store_true", help="only what is there")
        given = parser.parse_args()
        if not given.judge:
            long_run(given.out, given.minutes)
        raise SystemExit(0 if judged(given.out) else 1)
