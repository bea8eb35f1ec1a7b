"""Writing checkpoints while the training goes on.

A save copies what this rank holds into memory of the host (pinned, on a GPU) and returns: that is
all the time it takes from the training. A thread then writes it, hashing as it goes, into a folder
with a temporary name. When all ranks have written their parts, the first one adds the manifest and
renames the folder: killed at any moment before that, the checkpoint before is the newest. The next
save waits for this one. A write that fails leaves nothing behind, and stops all ranks with its
message at the next step.

Threads of all ranks agree over a group of their own, so that they are in nobody's way.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.errors import UserError
from fourm.files.formats import FORMAT
from fourm.files.tensor_file import write_tensors
from fourm.files.weights import ROWS, WEIGHTS_FILE, part_name
from fourm.training.checkpoints import MANIFEST, STATE, TENSORS, fault_of, list_checkpoints, sha256
from fourm.training.ranks import Ranks
from fourm.training.sharding import is_sharded, local, rows_of

VISIBLE = 30.0  # seconds after which a file of one machine must be seen by the others


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is made of, as it is now."""

    step: int
    model: dict[str, Tensor]  # of the model's file
    others: dict[str, Tensor]
    state: dict[str, Any]  # as JSON has it
    describe: Callable[[Path], None]  # writes what makes a folder of weights a model


@dataclass(frozen=True)
class _Part:
    """A rank's rows of tensors, in memory of the host."""

    tensors: dict[str, Tensor]
    rows: dict[str, list[int]]  # name -> first row, rows of the whole; for those it has in part


class Saver:
    """Checkpoints of one run.

    Args:
        keep: how many are kept.
        ranks: a group that nobody else uses.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks) -> None:
        self._folder, self._keep, self._ranks = folder, keep, ranks
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._pinned: dict[str, Tensor] = {}

    @property
    def failed(self) -> bool:
        """True once the last write has failed: ``wait`` raises why."""
        return self._error is not None

    @property
    def busy(self) -> bool:
        """True while something is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, snapshot: Snapshot) -> None:
        """Save in the background, once the save before is done (all ranks must call).

        Raises what ``wait`` does.
        """
        self.wait()
        index, num = _place(snapshot.model)
        model = self._staged("model.", snapshot.model, index)
        others = self._staged("others.", snapshot.others, index)
        if self._pinned:
            torch.cuda.synchronize()
        # a daemon: whoever presses Ctrl-C twice does not wait for a disk
        self._thread = threading.Thread(
            target=self._run, args=(snapshot, {WEIGHTS_FILE: model, TENSORS: others}, index, num),
            name="checkpoint", daemon=True,
        )  # fmt: skip
        self._thread.start()

    def wait(self) -> None:
        """Until the last save is on the disk of all ranks.

        Raises OSError or UserError, on all ranks, if some rank could not write: checkpoints before
        are as they were.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Until the last save is done, whatever became of it."""
        if self._thread is not None:
            self._thread.join()

    # ---- staging ---------------------------------------------------------------------------------

    def _staged(self, prefix: str, tensors: dict[str, Tensor], index: int | None) -> _Part:
        """Copies of what this rank writes: its rows of sharded tensors, and all others if it is the
        first.
        """
        part = _Part({}, {})
        for name, tensor in tensors.items():
            rows = rows_of(tensor)
            if index is None or (rows is None and index > 0):
                continue
            if rows is not None and rows.start == rows.stop:
                continue
            part.tensors[name] = self._copied(prefix + name, local(tensor).detach())
            if rows is not None:
                part.rows[name] = [rows.start, rows.total]
        return part

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.clone(memory_format=torch.contiguous_format)
        # pinning memory takes longer than copying into it: it is kept for the next save
        place = self._pinned.get(name)
        if place is None or place.shape != tensor.shape:
            place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._pinned[name] = place
        return place.copy_(tensor, non_blocking=True)

    # ---- writing, in the thread ------------------------------------------------------------------

    def _run(
        self, snapshot: Snapshot, parts: dict[str, _Part], index: int | None, num: int
    ) -> None:
        try:
            self._write(snapshot, parts, index, num)
        except Exception as error:  # the training thread raises it
            self._error = error

    def _write(
        self, snapshot: Snapshot, parts: dict[str, _Part], index: int | None, num: int
    ) -> None:
        final = self._folder / f"step_{snapshot.step:08d}"
        temporary = Path(self._agreed(lambda: self._opened(final), lead_alone=True)[0])
        if temporary == final:  # it is there, whole
            return

        def own_files() -> dict[str, str]:
            if index is None:
                return {}
            _wait_for(temporary)
            return {
                (name := part_name(file, index, num)): write_tensors(
                    temporary / name, part.tensors, _metadata(part, num)
                )
                for file, part in parts.items()
            }

        try:
            written = self._agreed(own_files)
            manifest = {name: digest for of_rank in written for name, digest in of_rank.items()}
            self._agreed(lambda: self._finish(snapshot, temporary, final, manifest), True)
        except BaseException:
            if self._ranks.lead:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _agreed(self, action: Callable[[], Any], lead_alone: bool = False) -> list[Any]:
        """What an action gave on each rank; where one failed, all raise."""
        said: dict[str, Any] = {"result": None}
        own: Exception | None = None
        if self._ranks.lead or not lead_alone:
            try:
                said["result"] = action()
            except Exception as error:
                own = error
                code, name = getattr(error, "errno", None), getattr(error, "filename", None)
                said = {"error": str(error), "errno": code, "filename": str(name or self._folder)}
        told = self._ranks.tell(said)
        if own is not None:
            raise own
        for rank, other in enumerate(told):
            if other.get("errno") is not None:
                raise OSError(other["errno"], os.strerror(other["errno"]), other["filename"])
            if "error" in other:
                raise UserError(f"rank {rank} could not write its checkpoint: {other['error']}")
        return [other["result"] for other in told]

    def _opened(self, final: Path) -> str:
        """A new folder to write into; ``final`` itself where that is whole already."""
        if final.is_dir() and fault_of(final) is None:
            return str(final)
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob("*.partial*"):  # left by a run that was killed while saving
            shutil.rmtree(stale, ignore_errors=True)
        temporary = final.with_name(f"{final.name}.partial{os.getpid()}")
        temporary.mkdir()
        return str(temporary)

    def _finish(
        self, snapshot: Snapshot, temporary: Path, final: Path, digests: dict[str, str]
    ) -> None:
        """All ranks' parts are on the disk: describe them and give the folder its name."""
        for name in digests:  # by name: a listing of a network's disk may be seconds old
            _wait_for(temporary / name)
        snapshot.describe(temporary)
        described = {"format": FORMAT, "step": snapshot.step, **snapshot.state}
        (temporary / STATE).write_text(json.dumps(described, indent=1) + "\n")
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        named = {str(path.relative_to(temporary)): path for path in files}
        ours = {name: sha256(path) for name, path in named.items() if name not in digests}
        manifest = dict(sorted({**ours, **digests}.items()))
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for path in (*(named[name] for name in ours), temporary / MANIFEST, temporary):
            _sync(path)
        if final.is_dir():
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync(self._folder)
        for old in list_checkpoints(self._folder)[: -self._keep]:
            shutil.rmtree(old)


def _place(model: dict[str, Tensor]) -> tuple[int | None, int]:
    """Which of how many parts this rank writes; None for none."""
    sharded = next((t for t in model.values() if is_sharded(t)), None)
    if sharded is None:
        is_first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        return (0 if is_first else None), 1
    *copies, shard = sharded.device_mesh.get_coordinate()  # type: ignore[attr-defined]
    return (None if any(copies) else shard), sharded.device_mesh.size(-1)  # type: ignore[attr-defined]


def _metadata(part: _Part, num: int) -> dict[str, str] | None:
    return {ROWS: json.dumps(part.rows)} if num > 1 else None


def _wait_for(path: Path) -> None:
    """Until this machine sees what another has made. Raises UserError where it never does."""
    deadline = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{path} of another rank is not to be seen on {socket.gethostname()}: a sharded"
                " run needs an output folder (out) that all machines share"
            )
        time.sleep(0.1)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
