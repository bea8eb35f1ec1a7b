"""How much a visitor of the page may ask for. What is above is refused in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fourm.data.pictures import open_header
from fourm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one page."""

    upload_bytes: int = 20_000_000  # of one file
    kept_bytes: int = 1_000_000_000  # of all files that are kept for visitors
    body_bytes: int = 2_000_000  # of any other request: typed text, paintings
    pixels: int = 40_000_000  # of a picture, before it is decoded
    characters: int = 4_000  # of a typed input
    samples: int = 8
    results: int = 12  # of a visitor's history; older ones are dropped
    results_bytes: int = 300_000_000  # of the histories of all visitors; the oldest are dropped
    kept_seconds: float = 3600.0  # after a visitor's last generation
    visitors: int = 100  # whose open pages are known; who was away for longest starts anew
    waiting: int = 16  # visitors in the queue
    posts_a_minute: int = 240  # of one address; clicks and uploads alike
    generations_a_minute: int = 60  # of one address


LIMITS = Limits()


def check_upload(path: Path, extensions: tuple[str, ...], limits: Limits = LIMITS) -> None:
    """Raise UserError for a file that is too large or of another kind.

    The sentence has the file's name in it, never where it lies.
    """
    extension = path.suffix.lower().lstrip(".")
    if extension not in extensions:
        kinds = ", ".join(f".{known}" for known in extensions)
        raise UserError(f"{path.name} is none of the kinds of file that are read here: {kinds}")
    size = path.stat().st_size
    if size > limits.upload_bytes:
        raise UserError(f"{path.name} is larger than {limits.upload_bytes // 1_000_000} MB")
    if extension in ("png", "jpg", "jpeg", "webp"):
        try:
            header = open_header(path.read_bytes())
        except UserError as error:
            raise UserError(f"{path.name}: {error}") from None
        if header.width * header.height > limits.pixels:
            raise UserError(
                f"a picture of {header.width} x {header.height} pixels is too large:"
                f" {limits.pixels // 1_000_000} million are the most"
            )


def check_typed(text: str, limits: Limits = LIMITS) -> None:
    """Raise UserError for text that is longer than anyone types."""
    if len(text) > limits.characters:
        raise UserError(f"{len(text)} characters are more than the {limits.characters} taken here")
