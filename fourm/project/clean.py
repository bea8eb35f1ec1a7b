"""What a project holds that nothing needs any more, and its removal: ``fourm clean PROJECT``.

Results that an edit has replaced are kept beside the new ones, because only their owner knows
whether they are wanted: tokenizers called ``<name>.before-1``, runs before the newest. What can be
made again at any time, columns above all, is unused where the project as it is now does not open
it; to know that, it is opened. Raw shards are never named: they may be all there is.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from fourm.config import load
from fourm.data.store import open_sources
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.project.project import Project
from fourm.training.checkpoints import list_checkpoints
from fourm.training.pretrain import PretrainConfig

_BEFORE = re.compile(r".+\.before-\d+")
_COLUMN = re.compile(r"(rows-)?[0-9a-f]{20}")


@dataclass(frozen=True)
class Unused:
    """A folder and why nothing needs it."""

    path: Path
    why: str

    @property
    def size(self) -> int:
        """Bytes of all files in it."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


def find_unused(project: Project) -> list[Unused]:
    """All of a project that may go. Raises UserError where its modalities cannot be read."""
    modalities = ModalitySet.load(project.modalities)
    found = [*_tokenizers(project, modalities), *_tokens(project, modalities), *_runs(project)]
    return [*found, *_columns(project, modalities)]


def remove(project: Project, unused: list[Unused]) -> None:
    """Delete them. Raises UserError while something is trained in the project."""
    for lock in (*project.root.glob("pretrain*/.lock"), *project.tokenizers.glob("*/*/.lock")):
        with open(lock) as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"something is trained in {lock.parent}: stop it first") from None
    for item in unused:
        shutil.rmtree(item.path)


def told_size(size: int) -> str:
    """Bytes for a reader."""
    left = float(size)
    for unit in ("bytes", "kB", "MB"):
        if left < 1000:
            return f"{left:.3g} {unit}"
        left /= 1000
    return f"{left:.3g} GB"


def _tokenizers(project: Project, modalities: ModalitySet) -> Iterator[Unused]:
    used = {m.tokenizer for m in modalities}
    for folder in sorted(project.tokenizers.glob("*/")):
        if _BEFORE.fullmatch(folder.name):
            yield Unused(folder, "a tokenizer that another has replaced")
        elif folder.name not in used:
            yield Unused(folder, "a tokenizer of no modality")


def _tokens(project: Project, modalities: ModalitySet) -> Iterator[Unused]:
    names = {m.name for m in modalities}
    for folder in sorted(project.tokens.glob("*/*/")):
        if folder.parent.name != "manifests" and folder.name not in (*names, "crop_settings"):
            yield Unused(folder, "tokens of a modality that is gone")


def _runs(project: Project) -> Iterator[Unused]:
    """Until the newest run has a checkpoint it may need the one it begins with."""
    if list_checkpoints(project.pretrain / "checkpoints"):
        for folder in project.old_runs():
            yield Unused(folder, f"a run before {project.pretrain.name}")


def _now(folder: Path) -> int:
    """The time as files are stamped, whose clock is coarser and a few milliseconds behind."""
    with NamedTemporaryFile(dir=folder) as mark:
        os.utime(mark.name)
        return os.stat(mark.name).st_mtime_ns


def _columns(project: Project, modalities: ModalitySet) -> Iterator[Unused]:
    """Entries of the cache that the pretraining does not use: opening its data marks those that it
    does. Where it has no data yet, all may be wanted.
    """
    entries = [f for f in sorted(project.cache.glob("*/")) if _COLUMN.fullmatch(f.name)]
    if not entries:
        return
    opened = _now(project.cache)
    try:
        config = load(PretrainConfig, project.pretrain_config)
        if Path(config.data.cache).resolve() != project.cache.resolve():
            return
        for split in (config.data.split, config.data.validation_split):
            open_sources(config.data, split, modalities, {})
    except UserError:
        return
    for folder in entries:
        if folder.stat().st_mtime_ns < opened:
            yield Unused(folder, "columns that the pretraining does not read")
