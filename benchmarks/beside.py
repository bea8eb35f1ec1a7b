"""What runs beside a training, and loses a process: an import of pictures, and the page."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import soak
from disturbed import Event, Training, workers_of
from PIL import Image

CONFIG = """
modalities:
  rgb: {kind: grid, raw: {type: image, size: 32}, vocab_size: 8, grid: [2, 2]}
  edges: {kind: grid, raw: {type: array, size: 32, channels: 1}, labeller: edges,
          vocab_size: 8, grid: [2, 2]}
"""
NUM_PICTURES = 600


class KillImporter(Event):
    """A worker of an import is gone, as by the kernel for its memory: the same bytes in the end."""

    engine = "local"

    def strike(self, training: Training) -> None:
        soak.kill(training.processes)
        root = training.out / "pictures"
        if not root.is_dir():
            _write_pictures(root)
            assert _import(root, training.out / "imported").wait() == 0
        out = training.out / f"imported-{training.number}"
        process = _import(root, out, "--engine", self.engine)
        worker = self.worker_of(process)
        time.sleep(0.1 * training.draw(9, 10))
        if worker is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        assert process.wait() == 0, f"ended with {process.returncode}: {out}.txt"
        assert _digest(out) == _digest(training.out / "imported"), f"other bytes: {out}"

    def worker_of(self, process: subprocess.Popen) -> psutil.Process | None:
        """The first process that an import starts (the server that its workers fork from), once
        there is one; None if it ends before.
        """
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                if found := workers_of(process.pid):
                    return found[0]
            time.sleep(0.02)
        return None


class KillRayWorker(KillImporter):
    """The same of an import by Ray, whose process makes a shard in that moment."""

    engine = "ray"

    def possible(self, training: Training) -> bool:
        return importlib.util.find_spec("ray") is not None

    def worker_of(self, process: subprocess.Popen) -> psutil.Process | None:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    if "ray::run_job" in " ".join(child.cmdline()):
                        return child
            time.sleep(0.02)
        return None


class KillPage(Event):
    """The page is gone: started again it answers."""

    def strike(self, training: Training) -> None:
        soak.kill(training.processes)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for _ in range(2):
            with _page(port, training.out / f"page-{training.number}.txt") as process:
                deadline = time.monotonic() + 120 * training.patience
                while not _answers(port):
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.2)


@contextlib.contextmanager
def _page(port: int, screen: Path) -> Iterator[subprocess.Popen]:
    """``fourm app``, until it is killed."""
    command = [sys.executable, "-m", "fourm", "app", "--port", str(port)]
    with open(screen, "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, process_group=0)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=10) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _write_pictures(root: Path) -> None:
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(NUM_PICTURES):
        pixels = rng.integers(0, 255, (40, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i:04d}.png")
    (root / "modalities.yaml").write_text(CONFIG)


def _import(root: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fourm", "import", str(root), "--out", str(out)]
    command += ["--config", str(root / "modalities.yaml"), "--workers", "2", *more]
    with open(f"{out}.txt", "wb") as screen:
        return subprocess.Popen(command, stdout=screen, stderr=screen)


def _digest(out: Path) -> str:
    """Of all that was imported, and nothing of how."""
    found = hashlib.sha256()
    for path in sorted(out.rglob("*.tar")):
        found.update(str(path.relative_to(out)).encode() + path.read_bytes())
    assert found.digest() != hashlib.sha256().digest(), f"nothing was imported: {out}"
    return found.hexdigest()
