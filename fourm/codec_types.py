"""Types of codecs: under which name each is found, and what its settings say of its tokens.

A modality's sizes follow from its tokenizer's settings, and only the codec knows how: this module
asks it. Reading a modality set must stay quick, so a built-in codec answers from a light module
beside it. A codec of your own (``type: package.module:Class``) may have a static method

    sizes(settings, raw) -> Sizes

of its settings and the modality's raw form, both as YAML says them. It is asked, and for that
imported, where YAML leaves a size out; ``plain_sizes`` holds for codecs without it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fourm.errors import UserError


@dataclass(frozen=True)
class Sizes:
    """What a codec's settings say of its tokens; zero or empty = they do not say."""

    vocab_size: int = 0
    levels: tuple[int, ...] = ()  # FSQ levels, whose product is vocab_size
    grid: tuple[int, int] | None = None  # rows, columns of tokens
    num_tokens: int = 0  # of a sample that becomes a list


def plain_sizes(settings: Mapping[str, Any], raw: Mapping[str, Any]) -> Sizes:
    """Sizes from settings with the usual names: ``levels``, ``vocab_size``, ``patch_size`` (pixels
    of a token's side) and ``num_tokens``. Raises UserError for values that are no sizes.
    """
    levels = _levels(settings["levels"]) if "levels" in settings else ()
    side = 0
    if "patch_size" in settings and raw.get("size"):
        side = _num_patches(whole(raw, "size"), whole(settings, "patch_size"))
    return Sizes(
        vocab_size=math.prod(levels) if levels else settings.get("vocab_size", 0),
        levels=levels,
        grid=(side, side) if side else None,
        num_tokens=whole(settings, "num_tokens"),
    )


def whole(table: Mapping[str, Any], key: str, default: int = 0) -> int:
    """A size in settings or a raw form. Raises UserError for anything but a whole number."""
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{key} must be a whole number, not {value!r}")
    return value


def _levels(value: Any) -> tuple[int, ...]:
    levels = tuple(value) if isinstance(value, (list, tuple)) else ()
    if not levels or not all(isinstance(level, int) and level > 1 for level in levels):
        raise UserError(f"levels must be whole numbers from 2 on, e.g. [8, 8, 8, 5], not {value!r}")
    return levels


def _num_patches(size: int, patch_size: int) -> int:
    """Patches along a side."""
    if not patch_size:
        raise UserError("patch_size must be at least 1, not 0")
    if size % patch_size:
        raise UserError(f"{size} px is no multiple of patch_size {patch_size}")
    return size // patch_size


@dataclass(frozen=True)
class BuiltIn:
    """Where a built-in codec lies, and where the function that tells its sizes."""

    codec: str
    sizes: str = f"{__name__}:{plain_sizes.__name__}"


BUILT_IN = {
    "autoencoder": BuiltIn(
        "fourm_tokenizers.picture:PictureCodec", "fourm_tokenizers.sizes:autoencoder_sizes"
    ),
    "text": BuiltIn("fourm_tokenizers.text:open_text_codec"),
    "released": BuiltIn("fourm_tokenizers.released.codec:ReleasedCodec"),
}


def find_codec(name: str) -> Any:
    """The class or function that opens codecs of a type. Raises UserError."""
    if name in BUILT_IN:
        return _load(BUILT_IN[name].codec)
    if ":" not in name:
        raise UserError(
            f"tokenizer type {name!r} is not one of {', '.join(BUILT_IN)} and not of the form"
            " package.module:Class"
        )
    return _load(name)


def sizes_of(settings: Mapping[str, Any], raw: Mapping[str, Any], complete: bool) -> Sizes:
    """Sizes of a modality with these tokenizer settings and this raw form, both as YAML says them.

    ``complete``: YAML gives all sizes, so that a codec of the user's own need not be imported.
    Raises UserError for settings that have no meaning.
    """
    name = settings.get("type", "")
    tell: Callable[[Mapping[str, Any], Mapping[str, Any]], Sizes] = plain_sizes
    if name in BUILT_IN:
        tell = _load(BUILT_IN[name].sizes)
    elif ":" in name and not complete:
        tell = getattr(_load(name), "sizes", plain_sizes)
    return tell(settings, raw)


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"tokenizer type {target!r} cannot be loaded: {error}") from None
