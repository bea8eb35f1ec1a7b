"""Do memory, open files and speed stay where they are, hour after hour?

    python benchmarks/long_run.py OUT [--minutes 120]

A pretraining of a tiny model, a sampler that goes through many tasks of the shipped one, and the
page (``fourm app``) with a visitor in a real browser, who asks, looks and reloads, run beside each
other. Every few seconds the memory and the open files of each of the three (with their children)
and what it has done so far are written to ``OUT/samples.jsonl``. In the end the first fifth, in
which caches fill, is left out and the rest is averaged in blocks; a straight line through the
blocks is the slope, with its standard error. Exit status 0 where over the whole time memory and
files grow by no more than ``MOST_GROWTH``, or by no more than three standard errors.
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

MOST_GROWTH = {"memory": 0.03, "files": 0.03}  # shares of the mean
NUM_BLOCKS = 20
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
                page.set_default_timeout(120_000)
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
        """Bytes, open files and what is done, of the program and all it has started."""
        memory, files = 0, 0
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory += process.memory_info().rss
                files += process.num_fds()
        return {"memory": memory, "files": files, "done": done_of(self.progress)}


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
    def of(cls, values: np.ndarray) -> Slope:
        """Of values that were read at equal distances (n,)."""
        blocks = np.array([block.mean() for block in np.array_split(values, NUM_BLOCKS)])
        at = np.linspace(-0.5, 0.5, NUM_BLOCKS)
        slope = float(at @ blocks / (at @ at))
        rest = blocks - blocks.mean() - slope * at
        error = float(np.sqrt(rest @ rest / (NUM_BLOCKS - 2) / (at @ at)))
        mean = float(blocks.mean())
        return cls(mean, slope / max(mean, 1e-12), error / max(mean, 1e-12))


def slopes_of(samples: list[dict[str, dict[str, float]]], name: str) -> dict[str, Slope]:
    """Memory, files and speed of one of the three, after the first fifth of the time."""
    kept = samples[len(samples) // 5 :]
    found = {key: np.array([sample[name][key] for sample in kept]) for key in ("memory", "files")}
    done = np.array([sample[name]["done"] for sample in kept])
    return {key: Slope.of(values) for key, values in (found | {"speed": np.diff(done)}).items()}


def is_steady(key: str, slope: Slope) -> bool:
    """Whether a quantity grows by no more than it may, or by no more than chance."""
    return slope.growth <= max(MOST_GROWTH.get(key, np.inf), 3 * slope.error)


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
    wait_for(out / "page.txt", "the page is at")
    visitor = start("visitor", __file__, "visit", "http://127.0.0.1:7899", str(out / "visited"))
    return {
        "train": Watched(train, out / "run" / "log.jsonl"),
        "sample": Watched(sampler, out / "sampled"),
        "page": Watched(page, out / "visited"),
        "visitor": Watched(visitor, out / "visited"),
    }


def wait_for(screen: Path, words: str) -> None:
    """Until a program has said something. Raises TimeoutError after minutes."""
    deadline = time.monotonic() + 300
    while words not in screen.read_text():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{screen} does not say {words!r}")
        time.sleep(0.2)


def long_run(out: Path, minutes: float) -> dict[str, dict[str, Slope]]:
    """Let all run, look, and end them."""
    out.mkdir(parents=True, exist_ok=True)
    running = started(out)
    every = max(minutes * 60 / 1_000, 0.5)
    samples, end = [], time.monotonic() + minutes * 60
    try:
        with open(out / "samples.jsonl", "w") as file:
            while time.monotonic() < end:
                time.sleep(every)
                ended = [name for name, it in running.items() if it.process.poll() is not None]
                assert not ended, f"{ended} ended by itself: see {out}/{ended[0]}.txt"
                samples.append({name: watched.look() for name, watched in running.items()})
                file.write(json.dumps(samples[-1]) + "\n")
                file.flush()
    finally:
        for watched in running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(watched.process.pid).children(recursive=True)
                watched.process.send_signal(signal.SIGTERM)
                psutil.wait_procs([psutil.Process(watched.process.pid)], timeout=30)
                for child in children:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
    return {name: slopes_of(samples, name) for name in running if name != "visitor"}


if __name__ == "__main__":
    if sys.argv[1:2] == ["sample"]:
        sample_forever(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["visit"]:
        visit_forever(sys.argv[2], Path(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("out", type=Path)
        parser.add_argument("--minutes", type=float, default=120.0)
        given = parser.parse_args()
        slopes = long_run(given.out, given.minutes)
        figures = {n: {k: asdict(s) for k, s in of.items()} for n, of in slopes.items()}
        missed = len(list(given.out.glob("missed-*.png")))  # pictures that a visitor waited for
        print(json.dumps({**figures, "missed": missed}))
        steady = [is_steady(k, s) for of in slopes.values() for k, s in of.items()]
        raise SystemExit(0 if all(steady) else 1)
