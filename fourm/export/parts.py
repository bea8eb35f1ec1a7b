"""The parts of a model that are exported, each with the names and sizes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fourm.errors import UserError, nearest
from fourm.export.backbone import Backbone, PictureEncoder
from fourm.export.networks import OutputHead, PaddedDecoder, PaddedEncoder
from fourm.export.tokenizers import FromIds, ToIds, ValueForm, is_learned, network_of
from fourm.modalities import Modality, ModalitySet
from fourm.pipeline.inputs import reads_itself
from fourm.pipeline.pipeline import AnyToAnyPipeline

# dynamic sizes, and those of the tensors that a part is traced with: all different
SIZES = {"batch": 3, "rows": 5, "context": 7, "past": 2, "new": 4}
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Slot:
    """An input: its shape's names are dynamic sizes."""

    name: str
    dtype: torch.dtype
    shape: Shape

    def example(self) -> Tensor:
        """A tensor to trace with."""
        sizes = [n if isinstance(n, int) else SIZES[n] for n in self.shape]
        return torch.zeros(sizes, dtype=self.dtype)

    @property
    def dynamic(self) -> dict[int, str]:
        """Axis -> name of its size."""
        return {axis: n for axis, n in enumerate(self.shape) if isinstance(n, str)}


@dataclass(frozen=True)
class Part:
    """A module to export."""

    name: str  # of its file
    module: nn.Module
    inputs: tuple[Slot, ...]
    outputs: tuple[str, ...]
    modality: str = ""  # whose values or ids it takes or gives


@dataclass(frozen=True)
class Wanted:
    """Which modalities are given and which are generated."""

    pipe: AnyToAnyPipeline
    inputs: tuple[Modality, ...]
    targets: tuple[Modality, ...]

    @staticmethod
    def of(pipe: AnyToAnyPipeline, inputs: str | None, targets: str | None) -> Wanted:
        """From ``rgb,caption`` each, None = all. Raises UserError for an unknown modality, and for
        one that cannot be given or generated.
        """
        every = pipe.modalities
        return Wanted(
            pipe,
            _chosen(every, inputs, every.inputs, "input"),
            _chosen(every, targets, every.outputs, "target"),
        )


def _chosen(
    modalities: ModalitySet, names: str | None, allowed: list[Modality], role: str
) -> tuple[Modality, ...]:
    if names is None:
        return tuple(allowed)
    found = [modalities[name.strip()] for name in names.split(",") if name.strip()]
    for m in found:
        if m not in allowed:
            those = ", ".join(other.name for other in allowed)
            raise UserError(f"{m.name} is no {role} of this model; {role}s are {those}")
    if not found:
        raise UserError(f"no {role}s: name at least one modality, e.g. --{role}s rgb,caption")
    # what the model reads without a tokenizer is given so, as in a pipeline
    direct = {reads_itself(m, modalities) for m in found} if role == "input" else set()
    return tuple(m for m in modalities if m in found or m in direct)


def encoder_parts(wanted: Wanted) -> list[Part]:
    """The encoder of any of the inputs."""
    continuous = tuple(m for m in wanted.inputs if m.kind == "continuous")
    slots = _rows("rows")
    for m in continuous:
        slots.append(Slot(m.name, torch.float32, ("batch", m.num_tokens, m.width)))
        slots.append(Slot(f"{m.name}_mask", torch.bool, ("batch", m.num_tokens)))
    module = PaddedEncoder(wanted.pipe.model, continuous)
    return [Part("encoder", module, tuple(slots), ("features", "memory", "memory_mask"))]


def decoder_parts(wanted: Wanted) -> list[Part]:
    """The decoder step, and a head for each vocabulary of the targets."""
    model = wanted.pipe.model
    c = model.config
    layers: Shape = (c.decoder_depth, 2, "batch", c.num_heads)
    head_dim = c.dim // c.num_heads
    slots = (
        Slot("memory", torch.float32, (*layers, "context", head_dim)),
        Slot("memory_mask", torch.bool, ("batch", "context")),
        Slot("past", torch.float32, (*layers, "past", head_dim)),
        *_rows("new"),
    )
    heads = {head_name(m): m for m in wanted.targets}
    rows = (Slot("decoded", torch.float32, ("batch", "new", c.dim)),)
    return [
        Part("decoder", PaddedDecoder(model), slots, ("decoded", "past_and_new")),
        *(Part(name, OutputHead(model, m.name), rows, ("logits",)) for name, m in heads.items()),
    ]


def tokenizer_parts(wanted: Wanted) -> list[Part]:
    """The learned tokenizers: of inputs their encoders, of targets their decoders."""
    found = [
        Part(encoder_name(m), ToIds(network_of(wanted.pipe, m)), (_values(m),), ("ids",), m.name)
        for m in wanted.inputs
        if is_learned(m)
    ]
    for m in wanted.targets:
        if is_learned(m):
            ids = Slot("ids", torch.int64, ("batch", m.num_tokens))
            network = network_of(wanted.pipe, m)
            found.append(Part(decoder_name(m), FromIds(network), (ids,), ("values",), m.name))
    return found


def backbone_parts(wanted: Wanted) -> list[Part]:
    """The encoder of one picture-like modality, from its pixels. Raises UserError for several."""
    if len({m.raw_name for m in wanted.inputs}) != 1:
        raise UserError("a backbone has one input: say which by --inputs, e.g. --inputs rgb")
    backbone = Backbone(wanted.pipe, wanted.inputs[0].name)
    values = (_values(backbone.modality),)
    outputs = ("features", "pooled", "memory", "memory_mask")
    return [Part("backbone", PictureEncoder(backbone), values, outputs, backbone.modality.name)]


PARTS: dict[str, Callable[[Wanted], list[Part]]] = {
    "encoder": encoder_parts,
    "decoder": decoder_parts,
    "tokenizers": tokenizer_parts,
    "backbone": backbone_parts,
}


def parts_of(wanted: Wanted, what: Sequence[str]) -> list[Part]:
    """All parts of these kinds. Raises UserError for an unknown kind."""
    for kind in what:
        if kind not in PARTS:
            known = ", ".join(PARTS)
            raise UserError(f"unknown part {kind!r}: parts are {known}{nearest(kind, PARTS)}")
    found = [part for kind in what for part in PARTS[kind](wanted)]
    if not found:
        raise UserError(f"nothing to export: --what is some of {', '.join(PARTS)}")
    return found


def head_name(m: Modality) -> str:
    """The file of a modality's output head."""
    return f"head-{m.vocab or m.name}"


def encoder_name(m: Modality) -> str:
    """The file that makes ids of a modality's values."""
    return f"{m.name}-to-ids"


def decoder_name(m: Modality) -> str:
    """The file that makes values of a modality's ids."""
    return f"{m.name}-from-ids"


def _rows(length: str) -> list[Slot]:
    shape: Shape = ("batch", length)
    names = ("modality", "position", "token")
    return [Slot(name, torch.int64, shape) for name in names] + [Slot("mask", torch.bool, shape)]


def _values(m: Modality) -> Slot:
    form = ValueForm.of(m)
    dtype = torch.int64 if form.num_classes else torch.float32
    return Slot("values", dtype, ("batch", *form.shape))
