"""What a dense head says of some held-out samples, as a picture: given, answer and truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from fourm.raw import Raw

_SIDE, _GAP = 128, 4  # pixels


def write_pictures(
    given: Sequence[tuple[Raw, Sequence[Any]]],
    raw: Raw,
    answers: Sequence[Any],
    truth: Sequence[Any],
    path: Path,
) -> None:
    """One PNG; numbers of answers and truth on one scale.

    Args:
        given: inputs that have pictures, their raw types and values.
    """
    over = raw.stretch(truth)
    columns = [[own.show(value) for value in values] for own, values in given]
    columns += [[raw.show(value, over) for value in values] for values in (answers, truth)]
    step = _SIDE + _GAP
    size = (len(columns) * step - _GAP, len(truth) * step - _GAP)
    sheet = PIL.Image.new("RGB", size, "white")
    for x, column in enumerate(columns):
        for y, shown in enumerate(column):
            shown = shown.convert("RGB").resize((_SIDE, _SIDE), PIL.Image.Resampling.NEAREST)
            sheet.paste(shown, (x * step, y * step))
    sheet.save(path)
