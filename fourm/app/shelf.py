"""What was made for visitors, while they are here: a number of results of each, and no more bytes
over all than there is room for.

Where room is short the oldest results go, of the visitor who was away for the longest, and the file
that was made of them with them. Nothing stays of a visitor who leaves.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any

from fourm.app.limits import LIMITS, Limits
from fourm.app.results import Made, write_zip
from fourm.errors import UserError
from fourm.modalities import Modality

ZIP = "fourm-results.zip"


@dataclass(frozen=True)
class Visit:
    """Results of one visitor, the oldest first, and the file of all of them."""

    made: tuple[Made, ...] = ()
    count: int = 0  # of all that was ever made
    file: Path | None = None
    used: float = 0.0  # when something was made last, seconds

    @property
    def has_file(self) -> bool:
        """Whether it can be downloaded."""
        return self.file is not None and self.file.is_file()

    def choices(self, can_take: Callable[[Modality], bool]) -> list[tuple[str, str]]:
        """(what is shown, its key) of each result that can be given again, the newest first."""
        return [
            (f"{made.number}. {name}, seed {made.seed + i}", f"{made.number}/{name}/{i}")
            for made in reversed(self.made)
            for name, result in made.results.items()
            if can_take(result.modality)
            for i in range(len(result.values))
        ]

    def result(self, key: Any) -> tuple[Modality, Any]:
        """Modality and value of a result. Raises UserError where it is gone."""
        for made in self.made:
            for name, result in made.results.items():
                for i, value in enumerate(result.values):
                    if key == f"{made.number}/{name}/{i}":
                        return result.modality, value
        raise UserError("that result is not kept any more: choose another")


@dataclass
class Shelf:
    """Visits by the name of their session; files of them lie below ``root``."""

    root: Path
    limits: Limits = LIMITS
    clock: Callable[[], float] = time.monotonic
    _visits: dict[str, Visit] = field(default_factory=dict)  # who came last is last
    _lock: RLock = field(default_factory=RLock)

    def __getitem__(self, session: str) -> Visit:
        with self._lock:
            self._drop_old()
            return self._visits.get(session, Visit())

    @property
    def num_bytes(self) -> int:
        """Of all results in memory; files of them are about as large."""
        return sum(made.num_bytes for visit in self._visits.values() for made in visit.made)

    def add(self, session: str, made: Made) -> Visit:
        """Keep a finished result; gives the visit with a new file of all that is kept of it."""
        with self._lock:
            kept = (*self[session].made, made)[-self.limits.results :]
            self.drop(session)
            self._visits[session] = Visit(kept, made.number, used=self.clock())
            while self.num_bytes > self.limits.results_bytes and self._drop_oldest(but=made):
                pass
            # a name that nobody guesses
            path = self.root / "results" / secrets.token_hex(16) / ZIP
            path.parent.mkdir(parents=True)
            visit = self._visits[session]
            visit = replace(visit, file=write_zip(visit.made, path))
            self._visits[session] = visit
            return visit

    def drop(self, session: str) -> None:
        """Forget a visitor."""
        with self._lock:
            _remove_file(self._visits.pop(session, Visit()))

    def _drop_oldest(self, but: Made) -> bool:
        """Forget one result, unless it is ``but``, which is the last one."""
        session, visit = next(iter(self._visits.items()))
        if visit.made[0] is but:
            return False
        _remove_file(visit)
        self._visits[session] = replace(visit, made=visit.made[1:], file=None)
        if not self._visits[session].made:
            del self._visits[session]
        return True

    def _drop_old(self) -> None:
        first = self.clock() - self.limits.kept_seconds
        for session in [name for name, visit in self._visits.items() if visit.used < first]:
            self.drop(session)


def _remove_file(visit: Visit) -> None:
    if visit.file is not None:
        shutil.rmtree(visit.file.parent, ignore_errors=True)
