"""Targets in this process: memory bounded, each case timed, all that Python does watched.

    python -m fuzz.bounded TARGET --cases 1000 --seconds 60 --seed 0

prints a line of JSON for each. ``fuzz.__main__`` starts it as a child, so that a crash, an endless
loop in C code or a process that is killed for its memory is a finding of the parent and ends
nothing else.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from fourm.errors import UserError
from fuzz.target import MOST_WORDS, Target

MEMORY = 3 << 29  # bytes beyond what the process has when its target is imported
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn"}
_MAKES = {"os.mkdir": 0, "os.symlink": 1, "os.link": 1, "os.rename": 1, "os.remove": 0}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_GRACE = 120  # seconds of CPU beyond its time that a target may take, as for compiling
_SHOWN = 2000  # characters of a case in a report


class Hang(BaseException):
    """A case took longer than it may; no ``Exception``, so that no reader catches it."""


class Over(BaseException):
    """The time of a run is over."""


@dataclass
class Finding:
    """One kind of failure and the shortest case that shows it."""

    what: str
    case: str
    trace: str
    count: int = 1


@dataclass
class Result:
    """What a run of one target came to."""

    target: str
    cases: int = 0
    refused: int = 0  # of them those that ended in a sentence
    seconds: float = 0.0
    slowest: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, what: str, case: Any, trace: str) -> None:
        """Note a failure; of those alike the shortest case is kept."""
        shown, known = repr(case)[:_SHOWN], self.findings.get(what)
        if known is None:
            self.findings[what] = Finding(what, shown, trace)
            return
        known.count += 1
        if len(shown) < len(known.case):
            known.case = shown


class Watch:
    """An audit hook (PEP 578): what a case does that no reader may."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.active, self.seen = f"{folder.resolve()}{os.sep}", False, list[str]()
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in _STARTS or event == "pickle.find_class":
            self.seen.append(f"{event} {arguments[0]!r}")
        elif event == "socket.connect":
            self.seen.append(f"connects to {arguments[1]!r}")
        elif event == "open" and len(arguments) > 2 and (arguments[2] or 0) & _WRITING:
            self._written("writes", arguments[0])
        elif event in _MAKES and not (event == "os.remove" and arguments[1] != -1):
            self._written(event, arguments[_MAKES[event]])

    def _written(self, how: str, path: Any) -> None:
        if not isinstance(path, int) and not os.path.realpath(path).startswith(self.folder):
            self.seen.append(f"{how} {path!r} outside of its folder")

    @contextmanager
    def on(self) -> Iterator[list[str]]:
        """What is seen within this context."""
        self.seen, self.active = [], True
        try:
            yield self.seen
        finally:
            self.active = False


def bound_memory(more: int = MEMORY) -> None:
    """Let this process have so many more bytes than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def bound_time(seconds: float) -> None:
    """End this process, with a traceback, where it takes more seconds of CPU from now: an endless
    loop in C hears of no alarm.
    """
    faulthandler.register(signal.SIGXCPU, chain=True)
    limit = math.ceil(time.process_time() + seconds) + _GRACE
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _ring(*_: Any) -> None:
    raise Hang


class Judge:
    """Runs cases of a target and says what is wrong with each."""

    def __init__(self, target: Target, folder: Path, last: Path | None = None) -> None:
        self.target, self.folder = target, folder / "case"
        self.folder.mkdir()
        self.result, self._watch = Result(target.name), Watch(self.folder)
        self._last = None if last is None else os.open(last, os.O_WRONLY | os.O_CREAT, 0o600)
        signal.signal(signal.SIGPROF, _ring)

    def __call__(self, case: Any) -> None:
        """Run one case; what it does wrong goes to the result."""
        if self._last is not None:  # for the parent, should this process not survive
            text = repr(case)[:_SHOWN].encode()
            os.pwrite(self._last, text.ljust(_SHOWN), 0)
        self.result.cases += 1
        began = time.perf_counter()
        with self._watch.on() as seen:
            signal.setitimer(signal.ITIMER_PROF, self.target.seconds)
            try:
                wrong, trace = self._outcome(case)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        done = seen if self.target.watched else []
        for what in [*([wrong] if wrong else []), *done]:
            self.result.add(what, case, trace)
        self.result.slowest = max(self.result.slowest, time.perf_counter() - began)

    def _outcome(self, case: Any) -> tuple[str, str]:
        try:
            self.target.run(case, self.folder)
        except UserError as error:
            self.result.refused += 1
            text = str(error)
            if not text.strip() or "\n" in text or len(text) > MOST_WORDS:
                return f"no sentence {_place(error)}", text[:_SHOWN]
        except Hang as error:
            return f"hangs {_place(error)}", traceback.format_exc()
        except Exception as error:
            return f"{type(error).__name__} {_place(error)}", traceback.format_exc()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return f"{type(error).__name__} {_place(error)}", traceback.format_exc()
        return "", ""


def _place(error: BaseException) -> str:
    """The last line of this project that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    root = str(Path(__file__).parents[1])
    own = [f for f in frames if f.filename.startswith(root) and "/fuzz/" not in f.filename[-40:]]
    frame = (own or frames)[-1]
    return f"in {os.path.relpath(frame.filename, root)}:{frame.lineno} {frame.name}"


def run(target: Target, cases: int, seconds: float, number: int, last: Path | None) -> Result:
    """The corpus of a target, then so many cases, or as many as there are seconds of CPU for."""
    strategy = target.inputs()
    stop = time.process_time() + seconds
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(target, Path(folder), last)
        began = time.monotonic()

        @seed(number)
        @settings(
            max_examples=max(cases, 1),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def fuzz(case: Any) -> None:
            if judge.result.cases and time.process_time() > stop:
                raise Over
            judge(case)

        bound_memory()
        for known in target.corpus:
            judge(known)
        with suppress(Over):
            fuzz()
        judge.result.seconds = time.monotonic() - began
        return judge.result


def main() -> None:
    """Run the targets that the command line names, one after another, or all."""
    from fuzz.targets import TARGETS

    options = argparse.ArgumentParser()
    options.add_argument("targets", nargs="*")
    options.add_argument("--cases", type=int, default=1000, help="of each target")
    options.add_argument("--seconds", type=float, default=60.0, help="of CPU, each target")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--last", type=Path, help="file that the running case is noted in")
    told = options.parse_args()
    for target in TARGETS:
        bound_time(told.seconds)
        if not told.targets or target.name in told.targets:
            result = run(target, told.cases, told.seconds, told.seed, told.last)
            print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
