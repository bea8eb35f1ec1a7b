"""Codecs: what turns a modality's raw form into ids and back. The core knows them by this protocol
and loads them by name.

A codec is named by the ``type`` of its settings in the config: a name that an installed
package gives it, or ``package.module:Class`` for your own (``codec_types.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from fourm.codec_types import find_codec
from fourm.errors import UserError
from fourm.files.foreign_code import refuse_code
from fourm.item_form import ItemForm
from fourm.modalities import Modality, ModalitySet


@runtime_checkable
class Codec(Protocol):
    """Raw values of one modality <-> ids.

    Normalisation is inside: callers pass ordinary pictures, strings, lists.
    """

    codebook_size: int
    fingerprint: str  # of settings and weights; stored beside token shards

    def encode(self, raw: Sequence[Any]) -> list[np.ndarray]:
        """Raw values -> ids of each, (n,) int64.

        Raises UserError for a value that is not what the modality holds.
        """
        ...

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        """Ids of each -> raw values."""
        ...


@runtime_checkable
class SoftCodec(Codec, Protocol):
    """A codec that decodes mixtures of codes too: what ``decode: mean`` of sampling needs."""

    def decode_mean(self, probability: Sequence[np.ndarray]) -> list[Any]:
        """Probabilities of the ids of each token (n, V) -> raw values, decoded from the expected
        code of each.
        """
        ...


@runtime_checkable
class SpellingCodec(Codec, Protocol):
    """A codec of text and of lists that are spelled as text."""

    def piece_kinds(self) -> np.ndarray:
        """What each id is (V,): the axis of a coordinate, or ``WORD`` or ``PIECE`` of
        ``fourm.item_form``.
        """
        ...


def open_codec(modality: Modality, modalities: ModalitySet, folder: str | Path) -> Codec:
    """The trained codec of a modality; ``folder`` holds one sub-folder for each tokenizer."""
    if modality.tokenizer is None:
        raise UserError(f"modality {modality.name} has no tokenizer")
    settings = modalities.tokenizers[modality.tokenizer]
    path = Path(folder, modality.tokenizer)
    if not path.is_dir() and settings.get("hub"):
        path = _from_hub(str(settings["hub"]), modality.tokenizer, folder)
    if not path.is_dir():
        hint = "train it first"
        if settings.get("type") == "text":
            hint = f"put its tokenizer.json into {path} (or train one: fourm train-text)"
        raise UserError(f"tokenizer {modality.tokenizer!r} is not in {folder}; {hint}")
    return find_codec(str(settings.get("type", "")))(path, modality)


def _from_hub(repository: str, name: str, folder: str | Path) -> Path:
    try:
        folder = Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"tokenizer {name!r} is neither in {folder} nor to be had from the hub as"
            f" {repository}: {type(error).__name__}"
        ) from None
    return refuse_code(folder)


class CodecSet:
    """Codecs of a modality set, each opened when its modality is first used."""

    def __init__(self, modalities: ModalitySet, folder: str | Path) -> None:
        self._modalities, self._folder = modalities, folder
        self._open: dict[str, Codec] = {}
        self._forms: dict[str, ItemForm | None] = {}

    def __getitem__(self, name: str) -> Codec:
        if name not in self._open:
            self._open[name] = open_codec(self._modalities[name], self._modalities, self._folder)
        return self._open[name]

    def form_of(self, name: str) -> ItemForm | None:
        """The form of the items of what is spelled as text."""
        if name not in self._forms:
            codec, raw = self[name], self._modalities[name].raw
            is_spelled = isinstance(codec, SpellingCodec)
            form = ItemForm(codec.piece_kinds(), raw.num_coordinates) if is_spelled else None
            self._forms[name] = form
        return self._forms[name]
