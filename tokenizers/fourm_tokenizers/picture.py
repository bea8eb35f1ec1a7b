"""The codec around a learned tokenizer: ordinary pictures, depth maps, normals, class maps, arrays
or vectors in and out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.config import from_mapping, to_mapping
from fourm.errors import UserError
from fourm.files.formats import FORMAT, check_format
from fourm.files.json_files import parse_mapping
from fourm.files.tensor_file import save_tensors
from fourm.files.weights import WEIGHTS_FILE, WeightFiles, fill
from fourm.modalities import Modality
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from fourm_tokenizers.quantizers import QuantizerConfig

CONFIG_FILE = "config.json"
_BATCH = 64  # pictures coded at once
# of all types of quantizers together, as releases 0.2.0 to 0.4.0 wrote them
_FLAT_SETTINGS = {
    "levels",
    "codebook_size",
    "code_dim",
    "num_codebooks",
    "decay",
    "commitment",
    "revive_below",
    "entropy",
}


def to_values(raw: np.ndarray, modality: Modality) -> Tensor:
    """Stacked raw values (B, ...) -> what the autoencoder takes: float (B, C, H, W) of about unit
    scale, class ids (B, H, W) or vectors (B, C).
    """
    values = modality.raw.to_network(raw)
    return torch.from_numpy(
        np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if values.ndim == 4 else values
    )


def from_values(output: Tensor, modality: Modality) -> list[Any]:
    """What the autoencoder gives (B, C, H, W) or (B, C) -> raw values."""
    channels_last = output.permute(0, 2, 3, 1) if output.ndim == 4 else output
    return modality.raw.from_network(channels_last.numpy())


class PictureCodec:
    """A trained tokenizer in a folder: ``config.json`` and ``model.safetensors``."""

    def __init__(self, folder: Path, modality: Modality) -> None:
        path = folder / CONFIG_FILE
        if not path.is_file():
            raise UserError(f"no tokenizer in {folder}: {CONFIG_FILE} is missing")
        self.model = load_autoencoder(folder)
        config = self.model.config
        pixels = modality.raw.pixels
        if config.codebook_size != modality.vocab_size or config.image_size != pixels:
            raise UserError(
                f"{folder} codes {config.image_size} px into {config.codebook_size} ids,"
                f" modality {modality.name} declares {pixels} px and"
                f" {modality.vocab_size} ids"
            )
        self.modality = modality
        self.codebook_size = config.codebook_size
        self.fingerprint = fingerprint(path, folder / WEIGHTS_FILE)

    @torch.inference_mode()
    def encode(self, raw: Sequence[Any]) -> list[np.ndarray]:
        check = self.modality.raw.check
        result: list[np.ndarray] = []
        for start in range(0, len(raw), _BATCH):
            stacked = np.stack([check(value) for value in raw[start : start + _BATCH]])
            result += list(self.model.encode(to_values(stacked, self.modality)).numpy())
        return result

    @torch.inference_mode()
    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        result: list[Any] = []
        for start in range(0, len(ids), _BATCH):
            checked = [self._checked(given) for given in ids[start : start + _BATCH]]
            stacked = torch.from_numpy(np.stack(checked))
            result += from_values(self.model.decode(stacked), self.modality)
        return result

    def _checked(self, given: np.ndarray) -> np.ndarray:
        """Ids (n,) of one sample. Raises UserError for another number of them, or other ids."""
        ids, m = np.asarray(given).reshape(-1).astype(np.int64), self.modality
        if (
            not len(ids)
            or len(ids) > m.num_tokens
            or (m.kind == "grid" and len(ids) < m.num_tokens)
        ):
            raise UserError(f"{m.name} has {m.num_tokens} tokens, these are {len(ids)} ids")
        if ids.min() < 0 or ids.max() >= self.codebook_size:
            raise UserError(f"ids of {m.name} are in 0..{self.codebook_size - 1}")
        return ids

    @torch.inference_mode()
    def decode_mean(self, probability: Sequence[np.ndarray]) -> list[Any]:
        result: list[Any] = []
        for start in range(0, len(probability), _BATCH):
            stacked = torch.from_numpy(np.stack(probability[start : start + _BATCH]))
            result += from_values(self.model.decode_mean(stacked), self.modality)
        return result


def load_autoencoder(folder: Path) -> Autoencoder:
    """A trained tokenizer for coding and decoding; what only its training needed is left out."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"no tokenizer in {folder}: {CONFIG_FILE} is missing")
    described = parse_mapping(path.read_bytes(), path)
    if check_format(described, path) == 0:
        described = _of_earlier_release(described, path)
    described.pop("format", None)
    model = Autoencoder(from_mapping(AutoencoderConfig, described, str(path)))
    files = WeightFiles.open(folder)
    prefix = "tokenizer." if any(name.startswith("tokenizer.") for name in files) else ""
    for name, tensor in model.state_dict().items():
        files.need(prefix + name, tuple(tensor.shape))
    fill(model, lambda name: files.read(prefix + name))
    return model.eval().requires_grad_(False)


def _of_earlier_release(described: dict[str, Any], path: Path) -> dict[str, Any]:
    """A description without a format number, as it would be written today.

    Releases 0.2.0 to 0.4.0 wrote the settings of every type of quantizer beside each other; those
    of other types than the tokenizer's own said nothing. Raises UserError for release 0.1.0.
    """
    quantizer = described.get("quantizer")
    if quantizer is None and "levels" in described:
        raise UserError(
            f"{path} is of release 0.1.0, whose tokenizers are not read: train it again"
        )
    if not isinstance(quantizer, dict) or not isinstance(quantizer.get("type"), str):
        return described  # no file of ours: the config says what is wrong
    own = {f.name for f in dataclasses.fields(QuantizerConfig.find(quantizer["type"]))}
    foreign = _FLAT_SETTINGS - own
    kept = {name: value for name, value in quantizer.items() if name not in foreign}
    return {**described, "quantizer": kept}


def write_description(config: AutoencoderConfig, folder: Path) -> None:
    """``config.json`` of a tokenizer folder, without its weights."""
    described = {"format": FORMAT, **to_mapping(config)}
    (folder / CONFIG_FILE).write_text(json.dumps(described, indent=1) + "\n")


def save_autoencoder(model: Autoencoder, folder: str | Path) -> None:
    """Write a tokenizer folder that ``PictureCodec`` opens."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_description(model.config, folder)
    save_tensors(folder / WEIGHTS_FILE, model.state_dict())


def fingerprint(*paths: Path) -> str:
    """Short hash of files: what token shards say about who made them."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
