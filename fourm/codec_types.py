"""Types of codecs: under which name each is found, and what its settings say of its tokens.

A modality's sizes follow from its tokenizer's settings, and only the codec knows how: this module
asks it. Packages name their codecs in the entry points ``fourm.codecs``. Reading a modality set
must stay quick, so such a codec answers from a light module, named in ``fourm.codec_sizes``. A
codec of your own (``type: package.module:Class``) may have a static method

    sizes(settings, raw) -> Sizes

of its settings as YAML says them and the modality's raw type. It is asked, and for that imported,
where YAML leaves a size out; ``plain_sizes`` holds for codecs without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fourm.errors import UserError, nearest
from fourm.raw import Raw

_CODECS, _SIZES = "fourm.codecs", "fourm.codec_sizes"  # groups of entry points


@dataclass(frozen=True)
class Sizes:
    """What a codec's settings say of its tokens; zero or empty = they do not say."""

    vocab_size: int = 0
    levels: tuple[int, ...] = ()  # FSQ levels, whose product is vocab_size
    grid: tuple[int, int] | None = None  # rows, columns of tokens
    num_tokens: int = 0  # of a sample that becomes a list


def plain_sizes(settings: Mapping[str, Any], raw: Raw) -> Sizes:
    """Sizes from settings with the usual names: ``levels``, ``vocab_size``, ``patch_size`` (pixels
    of a token's side) and ``num_tokens``. Raises UserError for values that are no sizes.
    """
    side = 0
    if "patch_size" in settings and raw.pixels:
        side = num_patches(raw.pixels, whole(settings, "patch_size"))
    vocab_size, levels = codebook_sizes(settings)
    return Sizes(
        vocab_size=vocab_size,
        levels=levels,
        grid=(side, side) if side else None,
        num_tokens=whole(settings, "num_tokens"),
    )


def codebook_sizes(settings: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    """Number of ids, and FSQ levels, from ``levels`` or ``vocab_size``. Raises UserError for values
    that are no sizes.
    """
    if "levels" not in settings:
        return settings.get("vocab_size", 0), ()
    levels = _levels(settings["levels"])
    return math.prod(levels), levels


def whole(table: Mapping[str, Any], key: str, default: int = 0) -> int:
    """A size in settings. Raises UserError for anything but a whole number."""
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{key} must be a whole number, not {value!r}")
    return value


def _levels(value: Any) -> tuple[int, ...]:
    levels = tuple(value) if isinstance(value, (list, tuple)) else ()
    if not levels or not all(isinstance(level, int) and level > 1 for level in levels):
        raise UserError(f"levels must be whole numbers from 2 on, e.g. [8, 8, 8, 5], not {value!r}")
    return levels


def num_patches(size: int, patch_size: int) -> int:
    """Patches along a side of ``size`` pixels. Raises UserError if they do not fill it."""
    if not patch_size:
        raise UserError("patch_size must be at least 1, not 0")
    if not size:
        raise UserError("patch_size needs a raw form that has a size (pixels)")
    if size % patch_size:
        raise UserError(f"{size} px is no multiple of patch_size {patch_size}")
    return size // patch_size


def codec_names() -> list[str]:
    """Types that have a short name."""
    return sorted(_entries(_CODECS))


def check_type(name: str) -> None:
    """Raise UserError unless ``name`` is a known type of tokenizers or names one elsewhere."""
    known = codec_names()
    if name not in known and not all(name.partition(":")):
        raise UserError(
            f"tokenizer type {name!r} is not one of {', '.join(known)} and not of the form"
            f" package.module:Class{nearest(name, known)}"
        )


def find_codec(name: str) -> Any:
    """The class or function that opens codecs of a type. Raises UserError."""
    check_type(name)
    return _load(name, _CODECS)


def sizes_of(settings: Mapping[str, Any], raw: Raw, complete: bool) -> Sizes:
    """Sizes of a modality of this raw type with these tokenizer settings, as YAML says them.

    ``complete``: YAML gives all sizes, so that a codec of the user's own need not be imported.
    Raises UserError for settings that have no meaning.
    """
    name = str(settings.get("type", ""))
    tell: Callable[[Mapping[str, Any], Raw], Sizes] = plain_sizes
    if name in _entries(_SIZES):
        tell = _load(name, _SIZES)
    elif ":" in name and not complete:
        tell = getattr(find_codec(name), "sizes", plain_sizes)
    return tell(settings, raw)


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _load(name: str, group: str) -> Any:
    """What an entry point names, or ``package.module:Class`` itself."""
    entry = _entries(group).get(name) or EntryPoint(name, name, group)
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"tokenizer type {name!r} cannot be loaded: {error}") from None
