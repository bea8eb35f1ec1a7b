"""Released tokenizers as codecs: ordinary pictures, class maps, depth, features in and out;
normalisation is inside.

Pictures and normals go in as [-1, 1], class maps as ids (0 = no class), features and vectors as
their extractor gives them. Depth is made relative as the tokenizers were trained: less its mean and
over its deviation, both without the nearest and farthest tenth; so what comes back is relative
depth.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.errors import UserError
from fourm.files.weights import WeightFiles
from fourm.modalities import Modality
from fourm.raw.array import Array
from fourm.raw.depth import Depth
from fourm.raw.image import Image
from fourm.raw.normal import Normal
from fourm.raw.vectors import Vectors
from fourm_tokenizers.picture import fingerprint
from fourm_tokenizers.released.divae import DiVAE
from fourm_tokenizers.released.load import CONFIG_FILE, load_tokenizer

_BATCH = 16
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ReleasedCodec:
    """One released tokenizer folder, for one modality."""

    def __init__(self, folder: Path, modality: Modality) -> None:
        self.model = load_tokenizer(folder)
        self.modality = modality
        self.codebook_size = self.model.config.codebook_size
        if self.codebook_size != modality.vocab_size:
            raise UserError(
                f"{folder} has {self.codebook_size} codes, modality {modality.name} declares"
                f" {modality.vocab_size}"
            )
        files = WeightFiles.open(folder)
        paths = sorted({folder / CONFIG_FILE, *files.files.values()})
        self.fingerprint = fingerprint(*(path for path in paths if path.is_file()))
        self.steps = 25  # of denoising, for tokenizers that decode by diffusion

    @torch.inference_mode()
    def encode(self, raw: Sequence[Any]) -> list[np.ndarray]:
        result: list[np.ndarray] = []
        for start in range(0, len(raw), _BATCH):
            ids = self.model.encode(self._prepared(raw[start : start + _BATCH]))
            result += list(ids.flatten(1).numpy())
        return result

    @torch.inference_mode()
    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        result: list[Any] = []
        for start in range(0, len(ids), _BATCH):
            stacked = torch.from_numpy(
                np.stack([np.asarray(i, np.int64).reshape(-1) for i in ids[start : start + _BATCH]])
            )
            maps = stacked.reshape(len(stacked), *self._layout())
            if isinstance(self.model, DiVAE):
                output = self.model.decode(
                    maps, steps=self.steps, seeds=[zlib.crc32(i.numpy().tobytes()) for i in maps]
                )
            else:
                output = self.model.decode(maps)
            result += self._raw(output)
        return result

    def _layout(self) -> tuple[int, ...]:
        m = self.modality
        if m.grid is not None:
            return m.grid
        return (
            (m.num_tokens, 1, 1)
            if self.model.config.quant_type == "memcodes"
            else (m.num_tokens, 1)
        )

    @property
    def _is_feature_map(self) -> bool:
        """A vector at each token, rather than a picture."""
        raw = self.modality.raw
        return isinstance(raw, Array) and self.modality.grid == (raw.size, raw.size)

    def _prepared(self, values: Sequence[Any]) -> Tensor:
        raw = self.modality.raw
        if isinstance(raw, Vectors):  # of several, the first
            first = np.stack([raw.check(value)[0] for value in values])
            return torch.from_numpy(first)[:, :, None, None]
        checked = np.stack([raw.check(value) for value in values])
        if isinstance(raw, Depth):
            prepared = relative_depth(checked)[..., None]
        elif isinstance(raw, Image):
            shares = checked.astype(np.float32) / 255.0
            mean, std = np.array(_IMAGENET_MEAN, np.float32), np.array(_IMAGENET_STD, np.float32)
            undo = self.model.config.undo_std
            prepared = (shares - mean) / std if undo else shares * 2.0 - 1.0
        elif self._is_feature_map:
            prepared = checked
        else:
            prepared = raw.to_network(checked)
        if prepared.ndim == 3:  # class ids
            return torch.from_numpy(prepared)
        maps = torch.from_numpy(
            np.ascontiguousarray(prepared.transpose(0, 3, 1, 2), dtype=np.float32)
        )
        channels = self.model.config.n_channels
        return maps.expand(-1, channels, -1, -1) if maps.shape[1] == 1 else maps

    def _raw(self, output: Tensor) -> list[Any]:
        raw = self.modality.raw
        if isinstance(raw, Vectors):
            return raw.from_network(output.flatten(1).numpy())
        values = output.permute(0, 2, 3, 1).numpy()
        if isinstance(raw, Depth):
            return list(values[..., 0])
        if isinstance(raw, Normal):
            length = np.linalg.norm(values, axis=-1, keepdims=True)
            unit = np.where(length > 1e-6, values / np.maximum(length, 1e-6), 0.0)
            return list(unit.astype(np.float32))
        if self._is_feature_map:
            return list(values)
        if isinstance(raw, Array):  # drawn in several equal channels
            values = values.mean(-1, keepdims=True)
        return raw.from_network(values)


def relative_depth(depth: np.ndarray) -> np.ndarray:
    """Depth maps (B, H, W) -> (depth - mean) / deviation, where both leave out the smallest and the
    largest tenth of the values.
    """
    flat = np.sort(depth.reshape(len(depth), -1).astype(np.float64), axis=1)
    tenth = int(0.1 * flat.shape[1])
    middle = flat[:, tenth : flat.shape[1] - tenth]
    mean, deviation = middle.mean(1), np.sqrt(middle.var(1) + 1e-6)
    return ((depth - mean[:, None, None]) / deviation[:, None, None]).astype(np.float32)
