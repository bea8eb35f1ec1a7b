"""Reading a released tokenizer folder: its settings, and its weights under our names."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from fourm.errors import UserError
from fourm.files.weights import WeightFiles, fill
from fourm_tokenizers.released.config import DiVAEConfig, VQVAEConfig, read_config
from fourm_tokenizers.released.divae import DiVAE
from fourm_tokenizers.released.unet import Source, unet_names
from fourm_tokenizers.released.vqvae import VQVAE

CONFIG_FILE = "config.json"
_RENAMED = [
    (r"^quant_conv\.", "quant_proj."),  # older files
    (r"^post_quant_conv\.", "post_quant_proj."),
    (r"\.norm1\.", ".norm_self."),
    (r"\.norm2\.", ".norm_mlp."),
    (r"\.attn\.", ".self_attention."),
    (r"(blocks\.\d+\.mlp)\.fc1\.", r"\1.fc_in."),
    (r"(blocks\.\d+\.mlp)\.fc2\.", r"\1.fc_out."),
    (r"^quantize\._codebook\.embed$", "quantize.embed"),
    (r"^quantize\.codes$", "quantize.codebooks"),
    (r"^quantize\.(to_[kv])\.weight$", r"quantize.\1"),
]
_TRAINING_ONLY = re.compile(
    r"^quantize\._codebook\.(initted|cluster_size|embed_avg)$|^(vq|perceptual)_?loss|^loss_fn\."
)


def load_tokenizer(folder: str | Path, dtype: torch.dtype = torch.float32) -> VQVAE | DiVAE:
    """Open a released tokenizer for coding and decoding.

    Raises UserError that names the file and what is wrong.
    """
    folder = Path(folder)
    files = WeightFiles.open(folder)
    config = _read_config(folder, files)
    kept = [name for name in files if not _TRAINING_ONLY.search(name)]
    if isinstance(config, DiVAEConfig):
        if config.dec_type.startswith("uvit"):
            raise UserError(
                f"{folder}: decoder {config.dec_type!r} (UViT) is not supported; its stored names"
                " are not known"
            )
        unet, sources = unet_names(files.shapes, "decoder.")
        sources = {f"decoder.unet.{name}": source for name, source in sources.items()}
        sources |= {
            _our_name(name): Source(name) for name in kept if not name.startswith("decoder.")
        }
        model: VQVAE | DiVAE = DiVAE(config, unet)
    else:
        sources = {_our_name(name): Source(name) for name in kept}
        model = VQVAE(config)
    expected = dict(model.state_dict())
    for name, tensor in expected.items():
        if name not in sources or sources[name].released not in files:
            raise UserError(
                f"{files.where} lacks the weight {name!r}: it does not fit its {CONFIG_FILE}"
            )
        source = sources[name]
        stored = files.shapes[source.released]
        wanted = (
            tuple(tensor.shape) if source.part is None else (3 * tensor.shape[0], *tensor.shape[1:])
        )
        if _squeezed(stored) != _squeezed(wanted):
            raise UserError(
                f"{files.where}: {source.released!r} has shape {list(stored)}, its {CONFIG_FILE}"
                f" asks for {list(wanted)}"
            )
    extra = sorted(set(kept) - {sources[name].released for name in expected})
    if extra:
        raise UserError(f"{files.where} holds the unknown weight {extra[0]!r}")

    def value(name: str) -> Tensor:
        source = sources[name]
        stored = files.read(source.released).to(dtype)
        if source.part is not None:
            stored = stored.chunk(3)[source.part]
        return stored.reshape(expected[name].shape)

    fill(model, value)
    return model.eval().requires_grad_(False)


def _read_config(folder: Path, files: WeightFiles) -> VQVAEConfig | DiVAEConfig:
    path = folder / CONFIG_FILE
    if path.is_file():
        try:
            described: Any = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON: {error}") from None
        where = str(path)
    else:
        known = {
            f.name for f in (*dataclasses.fields(VQVAEConfig), *dataclasses.fields(DiVAEConfig))
        }
        described = {k: yaml.safe_load(v) for k, v in files.metadata.items() if k in known}
        where = f"the header of {files.where}"
    if not isinstance(described, dict) or not described:
        raise UserError(f"{where} does not describe a tokenizer")
    return read_config(described, where)


def _our_name(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes other than 1: a code table is stored with or without a leading axis."""
    return tuple(s for s in shape if s != 1)
