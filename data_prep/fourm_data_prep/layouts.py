"""Paired files in a folder: which file is which modality of which sample.

    FOLDER/<modality>/<name>.<ext>     layout ``folders``; with --split-by folder also
                                       FOLDER/<split>/<modality>/<name>.<ext> or <modality>/<split>
    FOLDER/<name>.<modality>.<ext>     layout ``names``

Below these, folders belong to the name. The raw type of a modality says which extensions are its;
what belongs to no modality is told once for each folder, with its count. Hidden files are none.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fourm.data.shards import Damage
from fourm.errors import UserError, nearest
from fourm.modalities import Modality
from fourm_data_prep.paired import Sample
from fourm_data_prep.parts import File, extension_of, extensions_of
from fourm_data_prep.picture_shards import plain_key
from fourm_data_prep.splits import ByFolder, Place, Split


@dataclass(frozen=True)
class Placed:
    """What a path says: the modality, the sample's folders and name."""

    modality: str
    folders: tuple[str, ...]
    name: str  # without its extension


class Layout(Protocol):
    """Where modalities stand in paths."""

    def placed(self, folders: tuple[str, ...], stem: str, names: list[str], /) -> Placed | None:
        """Of a path below the folder; None for what is of no modality of ``names``."""
        ...


@dataclass(frozen=True)
class Folders:
    """The outermost folder is the modality; or the next, where the outermost is the split."""

    below_splits: bool = False

    def placed(self, folders: tuple[str, ...], stem: str, names: list[str], /) -> Placed | None:
        for depth in range(2 if self.below_splits else 1):
            if len(folders) > depth and folders[depth] in names:
                return Placed(folders[depth], folders[:depth] + folders[depth + 1 :], stem)
        return None


@dataclass(frozen=True)
class Names:
    """The last part of the name before the extension is the modality."""

    def placed(self, folders: tuple[str, ...], stem: str, names: list[str], /) -> Placed | None:
        for name in sorted(names, key=len, reverse=True):  # names may hold dots, too
            if stem.endswith(f".{name}") and len(stem) > len(name) + 1:
                return Placed(name, folders, stem[: -len(name) - 1])
        return None


LAYOUTS: dict[str, type[Folders] | type[Names]] = {"folders": Folders, "names": Names}
_MOST_TOLD = 10  # folders that are no modality
PICTURES = "pictures"  # what is no paired layout: pictures of which the rest is made


def files_below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """All files under a folder, by name, through links to folders too; hidden ones are left out.

    Raises UserError for a folder that cannot be read.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder around it
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from files_below(entry.path, (*above, real))
        else:
            yield entry.path


@dataclass
class PairedFiles:
    """The files of a folder by sample and modality, and what was left over."""

    samples: list[Sample] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # a line each, for the user


def layout_of(source: Path, made: list[Modality], split: Split, pictures: tuple[str, ...]) -> str:
    """The name of the layout of a folder; ``pictures`` where no file is of a modality by its place.

    Args:
        pictures: extensions of pictures, with their dots.

    Raises:
        UserError: more than one layout would fit.
    """
    raws = {m.name: m.raw for m in made}
    names = list(raws)
    found: dict[str, Counter[str]] = {"folders": Counter(), "names": Counter(), "splits": Counter()}
    num_plain = 0
    kinds = {"folders": Folders(isinstance(split, ByFolder)), "names": Names()}
    for path in files_below(str(source)):
        folders, stem = _parts(path, source)
        extension = extension_of(path)
        of_any = False
        for kind, layout in kinds.items():
            placed = layout.placed(folders, stem, names)
            if placed is not None and extension in extensions_of(raws[placed.modality]):
                found[kind][placed.modality] += 1
                of_any = True
        below = Folders(below_splits=True).placed(folders, stem, names)
        if not of_any and below is not None and below.folders:
            found["splits"][below.folders[0]] += 1
        num_plain += not of_any and f".{extension}" in pictures
    return _decided(source, made, found, num_plain)


def _decided(
    source: Path, made: list[Modality], found: dict[str, Counter[str]], num_plain: int
) -> str:
    by_folder, by_name, by_split = found["folders"], found["names"], found["splits"]
    if by_folder and by_name:
        raise UserError(
            f"{source} has files of modalities by folder ({_some(by_folder)}) and by name"
            f" ({_some(by_name)}): say --layout folders or --layout names"
        )
    if by_split and not by_folder and not by_name:
        raise UserError(
            f"{source} has modalities below {_some(by_split)}: if these are splits, add"
            " --split-by folder; otherwise import each of these folders"
        )
    if by_name and num_plain:
        raise UserError(
            f"{source} has {by_name.total()} files named <name>.<modality>.<ext>"
            f" ({_some(by_name)}) and {num_plain} pictures that are not: say --layout names to take"
            " only the former, or --layout pictures to take all pictures"
        )
    if len(by_folder) == 1 and len(made) > 1:
        raise UserError(
            f"of {', '.join(m.name for m in made)} {source} has only a folder {_some(by_folder)}:"
            " say --layout folders to take that, or --layout pictures to make the others from its"
            " pictures and the captions beside them"
        )
    return "folders" if by_folder else "names" if by_name else PICTURES


def _some(counted: Counter[str]) -> str:
    return ", ".join(sorted(counted))


def paired_files(source: Path, made: list[Modality], split: Split, layout: str) -> PairedFiles:
    """The samples of a folder by the name of its layout. Raises UserError if there are none."""
    split.check(None, str(source))
    below = isinstance(split, ByFolder)
    kind: Layout = Folders(below) if layout == "folders" else Names()
    raws = {m.name: m.raw for m in made}
    parts: dict[tuple[tuple[str, ...], str], dict[str, File]] = {}
    result = PairedFiles()
    strangers: Counter[str] = Counter()  # by folder
    unread: Counter[tuple[str, str]] = Counter()  # by modality and extension
    for path in files_below(str(source)):
        folders, stem = _parts(path, source)
        placed = kind.placed(folders, stem, list(raws))
        if placed is None:
            strangers[folders[0] if folders else ""] += 1
            continue
        extension, where = extension_of(path), os.path.relpath(path, source)
        if extension not in extensions_of(raws[placed.modality]):
            unread[placed.modality, extension] += 1
            continue
        held = parts.setdefault((placed.folders, placed.name), {})
        if placed.modality in held:
            reason = f"{placed.modality}: {held[placed.modality].where} is the same sample's"
            result.damage.append(Damage(str(source), where, reason))
        else:
            held[placed.modality] = File(str(source), where)
    most = strangers.most_common(_MOST_TOLD)
    result.notes += [_stranger(*item, list(raws), layout) for item in most]
    if len(strangers) > len(most):
        result.notes.append(f"... and files of {len(strangers) - len(most)} more folders")
    for (name, extension), num in unread.items():
        kinds = ", ".join(extensions_of(raws[name]))
        result.notes.append(
            f"{name}: {num} files .{extension} were left out"
            f" (raw type {raws[name].type_name} reads {kinds})"
        )
    _add_samples(result, parts, source, split)
    if not result.samples:
        raise UserError("; ".join([f"no files of a modality in {source}", *result.notes]))
    return result


def _parts(path: str, source: Path) -> tuple[tuple[str, ...], str]:
    """Folders between, and the name without its extension."""
    *folders, name = os.path.relpath(path, source).split(os.sep)
    return tuple(folders), os.path.splitext(name)[0]


def _stranger(folder: str, num: int, names: list[str], layout: str) -> str:
    if not folder or layout == "names":
        place = f"{folder}/" if folder else "the folder itself"
        return f"{place}: {num} files of no modality were left out"
    return f"{folder}/ is no modality: {num} files were left out{nearest(folder, names)}"


def _add_samples(
    result: PairedFiles,
    parts: dict[tuple[tuple[str, ...], str], dict[str, File]],
    source: Path,
    split: Split,
) -> None:
    seen: set[tuple[str, str]] = set()
    for (folders, name), held in sorted(parts.items()):
        # a folder that is the split is no part of the key: it names the folder of the shards
        inner = folders[1:] if isinstance(split, ByFolder) else folders
        key = plain_key("-".join((*inner, name)))
        try:
            of = split.of(Place(key, folders))
        except UserError as error:
            where = next(iter(held.values())).where
            result.damage.append(Damage(str(source), where, str(error)))
            continue
        if (of, key) in seen:  # names that differ by a dot or a space
            digest = hashlib.sha256(os.fsencode("/".join((*folders, name)))).hexdigest()[:8]
            key = f"{key}_{digest}"
        seen.add((of, key))
        result.samples.append(Sample(key, dict(held), of, str(source)))
