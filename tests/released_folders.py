"""Folders of released 4M files: recorded ones of the reference and small ones of our own."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fourm.interop.released import ReleasedConfig, released_modalities, save_released
from fourm.model.model import FourM

GOLDEN = Path(__file__).parent / "data" / "golden"
TINY = dict(
    domains_in=("caption", "t5_caption", "rgb@224", "tok_depth@224", "tok_dinov2_global"),
    domains_out=("caption", "t5_caption", "tok_depth@224", "tok_dinov2_global"),
    dim=32,
    encoder_depth=1,
    decoder_depth=2,
    num_heads=4,
    norm_bias=False,
    act_layer="SiLU",
    image_size=224,
    patch_size=16,
    gated_mlp=True,
    qkv_bias=False,
    proj_bias=False,
    mlp_bias=False,
)


def fresh(tmp_path, **changes) -> tuple[FourM, Path]:
    """A released folder with random weights, and its model."""
    config = ReleasedConfig(**{**TINY, **changes})
    torch.manual_seed(0)
    model = FourM(config.model(), released_modalities(config, "test"))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        if name.endswith("learned"):
            parameter.data[0] = 0.0
    rows = [m.input for m in model.modalities]
    model.modality.data[~torch.tensor(rows)] = 0.0
    if model.decoder_modality is not None:
        model.decoder_modality.data[~torch.tensor([m.output for m in model.modalities])] = 0.0
    save_released(model, tmp_path / "released")
    return model, tmp_path / "released"


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def rewrite_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
