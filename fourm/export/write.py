"""An export as a folder: a file a part, and ``export.json``, which says all that a program needs
that has none of this package.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import fourm
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.export.parts import (
    Part,
    Wanted,
    decoder_name,
    encoder_name,
    head_name,
)
from fourm.export.tokenizers import ValueForm, is_learned
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID, Modality
from fourm.sampling.gaps import forbidden_ids

NOTE, TEXT_FILE = "export.json", "tokenizer.json"
_FORMAT = 1  # of export.json


class Format(Protocol):
    """How a traced part becomes a file."""

    suffix: str

    def write(self, program: ExportedProgram, part: Part, path: Path) -> None:
        """A new file."""
        ...


@dataclass(frozen=True)
class TorchFormat(Format):
    """``torch.export``: ``torch.export.load(path).module(check_guards=False)``."""

    suffix: str = "pt2"

    def write(self, program: ExportedProgram, part: Part, path: Path) -> None:
        torch.export.save(program, path)


@dataclass(frozen=True)
class OnnxFormat(Format):
    """ONNX, with weights inside; ``int8`` keeps those of products in 8 bits."""

    int8: bool = False
    suffix: str = "onnx"

    def __post_init__(self) -> None:
        """Raises ImportError where its libraries are not installed, before anything is traced."""
        for name in ("onnx", "onnxscript", *(["onnxruntime"] if self.int8 else [])):
            import_module(name)

    def write(self, program: ExportedProgram, part: Part, path: Path) -> None:
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[slot.name for slot in part.inputs],
            output_names=list(part.outputs),
        )
        assert made is not None
        made.save(path, external_data=False)
        if self.int8:
            from fourm.export.int8 import weights_in_8_bits

            weights_in_8_bits(path)


class _Positional(nn.Module):
    """A part whose inputs are told apart by their order."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)


def traced(part: Part) -> ExportedProgram:
    """A part as a graph of dynamic sizes. Raises UserError where it cannot be traced."""
    sizes = {
        n: Dim(n, min=0 if n == "past" else 1) for s in part.inputs for n in s.dynamic.values()
    }
    shapes = tuple({axis: sizes[n] for axis, n in s.dynamic.items()} for s in part.inputs)
    module = _Positional(part.module).eval().requires_grad_(False)
    try:
        with torch.no_grad():
            example = tuple(slot.example() for slot in part.inputs)
            return torch.export.export(module, example, dynamic_shapes=(shapes,))
    except Exception as error:  # of whatever part of torch meets what it cannot follow
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{part.name} cannot be exported, it is no fixed graph: {reason}") from None


def write_export(wanted: Wanted, parts: list[Part], format: Format, out: Path) -> list[Path]:
    """All parts, the text tokenizers of sequences, and the note that explains them. Raises OSError
    for a folder that cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = [_write(part, format, out) for part in parts]
    for m in {m.name: m for m in (*wanted.inputs, *wanted.targets)}.values():
        text = wanted.pipe.tokenizers_folder / (m.tokenizer or "") / TEXT_FILE
        if m.kind == "sequence" and text.is_file():
            shutil.copy(text, out / _text_name(m))
    write_json_atomic(out / NOTE, _note(wanted, parts, format))
    return [*paths, out / NOTE]


def _write(part: Part, format: Format, out: Path) -> Path:
    path = out / f"{part.name}.{format.suffix}"
    with _quiet():
        format.write(traced(part), part, path)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter tells its own authors."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _note(wanted: Wanted, parts: list[Part], format: Format) -> dict[str, Any]:
    files = {
        part.name: {
            "file": f"{part.name}.{format.suffix}",
            "inputs": {
                s.name: {"type": str(s.dtype).removeprefix("torch."), "shape": list(s.shape)}
                for s in part.inputs
            },
            "outputs": list(part.outputs),
            "modality": part.modality,
        }
        for part in parts
    }
    known = {part.name for part in parts}
    named = {m.name: m for m in (*wanted.inputs, *wanted.targets)}
    return {
        "format": _FORMAT,
        "fourm": fourm.__version__,
        "files": files,
        "ids": {"end": END_ID, "first_gap": FIRST_SENTINEL, "ask": -1},
        "modalities": {name: _described(wanted, m, known) for name, m in named.items()},
    }


def _described(wanted: Wanted, m: Modality, files: set[str]) -> dict[str, Any]:
    """What a program has to know of a modality."""
    found: dict[str, Any] = {
        "number": wanted.pipe.modalities.index(m.name),
        "kind": m.kind,
        "raw": {"type": m.raw.type_name, "pixels": m.raw.pixels},
        "most_tokens": m.num_tokens,
        "grid": m.grid,
        "num_ids": m.vocab_size,
        "patch_size": m.patch_size,
        "source": m.raw_name,
    }
    roles = {"head": head_name(m), "to_ids": encoder_name(m), "from_ids": decoder_name(m)}
    found |= {role: name for role, name in roles.items() if name in files}
    if m.kind == "sequence":
        last = SENTINEL_ID - 1 + wanted.pipe.num_sentinels[m.name]
        never = forbidden_ids(m.vocab_size).nonzero()[0].tolist()
        found |= {"text": _text_name(m), "never": never, "gaps": [FIRST_SENTINEL, last]}
    elif is_learned(m) or m.patch_size:
        form = ValueForm.of(m)
        found["values"] = {
            "num_classes": form.num_classes,
            "multiply": form.multiply,
            "add": form.add,
        }
    return found


def _text_name(m: Modality) -> str:
    return f"{m.tokenizer}.json"
