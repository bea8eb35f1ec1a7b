"""Vectors, one or a list of them: float32 (L, C), as the network that made them gives them; on disk
of half precision where ``dtype`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fourm.config import ADDED
from fourm.data.npy import as_array, read_npy, read_npz, write_npy
from fourm.errors import UserError
from fourm.evaluation.metrics import feature_figures
from fourm.raw._precision import Precision, stored
from fourm.raw._protocol import NetworkForm, Raw


@dataclass(frozen=True, kw_only=True)
class Vectors(Raw, name="vectors"):
    """Vectors of ``channels`` numbers; they say nothing of places, so crops leave them alone."""

    channels: int = 0
    dtype: Precision = field(default="float32", metadata=ADDED)  # on disk and in columns

    extensions: ClassVar[tuple[str, ...]] = ("npy", "npz")
    placeless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise UserError("raw type vectors needs channels (numbers in a vector)")

    @property
    def num_channels(self) -> int:
        return self.channels

    def read(self, data: bytes, extension: str, native: bool = False) -> np.ndarray:
        array = _read_embedding(data) if extension == "npz" else read_npy(data)
        return stored(self.check(array), self.dtype)

    def write(self, value: Any) -> bytes:
        return write_npy(stored(self.check(value), self.dtype))

    def check(self, value: Any) -> np.ndarray:
        """A vector (C,) or a list of them (L, C) as float32 (L, C)."""
        array = as_array(value, "vectors")
        if (
            array.dtype.kind not in "fiu"
            or array.ndim not in (1, 2)
            or array.shape[-1] != self.channels
        ):
            raise UserError(
                f"vectors have shape {array.shape} and type {array.dtype}, expected numbers (...,"
                f" {self.channels})"
            )
        array = array.astype(np.float32).reshape(-1, self.channels)
        if not np.isfinite(array).all():
            raise UserError("vectors hold numbers that are not finite")
        return array

    def accept(self, value: Any) -> np.ndarray:
        return self.check(value)

    def network_form(self, patch_size: int) -> NetworkForm:
        return NetworkForm(channels=self.channels, features=True)

    def to_network(self, values: np.ndarray) -> np.ndarray:
        """One vector a sample: (B, 1, C) -> (B, C)."""
        return values.reshape(len(values), -1).astype(np.float32)

    def from_network(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output[:, None])

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        array = np.asarray(value, np.float32)
        return {"value": array, "length": np.linalg.norm(array, axis=-1)}

    def baseline(self, values: Sequence[Any]) -> np.ndarray | None:
        """The mean of single vectors; lists of several have none."""
        if {np.shape(value)[0] for value in values} != {1}:
            return None
        return np.asarray(np.stack(values).mean(0, dtype=np.float64)).astype(np.float32)

    def figures(
        self, predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, float]:
        return feature_figures(predicted, truth)


def num_vectors(data: bytes, extension: str) -> int:
    """How many vectors a file of one of the type's ``extensions`` holds, of any width. Raises
    UserError for a file that holds none.
    """
    array = _read_embedding(data) if extension == "npz" else read_npy(data)
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2):
        raise UserError(f"an array of shape {array.shape} and type {array.dtype} holds no vectors")
    return len(array) if array.ndim == 2 else 1


def _read_embedding(data: bytes) -> np.ndarray:
    """The rows of ``emb`` that ``mask_valid`` marks, from an npz file (T5 embeddings of 4M)."""
    arrays = read_npz(data, ("emb", "mask_valid"))
    if "emb" not in arrays:
        raise UserError("no readable embedding: the archive lacks the array 'emb'")
    rows, valid = arrays["emb"], arrays.get("mask_valid")
    if valid is None:
        return rows
    if valid.shape != rows.shape[:1] or valid.dtype.kind not in "biuf":
        raise UserError(f"mask_valid has shape {valid.shape} where emb has {rows.shape}")
    return rows[valid.astype(bool)]
