"""Near-duplicates and leaks between a training and a held-out folder.

    fourm inspect --leaks TRAIN HELD_OUT --out FOLDER

The held-out pictures are kept in memory as prints; the training pictures stream by, one after
another, in several processes: each is looked up as it is and mirrored, laid over what may be the
same, and compared there. Found are crops either way that keep 60 % of a picture, flips, other sizes
and strong compressions, also together. Pictures with few places to hold on to (plain areas, single
letters) are found in crops by windows of their shades, which is less certain; they are counted.

``leaks.json`` has all pairs and figures, ``leaks.html`` shows them, ``exclude.txt`` are the keys of
the training samples to leave out.
"""

from __future__ import annotations

import html
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourm.data.pictures import open_picture, to_rgb
from fourm.data.shards import DamageReport, write_json_atomic
from fourm.errors import UserError
from fourm.files.formats import FORMAT
from fourm.report import Report, embed
from fourm_data_prep.leaks.align import FAR, NEAR, Laid, bettered, lay, whole
from fourm_data_prep.leaks.captions import shared_captions
from fourm_data_prep.leaks.folders import Folder
from fourm_data_prep.leaks.lookup import Lookup
from fourm_data_prep.leaks.prints import Print, View, print_of
from fourm_data_prep.leaks.windows import Shown, Windows

# correlation of pixels that lie on each other, and of the second worst of 16 pieces
ALIKE = (0.92, 0.85)
# where only the hash of the whole was found: soft pictures are alike in their large shades
ALIKE_WHOLE = (0.95, 0.9)
MIN_PLACES = 16  # with fewer a picture is found again in a crop by its shades alone
_SHOWN = 200
_AT_ONCE = 8  # pictures handed to a process together


@dataclass(frozen=True)
class Leak:
    """A training picture that shows what a held-out one shows."""

    train: str  # key
    held_out: str
    mirrored: bool
    agreement: float  # correlation
    worst_piece: float


@dataclass(frozen=True)
class Leaks:
    """What was found, and in how much."""

    pictures: tuple[Leak, ...]
    captions: tuple[tuple[str, str, float], ...]  # training key, held-out key, shared threes
    num_train: int
    num_held_out: int
    num_plain: int  # held-out pictures that only their shades tell in a crop
    seconds: float

    @property
    def exclude(self) -> list[str]:
        """Keys of training samples whose picture or caption is held out."""
        return sorted({leak.train for leak in self.pictures} | {pair[0] for pair in self.captions})


class Finder:
    """Held-out pictures, in which training pictures are looked up."""

    def __init__(self, held: list[tuple[str, Print]]) -> None:
        self._keys = [key for key, _ in held]
        self._pictures = [found.picture for _, found in held]
        self._lookup = Lookup([found.plain for _, found in held])
        self._windows = Windows([_shown(found, found.picture) for _, found in held])

    def __call__(self, key: str, picture: Image.Image) -> list[Leak]:
        """The held-out pictures that this training picture shows, each once."""
        found = print_of(picture)
        best: dict[int, Leak] = {}
        for mirrored, view in enumerate((found.plain, found.mirrored)):
            here = np.ascontiguousarray(found.picture[:, ::-1]) if mirrored else found.picture
            for number, laid, least, steps in self._positions(view, _shown(found, here)):
                total, piece = bettered(here, self._pictures[number], laid, least, steps)
                if total < least[0] or piece < least[1]:
                    continue
                leak = Leak(key, self._keys[number], bool(mirrored), total, piece)
                known = best.get(number)
                if known is None or known.agreement < total:
                    best[number] = leak
        return [best[i] for i in sorted(best)]

    def _positions(
        self, view: View, shown: Shown
    ) -> Iterator[tuple[int, Laid, tuple[float, float], tuple[float, ...]]]:
        """Numbers of pictures that may show the same, how this one would lie on them, how well
        they then must agree, and by which steps that is bettered.
        """
        for candidate in self._lookup.candidates(view):
            if len(candidate.here):
                laid = lay(candidate.here, candidate.there)
                if laid is not None:
                    yield candidate.picture, laid, ALIKE, NEAR
            else:
                there = self._pictures[candidate.picture]
                yield candidate.picture, whole(shown.picture, there), ALIKE_WHOLE, NEAR
        for number, laid in self._windows.candidates(shown):
            yield number, laid, ALIKE_WHOLE, FAR


def _shown(found: Print, picture: np.ndarray) -> Shown:
    return Shown(picture, len(found.plain.places))


def find_leaks(train: Folder, held_out: Folder, workers: int = 0) -> Leaks:
    """Compare two folders. Raises UserError where one has nothing to compare.

    Args:
        workers: processes that look at pictures; 0: this one.
    """
    began = time.monotonic()
    for folder in (train, held_out):
        folder.check()
    held = list(_each(_printed, held_out.read_pictures(DamageReport()), workers))
    held = [found for found in held if found is not None]
    num_train, leaks = 0, []
    if held:
        stream = train.read_pictures(DamageReport())
        for found in _each(_Looking(Finder(held)), stream, workers):
            num_train += found is not None
            leaks += found or []
    captions = shared_captions(train.read_captions(), held_out.read_captions())
    num_plain = sum(len(found.plain.places) < MIN_PLACES for _, found in held)
    seconds = time.monotonic() - began
    return Leaks(tuple(leaks), tuple(captions), num_train, len(held), num_plain, seconds)


@dataclass(frozen=True)
class _Looking:
    """The finder, for encoded pictures; None for one that cannot be read."""

    finder: Finder

    def __call__(self, item: tuple[str, bytes]) -> list[Leak] | None:
        picture = _picture(item[1])
        return None if picture is None else self.finder(item[0], picture)


def _printed(item: tuple[str, bytes]) -> tuple[str, Print] | None:
    picture = _picture(item[1])
    return None if picture is None else (item[0], print_of(picture))


def _picture(data: bytes) -> Image.Image | None:
    try:
        return to_rgb(open_picture(data))
    except UserError:
        return None


# what the processes do: inherited when they fork, so that the prints are in memory once
_work: Any = None


def _do(item: tuple[str, bytes]) -> Any:
    return _work(item)


def _each(work: Any, items: Iterator[tuple[str, bytes]], workers: int) -> Iterator[Any]:
    """``work`` of each item, in order."""
    global _work
    if not workers:
        yield from map(work, items)
        return
    _work = work
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        # a window of items, so that pictures are not read far ahead of the work
        while batch := list(itertools.islice(items, 64 * workers)):
            yield from pool.imap(_do, batch, _AT_ONCE)


def write_leaks(leaks: Leaks, train: Folder, held_out: Folder, out: Path) -> None:
    """``leaks.json``, ``leaks.html`` and ``exclude.txt`` in folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(
        out / "leaks.json",
        {
            "format": FORMAT,
            "train": str(train.root),
            "held_out": str(held_out.root),
            **asdict(leaks),
        },
    )
    (out / "exclude.txt").write_text("".join(f"{key}\n" for key in leaks.exclude))
    _page(leaks, train, held_out).write(out / "leaks.html")


def _page(leaks: Leaks, train: Folder, held_out: Folder) -> Report:
    shown = leaks.pictures[:_SHOWN]
    report = Report("Leaks", f"{train.root} (training) against {held_out.root} (held out)")
    report.heading(
        "Pictures",
        f"{len(leaks.pictures)} pairs among {leaks.num_train:,} and {leaks.num_held_out:,} pictures"
        f"; the first {len(shown)}. {leaks.num_plain} held-out pictures are so plain that crops of"
        " them are found by their shades alone.",
    )
    of_train = _thumbnails(train, {leak.train for leak in shown})
    of_held = _thumbnails(held_out, {leak.held_out for leak in shown})
    report.table(
        ["training", "", "held out", "", "mirrored", "agreement", "second worst piece"],
        [
            [
                html.escape(leak.train),
                of_train.get(leak.train, ""),
                html.escape(leak.held_out),
                of_held.get(leak.held_out, ""),
                "yes" if leak.mirrored else "",
                f"{leak.agreement:.3f}",
                f"{leak.worst_piece:.3f}",
            ]
            for leak in shown
        ],
    )
    report.heading("Captions", f"{len(leaks.captions)} pairs share most threes of words")
    rows = [[html.escape(a), html.escape(b), f"{s:.2f}"] for a, b, s in leaks.captions[:_SHOWN]]
    report.table(["training", "held out", "shared"], rows)
    return report


def _thumbnails(folder: Folder, keys: set[str]) -> dict[str, str]:
    found = {}
    for key, data in folder.read_pictures(DamageReport()) if keys else ():
        picture = _picture(data) if key in keys else None
        if picture is not None:
            found[key] = embed(picture, "picture", 64)
        if len(found) == len(keys):
            break
    return found
