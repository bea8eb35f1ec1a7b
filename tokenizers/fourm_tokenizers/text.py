"""Text and everything spelled as text: one WordPiece vocabulary, Hugging Face ``tokenizers``
inside.

Ids begin as in the released 4M tokenizer: [PAD] [UNK] [SOS] [EOS], sentinels, coordinate tokens
``v0=0`` ... then class names, then learned pieces. A raw value becomes a line of text
(``Raw.to_text``), the line becomes ids with [EOS] at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from fourm.config import at_least
from fourm.errors import UserError
from fourm.item_form import PIECE, WORD
from fourm.modalities import END_ID, SENTINEL_ID, UNKNOWN_ID, Modality
from fourm_tokenizers.picture import fingerprint
from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
_COORDINATE = re.compile(r"v(\d)=\d+")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Size and layout of the vocabulary.

    ``vocab_size`` is the most ids; a small corpus gives fewer.
    """

    type: str = "text"
    vocab_size: int = 30000
    num_sentinels: int = 200
    num_axes: int = 4  # coordinate tokens v0= ... v3=
    num_bins: int = 1000  # values of each
    words: tuple[str, ...] = ()  # class names that stay whole

    def __post_init__(self) -> None:
        at_least(self, 1, "num_sentinels")
        at_least(self, 0, "num_axes", "num_bins")
        fixed = SENTINEL_ID + self.num_sentinels + self.num_axes * self.num_bins + len(self.words)
        if self.vocab_size <= fixed:
            raise UserError(
                f"vocab_size {self.vocab_size} leaves no room for words: {fixed} ids are special"
            )


def train_text_tokenizer(config: TextConfig, lines: Iterable[str], folder: str | Path) -> Tokenizer:
    """Learn word pieces from lines of text and write ``tokenizer.json``."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = BertPreTokenizer()  # type: ignore[assignment]
    fixed = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(config.num_sentinels))]
    fixed += [
        f"v{axis}={value}" for axis in range(config.num_axes) for value in range(config.num_bins)
    ]
    trainer = WordPieceTrainer(
        vocab_size=config.vocab_size, special_tokens=[*fixed, *config.words], show_progress=False
    )  # type: ignore[call-arg]
    tokenizer.train_from_iterator(lines, trainer)
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(Path(folder, TOKENIZER_FILE)))
    return tokenizer


class TextCodec:
    """Captions and structured sequences <-> ids of the shared vocabulary."""

    def __init__(self, folder: Path, modality: Modality) -> None:
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise UserError(f"no text tokenizer in {folder}: {TOKENIZER_FILE} is missing")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for malformed files
            raise UserError(f"{path} is no tokenizer file: {error}") from None
        self.codebook_size = self.tokenizer.get_vocab_size()
        if self.codebook_size > modality.vocab_size:
            raise UserError(
                f"{path} has {self.codebook_size} ids, modality {modality.name} declares"
                f" {modality.vocab_size}"
            )
        self.modality = modality
        self.fingerprint = fingerprint(path)
        vocabulary = self.tokenizer.get_vocab()
        self.num_bins = 0
        while f"v0={self.num_bins}" in vocabulary:
            self.num_bins += 1
        self._first_word = SENTINEL_ID
        while f"[S_{self._first_word - SENTINEL_ID}]" in vocabulary:
            self._first_word += 1

    def encode(self, raw: Sequence[Any]) -> list[np.ndarray]:
        lines = [self.modality.raw.to_text(value, self.num_bins) for value in raw]
        encoded = self.tokenizer.encode_batch(lines, add_special_tokens=False)
        most = self.modality.max_tokens
        return [np.array([*e.ids, END_ID][:most], dtype=np.int64) for e in encoded]

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        return [self.modality.raw.from_text(self.to_line(i), self.num_bins) for i in ids]

    def piece_kinds(self) -> np.ndarray:
        kinds = np.full(self.modality.vocab_size, WORD)
        for token, i in self.tokenizer.get_vocab().items():
            coordinate = _COORDINATE.fullmatch(token)
            if coordinate is not None:
                kinds[i] = int(coordinate[1])
            elif token.startswith("##"):
                kinds[i] = PIECE
        return kinds

    def to_line(self, ids: np.ndarray) -> str:
        """Ids up to [EOS] as text; sentinels and padding are left out."""
        pieces: list[str] = []
        for i in np.asarray(ids).tolist():
            if i == END_ID:
                break
            token = self.tokenizer.id_to_token(i)
            if token is None or i < UNKNOWN_ID or 1 < i < self._first_word:
                continue
            if token.startswith("##") and pieces:
                pieces[-1] += token[2:]
            else:
                pieces.append(token)
        return _join(pieces)


def _join(pieces: list[str]) -> str:
    """Words with spaces between, none before punctuation."""
    line = ""
    for piece in pieces:
        glued = (
            piece in ".,;:!?)'" or line.endswith(("(", "'")) or piece == "-" or line.endswith("-")
        )
        line += piece if glued or not line else " " + piece
    return line


def open_text_codec(folder: Path, modality: Modality) -> TextCodec:
    """The codec of a sequence modality over a shared text tokenizer."""
    return TextCodec(folder, modality)
