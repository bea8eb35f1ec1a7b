"""The released diffusion decoders' UNet as ``diffusers``' ``UNet2DModel``: same network, other
names.

The stored names are those of guided diffusion (2105.05233): ``input_blocks``, ``middle_block``,
``output_blocks``. Depth, widths and attention levels are read off the stored tensors, so any preset
loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from diffusers.models.unets.unet_2d import UNet2DModel

from fourm.errors import UserError

Shapes = dict[str, tuple[int, ...]]
_RESNET = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
]


@dataclass(frozen=True)
class Source:
    """Where a tensor of ours is stored; ``part`` of the three that a fused projection holds."""

    released: str
    part: int | None = None


def unet_names(shapes: Shapes, prefix: str) -> tuple[UNet2DModel, dict[str, Source]]:
    """The network that the stored tensors under ``prefix`` describe, and where each of its tensors
    is stored.

    Raises UserError if the tensors are not those of such a network.
    """
    stored = {
        name.removeprefix(prefix): shape
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }
    names: dict[str, Source] = {}

    def link(ours: str, released: str) -> None:
        for end in ("weight", "bias"):
            if f"{released}.{end}" in stored:
                names[f"{ours}.{end}"] = Source(f"{prefix}{released}.{end}")

    def resnet(ours: str, released: str) -> None:
        for theirs, local in _RESNET:
            link(f"{ours}.{local}", f"{released}.{theirs}")

    def attention(ours: str, released: str) -> None:
        link(f"{ours}.group_norm", f"{released}.norm")
        link(f"{ours}.to_out.0", f"{released}.proj_out")
        for part, local in enumerate(("to_q", "to_k", "to_v")):
            for end in ("weight", "bias"):
                names[f"{ours}.{local}.{end}"] = Source(f"{prefix}{released}.qkv.{end}", part)

    def has(name: str) -> bool:
        return any(key.startswith(name) for key in stored)

    count_in, count_out = _count(stored, "input_blocks"), _count(stored, "output_blocks")
    if not count_in or not count_out or "input_blocks.0.0.weight" not in stored:
        raise UserError(
            "the decoder's weights are not those of a patched UNet (input_blocks, middle_block,"
            " output_blocks)"
        )
    link("conv_in", "input_blocks.0.0")
    link("time_embedding.linear_1", "time_embed.0")
    link("time_embedding.linear_2", "time_embed.2")
    link("conv_norm_out", "out.0")
    link("conv_out", "out.2")
    level, place = 0, 0
    widths, attends, layers = [0], [False], [0]
    for i in range(1, count_in):
        if has(f"input_blocks.{i}.0.op"):
            link(f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{i}.0.op")
            level, place = level + 1, 0
            widths.append(0)
            attends.append(False)
            layers.append(0)
            continue
        resnet(f"down_blocks.{level}.resnets.{place}", f"input_blocks.{i}.0")
        widths[level] = stored[f"input_blocks.{i}.0.out_layers.3.weight"][0]
        if has(f"input_blocks.{i}.1.qkv"):
            attention(f"down_blocks.{level}.attentions.{place}", f"input_blocks.{i}.1")
            attends[level] = True
        place += 1
        layers[level] = place
    resnet("mid_block.resnets.0", "middle_block.0")
    attention("mid_block.attentions.0", "middle_block.1")
    resnet("mid_block.resnets.1", "middle_block.2")
    level, place = 0, 0
    for i in range(count_out):
        resnet(f"up_blocks.{level}.resnets.{place}", f"output_blocks.{i}.0")
        part = 1
        if has(f"output_blocks.{i}.1.qkv"):
            attention(f"up_blocks.{level}.attentions.{place}", f"output_blocks.{i}.1")
            part = 2
        place += 1
        if has(f"output_blocks.{i}.{part}.conv"):
            link(f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{i}.{part}.conv")
            level, place = level + 1, 0
    if len(set(layers)) != 1:
        raise UserError("the decoder's levels have different numbers of blocks")
    network = UNet2DModel(
        in_channels=stored["input_blocks.0.0.weight"][1],
        out_channels=stored["out.2.weight"][0],
        freq_shift=0,
        flip_sin_to_cos=True,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=tuple(widths),
        layers_per_block=layers[0],
        downsample_padding=1,
        norm_num_groups=32,
        norm_eps=1e-5,
        attention_head_dim=None,
    )
    return network, names


def _count(stored: Shapes, part: str) -> int:
    numbers = {int(m[1]) for name in stored if (m := re.match(rf"{part}\.(\d+)\.", name))}
    return len(numbers)
