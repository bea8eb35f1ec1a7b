"""Checkpoints that survive anything: written whole or not at all, checked before they are believed.

``<folder>/step_00001000/`` holds the task's own files (for FourM ``config.json`` and
``model.safetensors``, so that a checkpoint folder is a model folder), ``training.safetensors``
(optimizer and EMA tensors), ``state.json`` and ``manifest.json`` with the SHA-256 of each file.
Everything is written to a temporary folder, synced to disk and renamed. A damaged newest checkpoint
is passed over for the one before, loudly. No pickle: tensors in safetensors, the rest in JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fourm.errors import UserError
from fourm.formats import FORMAT, check_format

_log = logging.getLogger(__name__)
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "training.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    write_model: Callable[[Path], None],
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of ``step`` and remove all but the newest ``keep``.

    What a full disk cuts short is removed and raises OSError: those before are as they were.
    """
    final = folder / f"step_{step:08d}"
    if final.is_dir() and _is_whole(final) is None:
        return final
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.partial*"):  # left by a run that was killed while saving
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder / f"step_{step:08d}.partial{os.getpid()}"
    temporary.mkdir()
    try:
        write_model(temporary)
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            temporary / TENSORS,
        )
        (temporary / STATE).write_text(
            json.dumps({"format": FORMAT, "step": step, **state}, indent=1) + "\n"
        )
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = {str(path.relative_to(temporary)): _sha256(path) for path in files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for path in (*files, temporary / MANIFEST, temporary):
            _sync(path)
    except SafetensorError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _as_os_error(error, temporary) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if final.is_dir():
        shutil.rmtree(final)
    os.replace(temporary, final)
    _sync(folder)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def _as_os_error(error: SafetensorError, folder: Path) -> Exception:
    """What the operating system said, which safetensors keeps in its text alone."""
    code = re.search(r"(?:os error|code:) (\d+)", str(error))
    if code is None:
        return error
    return OSError(int(code[1]), os.strerror(int(code[1])), str(folder))


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(path for path in folder.glob("step_????????") if path.is_dir())


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files all match its manifest; warns about each one that
    does not.
    """
    for path in reversed(list_checkpoints(folder)):
        fault = _is_whole(path)
        if fault is None:
            return path
        _log.warning("checkpoint %s is damaged (%s): falling back to the one before", path, fault)
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint that ``newest_checkpoint`` found whole."""
    state = json.loads((path / STATE).read_text())
    check_format(state, path / STATE)
    return load_file(path / TENSORS), state


def _is_whole(path: Path) -> str | None:
    """None, or what is wrong."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or unreadable"
    for name, digest in manifest.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != digest:
            return f"{name} does not match its checksum"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- optimizer state as named tensors ------------------------------------------------------------


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All state tensors, named ``optimizer.<which>.<parameter>.<name>``; sharded ones are gathered
    (all ranks must call).
    """
    tensors: dict[str, Tensor] = {}
    for i, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{i}.{key}.{name}"] = gather_full(
                    value if isinstance(value, Tensor) else torch.tensor(value)
                )
    return tensors


def load_optimizer_tensors(
    optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor], where: Path
) -> None:
    """Put back what ``optimizer_tensors`` gave. Raises UserError where it belongs to other groups
    of parameters, as those of an earlier release or of another optimizer do.
    """
    for i, optimizer in enumerate(optimizers):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            which, _, rest = name.removeprefix("optimizer.").partition(".")
            if name.startswith("optimizer.") and which == str(i):
                key, _, field = rest.partition(".")
                state.setdefault(int(key), {})[field] = tensor
        fits = all(
            # a number, one for each row, or one for each of the parameter's
            key < len(params)
            and t.shape in (params[key].shape[:n] for n in {0, 1, params[key].ndim})
            for key, entry in state.items()
            for t in entry.values()
        )
        if not fits:
            raise UserError(
                f"{where} holds the optimizer's state of other groups of parameters: it was"
                " trained with another optimizer or by a release that grouped them otherwise."
                " Start from its weights in another output folder (init: in a pretraining config)"
            )
        for key, entry in state.items():
            state[key] = {name: shard_like(t, params[key]) for name, t in entry.items()}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def gather_full(tensor: Tensor) -> Tensor:
    """A sharded tensor (FSDP2) gathered; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor sharded like a parameter (FSDP2); any other as it is."""
    is_sharded = hasattr(tensor, "device_mesh")
    if is_sharded or not hasattr(parameter, "device_mesh") or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(parameter.device), mesh, placements)
