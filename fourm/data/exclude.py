"""Samples that are left out by name: those that ``fourm inspect --leaks`` found in held-out data,
or any others.

They are taken away where columns are joined, so that the order is one of what is left: a function
of (seed, draw) as ever, in which nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from fourm.data.crops import sample_key
from fourm.data.join import key_in
from fourm.data.keys import key_of, keys_of
from fourm.errors import UserError


@dataclass(frozen=True)
class Exclusion:
    """Samples that are left out."""

    # a name as it was given -> those of the samples that it stands for
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def read(path: str, num_crops: int, by_key: bool) -> Exclusion:
        """Of a file of names ``<shard>/<key>``, one a line.

        Args:
            num_crops: of a picture, all of which its name stands for.
            by_key: samples are known by their key alone, whatever the shard.

        Raises UserError where there is no such file.
        """
        try:
            given = dict.fromkeys(line for line in Path(path).read_text().splitlines() if line)
        except (OSError, UnicodeDecodeError) as error:
            told = error.strerror if isinstance(error, OSError) else "it is no text"
            raise UserError(
                f"exclude: {path} cannot be read ({told}); it is a file of names <shard>/<key>, one"
                " a line, as `fourm inspect --leaks` writes"
            ) from None
        return Exclusion(
            {
                name: tuple(
                    sample_key(key_in(name) or name if by_key else name, crop)
                    for crop in range(num_crops)
                )
                for name in given
            }
        )

    @cached_property
    def _first_words(self) -> np.ndarray:
        """The first 64 bits of all samples' hashes."""
        return keys_of(name for samples in self.names.values() for name in samples)[:, 0]

    @cached_property
    def _hashes(self) -> set[bytes]:
        return _hashes_of(name for samples in self.names.values() for name in samples)

    def among(self, keys: np.ndarray) -> np.ndarray:
        """Which of the hashes (n, 2) are of samples that are left out: (n,) bool."""
        found = np.isin(keys[:, 0], self._first_words)
        found[found] = [key.tobytes() in self._hashes for key in keys[found]]
        return found

    def unknown(self, met: set[bytes]) -> list[str]:
        """The names of which no sample is among the hashes that were met."""
        return [name for name, samples in self.names.items() if not met & _hashes_of(samples)]


def _hashes_of(names: Iterable[str]) -> set[bytes]:
    return {key_of(name.encode()) for name in names}
