"""The released diffusion decoders' UNet as ``diffusers``' ``UNet2DModel``: same network, other
names.

The stored names are those of guided diffusion (2105.05233): ``input_blocks``, ``middle_block``,
``output_blocks``. Depth, widths and attention levels are read off the stored tensors, so any preset
loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

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


@dataclass
class _Links:
    """Where tensors of ours are stored, gathered part by part."""

    stored: Shapes
    prefix: str
    names: dict[str, Source] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """True if some tensor's stored name begins so."""
        return any(key.startswith(name) for key in self.stored)

    def link(self, ours: str, released: str) -> None:
        """Weight and bias of a layer."""
        for end in ("weight", "bias"):
            if f"{released}.{end}" in self.stored:
                self.names[f"{ours}.{end}"] = Source(f"{self.prefix}{released}.{end}")

    def resnet(self, ours: str, released: str) -> None:
        for theirs, local in _RESNET:
            self.link(f"{ours}.{local}", f"{released}.{theirs}")

    def attention(self, ours: str, released: str) -> None:
        """Query, key and value are stored as one weight."""
        self.link(f"{ours}.group_norm", f"{released}.norm")
        self.link(f"{ours}.to_out.0", f"{released}.proj_out")
        for part, local in enumerate(("to_q", "to_k", "to_v")):
            for end in ("weight", "bias"):
                whole = f"{self.prefix}{released}.qkv.{end}"
                self.names[f"{ours}.{local}.{end}"] = Source(whole, part)


@dataclass
class _Level:
    """One resolution of the way down."""

    width: int = 0
    attends: bool = False
    layers: int = 0


def unet_names(shapes: Shapes, prefix: str) -> tuple[UNet2DModel, dict[str, Source]]:
    """The network that the stored tensors under ``prefix`` describe, and where each of its tensors
    is stored.

    Raises UserError if the tensors are not those of such a network.
    """
    under = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
    stored = {name.removeprefix(prefix): shape for name, shape in under.items()}
    if not all(_count(stored, part) for part in ("input_blocks", "output_blocks")) or (
        "input_blocks.0.0.weight" not in stored
    ):
        raise UserError(
            "the decoder's weights are not those of a patched UNet (input_blocks, middle_block,"
            " output_blocks)"
        )
    links = _Links(stored, prefix)
    links.link("conv_in", "input_blocks.0.0")
    links.link("time_embedding.linear_1", "time_embed.0")
    links.link("time_embedding.linear_2", "time_embed.2")
    links.link("conv_norm_out", "out.0")
    links.link("conv_out", "out.2")
    levels = _way_down(links)
    links.resnet("mid_block.resnets.0", "middle_block.0")
    links.attention("mid_block.attentions.0", "middle_block.1")
    links.resnet("mid_block.resnets.1", "middle_block.2")
    _way_up(links)
    if len({level.layers for level in levels}) != 1:
        raise UserError("the decoder's levels have different numbers of blocks")
    down = ["AttnDownBlock2D" if level.attends else "DownBlock2D" for level in levels]
    up = ["AttnUpBlock2D" if level.attends else "UpBlock2D" for level in reversed(levels)]
    network = UNet2DModel(
        in_channels=stored["input_blocks.0.0.weight"][1],
        out_channels=stored["out.2.weight"][0],
        freq_shift=0,
        flip_sin_to_cos=True,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=tuple(level.width for level in levels),
        layers_per_block=levels[0].layers,
        downsample_padding=1,
        norm_num_groups=32,
        norm_eps=1e-5,
        attention_head_dim=None,
    )
    return network, links.names


def _way_down(links: _Links) -> list[_Level]:
    levels = [_Level()]
    for i in range(1, _count(links.stored, "input_blocks")):
        at, level = f"down_blocks.{len(levels) - 1}", levels[-1]
        if links.has(f"input_blocks.{i}.0.op"):
            links.link(f"{at}.downsamplers.0.conv", f"input_blocks.{i}.0.op")
            levels.append(_Level())
            continue
        links.resnet(f"{at}.resnets.{level.layers}", f"input_blocks.{i}.0")
        level.width = links.stored[f"input_blocks.{i}.0.out_layers.3.weight"][0]
        if links.has(f"input_blocks.{i}.1.qkv"):
            links.attention(f"{at}.attentions.{level.layers}", f"input_blocks.{i}.1")
            level.attends = True
        level.layers += 1
    return levels


def _way_up(links: _Links) -> None:
    level, place = 0, 0
    for i in range(_count(links.stored, "output_blocks")):
        links.resnet(f"up_blocks.{level}.resnets.{place}", f"output_blocks.{i}.0")
        after = 1  # what comes behind the resnet, and maybe behind attention
        if links.has(f"output_blocks.{i}.1.qkv"):
            links.attention(f"up_blocks.{level}.attentions.{place}", f"output_blocks.{i}.1")
            after = 2
        place += 1
        upsampler = f"output_blocks.{i}.{after}.conv"
        if links.has(upsampler):
            links.link(f"up_blocks.{level}.upsamplers.0.conv", upsampler)
            level, place = level + 1, 0


def _count(stored: Shapes, part: str) -> int:
    numbers = {int(m[1]) for name in stored if (m := re.match(rf"{part}\.(\d+)\.", name))}
    return len(numbers)
