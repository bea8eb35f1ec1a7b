"""A model's encoder as a source of features, from what was typed."""

from __future__ import annotations

from pathlib import Path

from fourm.errors import UserError
from fourm.evaluation.opened import device, model_digest, model_folder
from fourm.features.sources import EncoderSource, chosen_inputs
from fourm.pipeline.pipeline import AnyToAnyPipeline


def open_pipeline(model: str | Path, out: Path) -> tuple[AnyToAnyPipeline, str]:
    """A model folder, hub id or project, and what tells it from others."""
    folder = model_folder(model)
    pipe = AnyToAnyPipeline.from_pretrained(folder, device=device())
    return pipe, model_digest(folder, out)


def encoder_source(
    model: str | Path, inputs: str, out: Path, layers: str = "-1", pool: str = "mean"
) -> EncoderSource:
    """The encoder of a model, given ``inputs`` such as ``rgb,caption``."""
    pipe, digest = open_pipeline(model, out)
    chosen = chosen_inputs(pipe.modalities, inputs)
    return EncoderSource(pipe, digest, chosen, whole_numbers(layers, "--layers"), pool)


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """``30,100`` as numbers."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"{name} are whole numbers divided by commas, not {text!r}") from None
