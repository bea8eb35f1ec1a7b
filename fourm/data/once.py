"""A folder that many processes want and one of them makes: one maker a machine, the others wait.

The lock is the kernel's (``flock``): it ends with the process that holds it, however that ends, so
a killed maker leaves nothing that has to be removed by hand. What it had written lies under a
temporary name and is thrown away by the next one. A folder that is there is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

_log = logging.getLogger(__name__)


def is_made(folder: Path) -> bool:
    """True if a folder is there, and so whole."""
    return (folder / "index.json").is_file()


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have ``make`` fill ``folder``, with its ``index.json`` among the rest, if it is not there.

    It is called with a temporary name, in one process of this machine at a time.
    """
    if is_made(folder):
        with contextlib.suppress(OSError):  # of a folder that is shared, say
            os.utime(folder)  # when it was last asked for: what no one uses is known by it
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f"{folder.name}.lock"), folder):
        if is_made(folder):
            return
        _fill(folder, make)


def make_again(
    folder: Path, make: Callable[[Path], None], is_whole: Callable[[Path], bool]
) -> None:
    """Have ``make`` fill a damaged ``folder`` anew, unless another process has done so already."""
    with _alone(folder.with_name(f"{folder.name}.lock"), folder):
        if is_made(folder) and is_whole(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        _fill(folder, make)


def _fill(folder: Path, make: Callable[[Path], None]) -> None:
    # machines may share the folder and not the lock: each has a temporary name of its own
    temporary = folder.with_name(f"{folder.name}.tmp-{socket.gethostname()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        make(temporary)
        # another machine may have finished the same folder first
        with contextlib.suppress(OSError):
            os.replace(temporary, folder)
    finally:  # what a full disk cuts short would keep it full
        shutil.rmtree(temporary, ignore_errors=True)


_OLD = ".old"


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` at the end, for one process at a time.

    ``recover`` puts back what a kill between the two renames leaves.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (folder.with_name(f"{folder.name}{end}") for end in (".tmp", _OLD))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(folder, old)
        os.rename(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(parent: Path) -> None:
    """Put back the folders under ``parent`` whose replacing was cut short."""
    for old in parent.glob(f"*{_OLD}"):
        folder = old.with_name(old.name.removesuffix(_OLD))
        if folder.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, folder)


@contextlib.contextmanager
def _alone(lock: Path, folder: Path) -> Iterator[None]:
    """Hold a lock; says so where another process has it."""
    with open(lock, "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process is making %s; waiting for it", folder)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
