"""Checkpoints that survive anything: written whole or not at all, checked before they are believed.

``<folder>/step_00001000/`` holds what describes the model (for FourM ``config.json``),
``model.safetensors`` (so that a checkpoint folder is a model folder), ``training.safetensors``
(optimizer and EMA tensors), ``state.json`` and ``manifest.json`` with the SHA-256 of each file. A
sharded model has both in parts, ``model-00001-of-00004.safetensors``, one of each rank with its
rows (``fourm.files.weights`` reads them as a whole, or any rows of them). ``saving.py`` writes
them. A damaged newest checkpoint is passed over for the one before, loudly. No pickle: tensors in
safetensors, the rest in JSON.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

from torch import Tensor

from fourm.errors import UserError
from fourm.files.formats import check_format
from fourm.files.json_files import parse_mapping
from fourm.files.weights import WeightFiles
from fourm.training.ranks import Ranks

_log = logging.getLogger(__name__)
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "training.safetensors"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(path for path in folder.glob("step_????????") if path.is_dir())


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files all match its manifest; warns about each one that
    does not.
    """
    for path in reversed(list_checkpoints(folder)):
        fault = fault_of(path)
        if fault is None:
            return path
        _warn(path, fault)
    return None


def agreed_checkpoint(folder: Path, ranks: Ranks) -> Path | None:
    """The newest whole checkpoint, the same for all ranks (all must call); each checks a share of
    the files.

    Raises UserError, the same on all ranks, where they do not see the same checkpoints: machines
    without a shared disk would go on from different steps.
    """
    seen = {path.name: _manifest_digest(path) for path in list_checkpoints(folder)}
    told = ranks.tell({"host": socket.gethostname(), "seen": seen})
    for rank, other in enumerate(told):
        if other["seen"] != told[0]["seen"]:
            raise UserError(
                f"the ranks do not see the same checkpoints in {folder}: rank 0 on"
                f" {told[0]['host']} has {_newest(told[0]['seen'])}, rank {rank} on"
                f" {other['host']} has {_newest(other['seen'])}; give an output folder (out) that"
                " all machines share, or copy the run's folder to each of them"
            )
    for name in sorted(seen, reverse=True):
        found = ranks.tell(fault_of(folder / name, ranks.rank, ranks.num))
        faults = [fault for fault in found if fault is not None]
        if not faults:
            return folder / name
        if ranks.lead:
            _warn(folder / name, faults[0])
    return None


def _newest(seen: dict[str, str]) -> str:
    if not seen:
        return "none"
    name = max(seen)
    return f"{name} (manifest {seen[name][:8] or 'missing'})"


def _warn(path: Path, fault: str) -> None:
    _log.warning("checkpoint %s is damaged (%s): falling back to the one before", path, fault)


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint's run must know beside tensors. Raises UserError for a newer release's."""
    state = parse_mapping((path / STATE).read_bytes(), path / STATE)
    check_format(state, path / STATE)
    return state


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors beside the model's and state of a checkpoint that ``newest_checkpoint`` found
    whole.
    """
    state = read_state(path)
    files = WeightFiles.open(path, TENSORS)
    return {name: files.read(name) for name in files}, state


def fault_of(path: Path, rank: int = 0, num_ranks: int = 1) -> str | None:
    """None, or what is wrong with a rank's share of a checkpoint's files."""
    try:
        manifest = parse_mapping((path / MANIFEST).read_bytes(), path / MANIFEST)
    except (OSError, UserError):
        return f"{MANIFEST} is missing or unreadable"
    for name in sorted(manifest)[rank::num_ranks]:
        if Path(name).name != name or not os.path.isfile(path / name):
            return f"{name} is missing"
        if sha256(path / name) != manifest[name]:
            return f"{name} does not match its checksum"
    return None


def _manifest_digest(path: Path) -> str:
    """Of a checkpoint's manifest, which stands for all of its files; empty if it is missing."""
    return sha256(path / MANIFEST) if (path / MANIFEST).is_file() else ""


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
